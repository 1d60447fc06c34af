"""Smoothness: disparity should change only where the image does.

Garg et al., arXiv:1603.04992; Monodepth, arXiv:1609.03677; second differences as in DVSO, arXiv:1807.02570;
division by the mean as in Monodepth2, arXiv:1806.01260.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from trainer.geometry.scene import Pictures, Scene
from trainer.losses import LOSSES
from trainer.losses._differences import Gradients, absolute_differences, magnitude


@LOSSES.register("disp_smooth")
class DisparitySmoothness(nn.Module):
    """Gradient of the disparity relative to its mean; scale s counts 1 / 2**s.

    Args:
        use_edges: let disparity change where the image does: weight exp(-image gradient).
        use_laplacian: second differences instead of first ones.
        use_blur: smooth disparity and image (3x3 Gaussian, sigma 1) before each difference.
    """

    source: ClassVar[str] = (
        "Garg et al., arXiv:1603.04992; Monodepth, arXiv:1609.03677;"
        " DVSO, arXiv:1807.02570; Monodepth2, arXiv:1806.01260"
    )
    needs: frozenset[str] = frozenset()
    on_twin = True
    on_views = True

    def __init__(self, use_edges: bool = False, use_laplacian: bool = False, use_blur: bool = False):
        super().__init__()
        self.use_edges, self.use_laplacian, self.use_blur = use_edges, use_laplacian, use_blur

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean over scales, each at its own resolution, and pictures of scale 0.

        The mean of a gradient is over all h * w pixels, zeros at the border included (Monodepth2 leaves them out).
        """
        terms = []
        pictures: Pictures = {}
        for scale in scene.scales:
            gx, gy = self.gradients(relative_to_mean(scene.disp[scale]))
            image = scene.target_at((gx.shape[-2], gx.shape[-1]))
            if scale == 0:
                pictures["grad/disp"] = partial(magnitude, gx.detach(), gy.detach())
                pictures["grad/image"] = partial(self._image_magnitude, image.detach())
            if self.use_edges:
                ix, iy = self.image_gradients(image)
                gx, gy = gx * (-ix).exp(), gy * (-iy).exp()
            terms.append((gx.mean() + gy.mean()) / 2**scale)
        return torch.stack(terms).mean(), pictures

    def gradients(self, x: Tensor) -> Gradients:
        """Return first or second differences of x (b c h w), according to the options."""
        gx, gy = absolute_differences(x, self.use_blur)
        if not self.use_laplacian:
            return gx, gy
        return absolute_differences(gx, self.use_blur)[0], absolute_differences(gy, self.use_blur)[1]

    def image_gradients(self, image: Tensor) -> Gradients:
        """Return the same differences of an image (b 3 h w), mean of the channels (b 1 h w), as constants."""
        with torch.no_grad():
            ix, iy = self.gradients(image)
            return ix.mean(1, keepdim=True), iy.mean(1, keepdim=True)

    def _image_magnitude(self, image: Tensor) -> Tensor:
        return magnitude(*self.image_gradients(image))


def relative_to_mean(disp: Tensor) -> Tensor:
    """Divide disparity (b c h w) by its mean over (h, w), so that a smaller map is not a smoother one."""
    return disp / disp.mean((-2, -1), keepdim=True).clamp_min(torch.finfo(disp.dtype).eps)
