"""The part of a checkpoint that leaves the house: a picture in, disparity and depth out."""

from __future__ import annotations

from torch import Tensor, nn

from models_zoo.depth import stereo_blend
from trainer.geometry import disp_to_depth
from trainer.geometry.precision import full_precision


class DepthNetwork(nn.Module):
    """The depth network of a checkpoint with everything around it, as one module without options.

    Args:
        depth: network of `models_zoo`, in evaluation mode.
        min_depth, max_depth: depth at disparity 1 and 0 (`disp_to_depth`), in units of the network.
        factor, exponent: from those units to the unit of the output, see `Scale`.
        flip: blend with the prediction for the mirrored image. Monodepth, arXiv:1609.03677.
    """

    def __init__(
        self,
        depth: nn.Module,
        min_depth: float = 0.1,
        max_depth: float | None = 100.0,
        factor: float = 1.0,
        flip: bool = False,
        exponent: float = 1.0,
    ):
        super().__init__()
        self.depth = depth
        self.min_depth, self.max_depth, self.flip = min_depth, max_depth, flip
        self.factor, self.exponent = factor, exponent

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict from RGB images (b 3 h w), uint8 or float in [0, 1]; h and w multiples of 32, at least 64.

        Returns disparity, 1 / depth, and depth, both (b 1 h w) float32, in the unit of `factor`.
        """
        if not images.is_floating_point():
            images = images.float() / 255
        disp = self._disp(images)
        if self.flip:
            disp = stereo_blend(disp, self._disp(images.flip(-1)).flip(-1))
        depth = disp_to_depth(disp, self.min_depth, self.max_depth)
        depth = (depth if self.exponent == 1 else depth**self.exponent) * self.factor
        return 1 / depth, depth

    def _disp(self, images: Tensor) -> Tensor:
        disp: Tensor = full_precision(self.depth(images)["disp"][0])
        return disp
