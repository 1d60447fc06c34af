"""Regularisers of learnt features, so that their differences can guide depth: they should vary, and smoothly.

FeatDepth, arXiv:2007.10603: a discriminative term that rewards first differences, a convergent term that punishes
second ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from trainer.geometry.scene import Pictures, Scene, resize
from trainer.losses import LOSSES
from trainer.losses._differences import absolute_differences


class FeatureRegulariser(nn.Module, ABC):
    """Base of both regularisers: level k of the autoencoder's encoder, 0 = finest, counts 1 / 2**k.

    Args:
        use_edges: count differences less where the image has the same: weight exp(-image difference).
    """

    source: ClassVar[str] = "FeatDepth, arXiv:2007.10603"
    needs: frozenset[str] = frozenset({"autoencoder"})
    on_twin = False
    sign: ClassVar[int]  # -1 rewards differences, 1 punishes them

    def __init__(self, use_edges: bool = False):
        super().__init__()
        self.use_edges = use_edges

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean over levels for the target, plus that for the supports if any."""
        value = self._mean_over_levels(scene.feats, scene.target)
        if scene.supports is not None and scene.n_supports:
            feats = [feat.flatten(0, 1) for feat in scene.supp_feats]
            value = value + self._mean_over_levels(feats, scene.supports.flatten(0, 1))
        return value, {}

    def _mean_over_levels(self, feats: list[Tensor], images: Tensor) -> Tensor:
        terms = []
        for k, feat in enumerate(feats):
            terms.append(self._weighed_sum(feat, resize(images, (feat.shape[-2], feat.shape[-1]))) / 2**k)
        return torch.stack(terms).mean()

    def _weighed_sum(self, feat: Tensor, image: Tensor) -> Tensor:
        """Sum the means over items, channels and pixels of all differences of feat (b c h w)."""
        differences = self.differences(feat)
        if self.use_edges:
            with torch.no_grad():
                weights = [(-d.mean(1, keepdim=True)).exp() for d in self.differences(image)]
            differences = [d * weight for d, weight in zip(differences, weights, strict=True)]
        return self.sign * torch.stack([d.mean() for d in differences]).sum()

    @abstractmethod
    def differences(self, x: Tensor) -> list[Tensor]:
        """Return absolute differences of x (b c h w), each (b c h w)."""


@LOSSES.register("feat_peaky")
class FeaturePeakiness(FeatureRegulariser):
    """Reward for first differences of the features, as a negative value: flat features cannot be matched.

    Args: see `FeatureRegulariser`.
    """

    sign = -1

    def differences(self, x: Tensor) -> list[Tensor]:
        return list(absolute_differences(x))


@LOSSES.register("feat_smooth")
class FeatureSmoothness(FeatureRegulariser):
    """Second differences of the features: with a slope of constant sign, distant pixels find their match.

    Args: see `FeatureRegulariser`.
    """

    sign = 1

    def differences(self, x: Tensor) -> list[Tensor]:
        """Along x and y of the absolute first differences along x, then of those along y."""
        return [second for first in absolute_differences(x) for second in absolute_differences(first)]
