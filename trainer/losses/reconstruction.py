"""Reconstruction: a support warped into the target should look like the target.

SfM-Learner, arXiv:1704.07813 (explainability); Klodt & Vedaldi, ECCV 2018 (uncertainty); Monodepth2,
arXiv:1806.01260 (minimum over supports, automask).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from models_zoo.registry import did_you_mean
from trainer.geometry import Runner
from trainer.geometry.scene import Pictures, Scene
from trainer.losses import LOSSES
from trainer.losses._photometric import ERRORS, LossName, error_formula

MaskName = Literal["explainability", "uncertainty"]


class Reconstruction(nn.Module):
    """Options and per-pixel rules of all reconstruction losses.

    Args:
        loss_name: how two images are compared.
        use_min: take the best support per pixel instead of the mean of all.
        use_automask: ignore pixels that the unwarped support explains better.
        automask_below: use the automask only in images whose warped supports have less than this share of the mean
            error of the unwarped ones; null = in all images, as published.
        mask_name: what the predicted mask does to the error, null = no mask.
        automask_noise: standard deviation of the noise that breaks ties of the automask; 0 = deterministic.
    """

    needs: frozenset[str] = frozenset({"supports"})
    on_twin = True

    def __init__(
        self,
        loss_name: LossName = "ssim",
        use_min: bool = False,
        use_automask: bool = False,
        mask_name: MaskName | None = None,
        automask_noise: float = 1e-7,
        automask_below: float | None = None,
    ):
        super().__init__()
        if problems := self.validate_config({"use_automask": use_automask, "mask_name": mask_name}):
            raise ValueError("; ".join(problems))
        if loss_name not in ERRORS:
            raise ValueError(f"loss_name {loss_name!r} is not a photometric error. {did_you_mean(loss_name, ERRORS)}")
        if mask_name is not None and mask_name not in get_args(MaskName):
            raise ValueError(f"mask_name {mask_name!r} is not a mask. {did_you_mean(mask_name, get_args(MaskName))}")
        if automask_noise < 0:
            raise ValueError(f"automask_noise must not be negative, got {automask_noise}")
        self.loss_name, self.mask_name = loss_name, mask_name
        if automask_below is not None and not 0 < automask_below <= 1:
            raise ValueError(f"automask_below must lie in (0, 1], or be null, got {automask_below}")
        self.use_min, self.use_automask, self.automask_noise = use_min, use_automask, automask_noise
        self.automask_below = automask_below
        self.against = ERRORS[loss_name]
        self.needs = self.needs_with({"mask_name": mask_name})

    @classmethod
    def validate_config(cls, kwargs: Mapping[str, Any]) -> list[str]:
        """List what is wrong with the options, for losses that cannot use all of them."""
        return []

    @classmethod
    def needs_with(cls, kwargs: Mapping[str, Any]) -> frozenset[str]:
        """Return the needs with these options."""
        return cls.needs | ({"mask"} if kwargs.get("mask_name") is not None else set())

    def mask_of(self, scene: Scene, scale: int) -> Tensor | None:
        """Return the mask (b n h w) of `scale`; None without `mask_name` and for a virtual view.

        Raises ValueError when the mask was not predicted, or has other channels than one per support.
        """
        if self.mask_name is None or scene.is_virtual:
            return None
        mask = scene.mask_up(scale)
        if mask is None:
            raise ValueError(f"mask_name {self.mask_name!r}: no mask was predicted, set net.depth.mask_name")
        if mask.shape[1] != scene.n_supports:
            raise ValueError(
                f"the mask has {mask.shape[1]} channels for {scene.n_supports} supports: set net.depth.num_ch_mask"
            )
        return mask

    def combine(self, errors: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Reduce errors of n supports, (b 1 h w) each, to one map: weigh by mask (b n h w), then minimum or mean."""
        return combine(errors, mask, self.mask_name, self.use_min)

    def compared(self, scene: Scene, depth: Tensor, scales: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return the error (b 1 h w) of another depth (b 1 h w), and those of the depth of `scales`.

        They are constants, without the predicted mask. Depth of 0 is harmless: view synthesis divides by at least 0.1.
        """
        i_supps = range(scene.n_supports)
        # The scene keeps projections and images for the other losses, so they must not be made without gradient.
        projections = [scene.projection(i) for i in i_supps]
        warped = [[scene.warp(scale, i) for i in i_supps] for scale in scales]
        with torch.no_grad():
            compare = self.against(scene.target)
            others = [scene.synthesis.warp(scene.support(i), depth, projections[i]) for i in i_supps]
            error, *errors = (self.combine([compare(image) for image in images], None) for images in (others, *warped))
        return error, errors

    def noise_like(self, error: Tensor) -> Tensor | float:
        """Draw the noise of the automask for maps like `error` (b 1 h w)."""
        return torch.randn_like(error) * self.automask_noise if self.automask_noise else 0.0


def combine(errors: Sequence[Tensor], mask: Tensor | None, mask_name: MaskName | None, use_min: bool) -> Tensor:
    """Reduce errors (b 1 ...) of n supports to one map with the options of `Reconstruction`; mask (b n ...)."""
    if mask is not None:
        pairs = [(error, mask[:, i : i + 1]) for i, error in enumerate(errors)]
        if mask_name == "explainability":
            errors = [error * m for error, m in pairs]
        else:
            errors = [error * (-m).exp() + m for error, m in pairs]
    return reduce(lower, errors) if use_min else reduce(torch.add, errors) / len(errors)


def reconstruction_formula(
    warped: Tensor,
    supports: Tensor | None,
    target: Tensor,
    mask: Tensor | None,
    noise: Tensor | float,
    loss_name: LossName,
    mask_name: MaskName | None,
    use_min: bool,
    automask_below: float | None,
) -> tuple[Tensor, Tensor | None]:
    """Compute the loss of `ImageReconstruction` and its automask at scale 0 (b 1 h w), all scales in one call.

    warped (b n c s h w); supports (b n c h w), None without automask; mask (b n s h w); noise (b 1 h w).
    """
    error = combine(error_formula(warped, target, loss_name).split(1, 1), mask, mask_name, use_min)
    if supports is None:
        return error.mean(), None
    with torch.no_grad():
        static = error_formula(supports.unsqueeze(3), target, loss_name).split(1, 1)
    still = combine(static, mask, mask_name, use_min) + (noise.unsqueeze(2) if isinstance(noise, Tensor) else noise)
    error, kept = automasked(error, still, automask_below)
    return error.mean(), kept[:, :, 0]


def automasked(error: Tensor, still: Tensor, below: float | None) -> tuple[Tensor, Tensor]:
    """Replace errors (b 1 ... h w) of warped supports by those of unwarped ones where these are smaller.

    With `below`, only in images in which the mean error of the warped supports is less than that share of the other.
    A pose network that has learned nothing yet warps worse than not at all; left with the pixels that it does not
    spoil, all of them would be explained best by infinite depth, and neither network would learn.

    Returns the errors, and where (bool) those of the warped supports count.
    """
    kept = error.detach() <= still.detach()
    if below is not None:
        warped, unwarped = (e.detach().mean((-2, -1), keepdim=True) for e in (error, still))
        kept = kept | (warped >= below * unwarped)
    return torch.where(kept, error, still), kept


def lower(a: Tensor, b: Tensor) -> Tensor:
    """Take the smaller map per pixel, `a` where both are equal (`torch.minimum` would split the gradient)."""
    return torch.where(a <= b, a, b)


@LOSSES.register("img_recon")
class ImageReconstruction(Reconstruction):
    """Difference between the target and the supports warped into it, at full resolution for every scale.

    Args: see `Reconstruction`.
    """

    source: ClassVar[str] = "SfM-Learner, arXiv:1704.07813; Klodt & Vedaldi, ECCV 2018; Monodepth2, arXiv:1806.01260"
    on_views = True

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean over scales, batch and ALL pixels, and pictures of scale 0.

        Pixels that the automask removes stay in the mean with their static error, which has no gradient.
        """
        if scene.fused is not None:
            return self._all_at_once(scene, scene.fused)
        compare = self.against(scene.target)
        i_supps = range(scene.n_supports)
        static: list[Tensor] = []
        noise: Tensor | float = 0.0
        if self.use_automask:
            with torch.no_grad():
                static = [compare(scene.support(i)) for i in i_supps]
            noise = self.noise_like(static[0])
        per_scale = []
        pictures: Pictures = {}
        for scale in scene.scales:
            mask = self.mask_of(scene, scale)
            error = self.combine([compare(scene.warp(scale, i)) for i in i_supps], mask)
            if self.use_automask:
                still = self.combine(static, mask) + noise
                error, kept = automasked(error, still, self.automask_below)
                if scale == 0:
                    pictures["masks/automask"] = scene.automask = kept
            per_scale.append(error.mean())
        return torch.stack(per_scale).mean(), pictures | self._warped(scene)

    def _all_at_once(self, scene: Scene, run: Runner) -> tuple[Tensor, Pictures]:
        """Return the same from one formula over all supports and scales."""
        masks = [mask for scale in scene.scales if (mask := self.mask_of(scene, scale)) is not None]
        mask = torch.stack(masks, 2) if masks else None
        noise = self.noise_like(torch.empty_like(scene.target[:, :1].contiguous())) if self.use_automask else 0.0
        supports = scene.supports if self.use_automask else None
        options = self.loss_name, self.mask_name, self.use_min, self.automask_below
        loss, kept = run(reconstruction_formula, scene.all_warps, supports, scene.target, mask, noise, *options)
        pictures: Pictures = {}
        if kept is not None:
            pictures["masks/automask"] = scene.automask = kept
        return loss, pictures | self._warped(scene)

    def _warped(self, scene: Scene) -> Pictures:
        return {f"imgs_warp/supp_{idx}": scene.warp(0, i).detach() for i, idx in enumerate(scene.supp_idxs)}
