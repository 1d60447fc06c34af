"""Regulariser of the explainability mask: explain as much as possible. SfM-Learner, arXiv:1704.07813."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from trainer.geometry.scene import Pictures, Scene
from trainer.losses import LOSSES

_WORST = 100.0  # of one pixel, whose mask is 0


@LOSSES.register("disp_mask")
class MaskRegulariser(nn.Module):
    """Binary cross-entropy of the mask against ones, without which a mask of zeros would be best."""

    source: ClassVar[str] = "SfM-Learner, arXiv:1704.07813"
    needs: frozenset[str] = frozenset({"explainability"})
    on_twin = False
    on_views = True

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean over scales, each at its own resolution. Raises ValueError without a mask."""
        if scene.mask is None:
            raise ValueError("disp_mask: no mask was predicted, set net.depth.mask_name: explainability")
        return torch.stack([cross_entropy_with_ones(mask) for mask in scene.mask.values()]).mean(), {}


def cross_entropy_with_ones(mask: Tensor) -> Tensor:
    """Return the mean of -ln(mask), at most 100 per pixel; mask in [0, 1], any shape. At 0 the gradient is 0.

    NaN stays NaN (`F.binary_cross_entropy` would stop the process on a GPU).
    """
    dead = mask < torch.finfo(mask.dtype).tiny
    surprise = -mask.masked_fill(dead, 1.0).log()
    return surprise.clamp_max(_WORST).masked_fill(dead, _WORST).mean()
