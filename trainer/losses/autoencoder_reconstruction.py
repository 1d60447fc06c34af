"""Autoencoder reconstruction: the output should equal the input. FeatDepth, arXiv:2007.10603."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from trainer.geometry.precision import full_precision
from trainer.geometry.scene import Pictures, Scene, resize
from trainer.losses import LOSSES
from trainer.losses.reconstruction import Reconstruction


@LOSSES.register("autoenc_recon")
class AutoencoderReconstruction(Reconstruction):
    """Difference between images and their autoencoder reconstructions, upsampled from every scale.

    The network may see augmented colours; its output is compared with the clean image.

    Args:
        loss_name: how two images are compared.
        use_min: without effect, an image has one reconstruction; for configurations shared with `img_recon`.
        use_automask: only false, nothing is warped.
        mask_name: only null, nothing is masked.
        automask_noise: without effect.
        automask_below: without effect.

    Raises ValueError when `use_automask` or `mask_name` is set.
    """

    source: ClassVar[str] = "FeatDepth, arXiv:2007.10603"
    needs = frozenset({"autoencoder"})
    on_twin = False

    @classmethod
    def validate_config(cls, kwargs: Mapping[str, Any]) -> list[str]:
        """List options that make no sense for images that are not warped."""
        wrong = {"use_automask": "false"} if kwargs.get("use_automask") else {}
        wrong |= {"mask_name": "null"} if kwargs.get("mask_name") is not None else {}
        return [f"{key} must be {value}: an autoencoder warps nothing; remove it" for key, value in wrong.items()]

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean over scales, pixels, target and supports. Raises ValueError without an autoencoder."""
        if "autoenc_imgs" not in scene.extras:
            raise ValueError("autoenc_recon: no autoencoder predictions in this scene, add net.autoencoder")
        pairs = [(scene.target, [*scene.extras["autoenc_imgs"].values()])]
        of_supports = [*scene.extras.get("supp_autoenc_imgs", {}).values()]  # (b n 3 ...) of each scale
        pairs += [(scene.support(i), [p[:, i] for p in of_supports]) for i in range(scene.n_supports) if of_supports]
        means = []
        for image, predictions in pairs:
            compare = self.against(image)
            means += [compare(resize(full_precision(p), scene.size)).mean() for p in predictions]
        return torch.stack(means).mean(), {}
