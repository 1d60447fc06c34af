"""Autoencoder reconstruction: what it makes of an image should be that image. FeatDepth, arXiv:2007.10603."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from trainer.geometry.precision import full_precision
from trainer.geometry.scene import Pictures, Scene, resize
from trainer.losses import LOSSES
from trainer.losses._photometric import LossName
from trainer.losses.reconstruction import MaskName, Reconstruction


@LOSSES.register("autoenc_recon")
class AutoencoderReconstruction(Reconstruction):
    """Difference between images and what the autoencoder makes of them, upsampled from every scale.

    The network may have seen altered colours; it is asked for the image without them.

    Args:
        loss_name: how two images are compared.
        use_min: without effect, an image has one reconstruction; for configurations shared with `img_recon`.
        use_automask: only false, nothing is warped.
        mask_name: only null, nothing is masked.
        automask_noise: without effect.

    Raises ValueError when `use_automask` or `mask_name` is set.
    """

    source: ClassVar[str] = "FeatDepth, arXiv:2007.10603"
    needs = frozenset({"autoencoder"})
    on_twin = False

    def __init__(
        self,
        loss_name: LossName = "ssim",
        use_min: bool = False,
        use_automask: bool = False,
        mask_name: MaskName | None = None,
        automask_noise: float = 1e-7,
    ):
        problems = self.validate_config({"use_automask": use_automask, "mask_name": mask_name})
        if problems:
            raise ValueError("; ".join(problems))
        super().__init__(loss_name, use_min, automask_noise=automask_noise)

    @classmethod
    def validate_config(cls, kwargs: Mapping[str, Any]) -> list[str]:
        """Name the options that make no sense for images that are not warped."""
        problems = []
        if kwargs.get("use_automask"):
            problems.append("use_automask must be false: an autoencoder warps nothing; remove it")
        if kwargs.get("mask_name") is not None:
            problems.append("mask_name must be null: an autoencoder warps nothing; remove it")
        return problems

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the plain mean over scales, pixels, and all images: the target and, when there, the supports.

        Raises ValueError when there is no autoencoder.
        """
        if "autoenc_imgs" not in scene.extras:
            raise ValueError("autoenc_recon: no autoencoder has seen this scene, add net.autoencoder")
        images = [scene.target]
        predictions: list[Mapping[int, Tensor]] = [scene.extras["autoenc_imgs"]]
        of_supports: Mapping[int, Tensor] = scene.extras.get("supp_autoenc_imgs", {})
        for i in range(scene.n_supports if of_supports else 0):
            images.append(scene.support(i))
            predictions.append({scale: image[:, i] for scale, image in of_supports.items()})
        means = []
        for image, of_image in zip(images, predictions, strict=True):
            compare = self.error.against(image)
            means += [compare(resize(full_precision(p), scene.size)).mean() for p in of_image.values()]
        return torch.stack(means).mean(), {}
