"""Feature reconstruction: features of a support, warped into the target, should equal those of the target.

Depth-VO-Feat, arXiv:1803.03893; FeatDepth, arXiv:2007.10603.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from trainer.geometry import ViewSynthesis
from trainer.geometry.scene import Pictures, Scene, resize
from trainer.losses import LOSSES
from trainer.losses.reconstruction import Reconstruction, automasked

# Level from the deep end: stride 4, whether or not the encoder also has stride 2.
_LEVEL = -4


@LOSSES.register("feat_recon")
class FeatureReconstruction(Reconstruction):
    """Difference between features of the target and those of the supports, warped into it; features are constants.

    The features are the autoencoder's if there is one, else the depth encoder's, of stride 4 and upsampled to full
    resolution. Depth and mask are those of scale 0. Only depth and motion learn from it.

    Args: see `Reconstruction`.
    """

    source: ClassVar[str] = "Depth-VO-Feat, arXiv:1803.03893; FeatDepth, arXiv:2007.10603"
    needs = frozenset({"supports", "features"})
    on_twin = False

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean over batch and ALL pixels, and the warped features (b c h w).

        Pixels that the automask removes stay in the mean with their static error, as in `img_recon`. Raises
        ValueError when the encoder has fewer than four levels.
        """
        target, supports = _level(scene.feats), _level(scene.supp_feats)
        compare = self.against(resize(target, scene.size))
        depth = scene.depth(0)
        errors: list[Tensor] = []
        static: list[Tensor] = []
        pictures: Pictures = {}
        for i, support in enumerate(supports.unbind(1)):
            P = scene.projection(i)
            features = resize(support, scene.size)
            errors.append(compare(scene.synthesis.warp(features, depth, P)))
            if self.use_automask:
                with torch.no_grad():
                    static.append(compare(features))
            warp = partial(_warped, scene.synthesis, support, depth.detach(), P.detach())
            pictures[f"feats_warp/supp_{scene.supp_idxs[i]}"] = warp
        mask = self.mask_of(scene, 0)
        error = self.combine(errors, mask)
        if self.use_automask:
            still = self.combine(static, mask) + self.noise_like(error)
            error, _ = automasked(error, still, self.automask_below)
        return error.mean(), pictures


def _level(feats: list[Tensor]) -> Tensor:
    """Return the features to compare, (..., c h/4 w/4), as constants."""
    if len(feats) < -_LEVEL:
        raise ValueError(f"feat_recon takes the {-_LEVEL}th level from the end, but the encoder has {len(feats)}")
    return feats[_LEVEL].detach()


def _warped(synthesis: ViewSynthesis, support: Tensor, depth: Tensor, P: Tensor) -> Tensor:
    """Warp again for a picture: keeping maps of so many channels would take too much memory."""
    with torch.no_grad():
        return synthesis.warp(resize(support, synthesis.size), depth, P)
