"""Occlusion: of two explanations of a hidden region prefer the farther one. DVSO, arXiv:1807.02570."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from trainer.geometry.scene import Pictures, Scene
from trainer.losses import LOSSES


@LOSSES.register("disp_occ")
class OcclusionRegulariser(nn.Module):
    """Mean sigmoid disparity, which moves pixels that no support shows to the background.

    Args:
        invert: prefer near to far.
    """

    source: ClassVar[str] = "DVSO, arXiv:1807.02570"
    needs: frozenset[str] = frozenset()
    on_twin = False  # `forward` adds both views
    on_views = True

    def __init__(self, invert: bool = False):
        super().__init__()
        self.sign = -1 if invert else 1

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean over scales, each at its own resolution, summed over target and virtual stereo view."""
        total = scene.target.new_zeros(())
        for view in scene.views:
            total = total + torch.stack([view.disp[scale].mean() for scale in view.scales]).mean()
        return self.sign * total, {}
