"""Depth regression: depth should be near a proxy, such as the result of stereo matching.

Kuznietsov et al., arXiv:1702.02706; Depth Hints, arXiv:1909.09051 (only where the proxy explains the images better);
inverse depth as in arXiv:2307.10713.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainer.geometry import inverse_depth, valid_depth
from trainer.geometry.precision import full_precision
from trainer.geometry.scene import Pictures, Scene
from trainer.losses import LOSSES
from trainer.losses._regression import RegressionName, criterion
from trainer.losses.reconstruction import Reconstruction


@LOSSES.register("depth_regr")
class DepthRegression(nn.Module):
    """Distance between the depth of every scale and the depth hints, at pixels that have one.

    Args:
        loss_name: how two depths are compared; berhu: linear up to a fifth of the largest difference, then square.
        use_automask: only where the supports, warped with the hint, look more like the target than warped with the
            prediction. Compared as `img_recon` does, with its loss_name and use_min but without its mask.
        invert: compare inverse depths.
    """

    source: ClassVar[str] = "Kuznietsov et al., arXiv:1702.02706; Depth Hints, arXiv:1909.09051; arXiv:2307.10713"
    needs: frozenset[str] = frozenset({"hints"})
    on_twin = False
    mixes_items = True  # the mean is over all pixels with hints in the batch

    def __init__(self, loss_name: RegressionName = "berhu", use_automask: bool = False, invert: bool = False):
        super().__init__()
        self.distance = criterion(loss_name)
        self.use_automask, self.invert = use_automask, invert
        self.needs = self.needs_with({"use_automask": use_automask})
        self.photometric: Reconstruction | None = None  # img_recon, set by the objective

    @classmethod
    def needs_with(cls, kwargs: Mapping[str, Any]) -> frozenset[str]:
        return cls.needs | ({"supports", "img_recon"} if kwargs.get("use_automask") else set())

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean over valid pixels of all scales (0 without any), and a picture of those of scale 0.

        Raises ValueError when the scene has no hints, or `use_automask` has no photometric error.
        """
        if scene.depth_hints is None:
            raise ValueError("depth_regr: this scene has no depth hints, set dataset.use_hints: true")
        hints = full_precision(scene.depth_hints).detach()
        known = valid_depth(hints)
        if self.use_automask:
            if self.photometric is None:
                raise ValueError("use_automask needs the photometric error of img_recon: add loss.img_recon")
            by_hint, errors = self.photometric.compared(scene, torch.where(known, hints, 0.0), scene.scales)
            valid = [known & (error > by_hint) for error in errors]
        else:
            valid = [known for _ in scene.scales]
        depth = torch.cat([scene.depth(scale) for scale in scene.scales])
        hints = torch.cat([hints for _ in scene.scales])
        if self.invert:
            depth, hints = inverse_depth(depth), inverse_depth(hints)
        return self.distance(depth, hints, torch.cat(valid)), {"masks/hints": valid[0]}
