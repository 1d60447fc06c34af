"""View consistency: several views of one picture should have the same depth.

RA-Depth, arXiv:2207.11984 (disparities of pictures at three sizes); BDEdepth, arXiv:2309.05254 (depths of a crop and of
a permuted input, compared by the scale-invariant error of Eigen et al., arXiv:1406.2283).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn, where

from models_zoo.registry import did_you_mean
from trainer.geometry import depth_to_disp
from trainer.geometry.scene import Pictures, Scene
from trainer.losses import LOSSES
from trainer.losses._photometric import ssim_error

ErrorName = Literal["ssim", "silog"]


@LOSSES.register("view_consistency")
class ViewConsistency(nn.Module):
    """Difference of the plain view and each other view of `dataset.views` where they overlap, summed over those.

    Args:
        loss_name: ssim: 0.85 SSIM + 0.15 L1 of sigmoid disparities (RA-Depth); silog: the scale-invariant error of
            logarithmic depths, mean e^2 - 0.5 (mean e)^2 (BDEdepth).
        use_automask: only where a warped support of the plain view beats the unwarped ones; needs `img_recon` with
            `use_automask`.
    """

    source: ClassVar[str] = "RA-Depth, arXiv:2207.11984; BDEdepth, arXiv:2309.05254"
    needs: frozenset[str] = frozenset({"views"})
    on_twin = False

    def __init__(self, loss_name: ErrorName = "ssim", use_automask: bool = False):
        super().__init__()
        if loss_name not in ERRORS:
            raise ValueError(f"loss_name {loss_name!r} does not compare views. {did_you_mean(loss_name, ERRORS)}")
        self.error, self.use_automask = ERRORS[loss_name], use_automask
        self.needs = self.needs_with({"use_automask": use_automask})

    @classmethod
    def needs_with(cls, kwargs: Mapping[str, Any]) -> frozenset[str]:
        return cls.needs | ({"supports", "automask"} if kwargs.get("use_automask") else set())

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the sum over views of the mean over items, at scale 0, and the disparities that are compared.

        An item's mean is over its pixels that both views show and the mask keeps; 0 without any. Both sides learn, the
        mask does not. Windows that the papers round to whole pixels are sampled where they are.
        """
        mask = scene.automask if self.use_automask else None
        if self.use_automask and mask is None:
            raise ValueError("use_automask needs the mask of img_recon: set loss.img_recon.use_automask: true")
        total, pictures = scene.target.new_zeros(()), dict[str, Any]()
        for name, other in scene.others.items():
            disp, shown = other.disp_on_plain()
            pixels = shown if mask is None else shown & mask
            total = total + self.error(scene, other, disp, shown, pixels).mean()
            pictures[f"disp/{name}"] = where(shown, disp, 0.0).detach()
        return total, pictures


def _of_disparities(scene: Scene, other: Scene, disp: Tensor, shown: Tensor, pixels: Tensor) -> Tensor:
    """Return the structural difference of disparities, one per item (b,).

    disp: of `other`, at the pixels of `scene`. The windows of SSIM end at the border of what is `shown`.
    """
    plain = scene.disp[0]
    if other.depth_factor is not None:
        disp = depth_to_disp(other.to_depth(disp), scene.min_depth, scene.max_depth)
    disp, plain = _framed(disp, shown), _framed(plain, shown)
    error, mirrored = ssim_error(plain)(disp), ssim_error(disp)(plain)  # the same number; each has one gradient
    return _mean(error + (mirrored - mirrored.detach()), pixels)


def _framed(x: Tensor, shown: Tensor) -> Tensor:
    """Reflect maps x (b 1 h w) into the ring of pixels around the rectangle that is shown, as at an image border."""
    for dim in (2, 3):
        inside = shown.amax(5 - dim, keepdim=True).to(torch.int64)
        n = x.shape[dim]
        place = torch.arange(n, device=x.device).view(-1, 1) if dim == 2 else torch.arange(n, device=x.device)
        first = inside.argmax(dim, keepdim=True)
        last = first + inside.sum(dim, keepdim=True) - 1
        place = where(place == first - 1, first + 1, where(place == last + 1, last - 1, place)).clamp(0, n - 1)
        x = x.gather(dim, place.expand_as(x))
    return x


def _of_depths(scene: Scene, other: Scene, disp: Tensor, shown: Tensor, pixels: Tensor) -> Tensor:
    """Return the scale-invariant error of depths, one per item (b,)."""
    e = other.to_depth(disp).log() - scene.depth(0).log()
    return _mean(e.square(), pixels) - 0.5 * _mean(e, pixels).square()


def _mean(values: Tensor, pixels: Tensor) -> Tensor:
    """Return the mean of values (b 1 h w) over the pixels of each item (b,); 0 where there are none."""
    return where(pixels, values, 0.0).sum((1, 2, 3)) / pixels.sum((1, 2, 3)).clamp_min(1)


# Scene, another view, its disparity at the pixels of the scene, where it is shown, where it counts -> error (b,).
ERRORS: dict[str, Callable[[Scene, Scene, Tensor, Tensor, Tensor], Tensor]] = {
    "ssim": _of_disparities,
    "silog": _of_depths,
}
