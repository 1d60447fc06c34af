"""An evaluation protocol: which pixels count, how depth becomes metres, what is measured; printable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from models_zoo.registry import did_you_mean
from trainer.metrics import METRICS, MetricSet
from trainer.metrics.align import ALIGNMENTS
from trainer.metrics.crop import CROPS
from trainer.types import UserError

T = TypeVar("T")

HEADLINE = "abs_rel"  # every protocol measures it: predictions and baselines are compared by it


class DepthProtocol:
    """Which pixels count, how depth becomes metres, and what is measured.

    Args:
        metrics: names of metric sets; one of them must have `abs_rel`.
        alignment: `median`, `stereo` or `none`, see `trainer.metrics.align`.
        crop: `garg`, `eigen` or `none`, see `trainer.metrics.crop`.
        min_depth: pixels with min_depth < truth < max_depth count; predictions are clipped to that range, in
            metres.
        max_depth: see `min_depth`.

    Raises UserError naming the choices when a name is unknown, and when the depth range is empty.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        alignment: str,
        crop: str,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
    ):
        self.names = {"alignment": alignment, "crop": crop}
        self.alignment = _choose("alignment", alignment, ALIGNMENTS)
        self.crop = _choose("crop", crop, CROPS)
        if not 0 < min_depth < max_depth:
            raise UserError(f"evaluation needs 0 < min_depth < max_depth, got {min_depth} and {max_depth} m")
        self.min_depth, self.max_depth = float(min_depth), float(max_depth)
        entries = {name: METRICS.get(name) for name in METRICS.names()}
        self.sets: dict[str, MetricSet] = {name: _choose("metric set", name, entries)() for name in metrics}
        self.keys = [key for metric_set in self.sets.values() for key in metric_set.keys]
        if HEADLINE not in self.keys:
            raise UserError(f"none of the metric sets {list(metrics)} has {HEADLINE!r}: add 'eigen'")
        if len(set(self.keys)) < len(self.keys):
            raise UserError(f"the metric sets {list(metrics)} share a key: use one at a time")

    def valid_pixels(self, truth: np.ndarray) -> np.ndarray:
        """Mark the pixels that count, (H W) bool. truth (H W) metres."""
        return (truth > self.min_depth) & (truth < self.max_depth) & self.crop.mask(*truth.shape)

    def where(self) -> str:
        """Say in words which pixels count."""
        return f"between {self.min_depth:g} and {self.max_depth:g} m inside the crop {self.names['crop']!r}"

    def clip(self, depth: np.ndarray) -> np.ndarray:
        """Clip metres to [min_depth, max_depth]."""
        return np.clip(depth, self.min_depth, self.max_depth)

    def score(self, pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """All metrics of the valid pixels (n,), in metres. The prediction is clipped, the truth is not."""
        pred = self.clip(pred)
        return {key: value for s in self.sets.values() for key, value in s.compute(pred, truth).items()}

    def mean(self, scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Mean over images of each metric."""
        return {key: float(np.mean([score[key] for score in scores])) for key in self.keys}

    def describe(self) -> dict[str, Any]:
        """The protocol as it is stored beside the numbers."""
        return {
            "alignment": self.names["alignment"],
            "factor": self.alignment.rule,
            "crop": self.names["crop"],
            "min_depth_m": self.min_depth,
            "max_depth_m": self.max_depth,
            "resize": "inverse depth, bilinear, to the size of the truth",
            "flip_post_processing": False,
            "mean_over": "images",
            "metrics": {
                name: {
                    "version": s.version,
                    "units": {m.key: m.unit for m in s.metrics},
                    "higher_is_better": [m.key for m in s.metrics if m.higher_is_better],
                }
                for name, s in self.sets.items()
            },
        }


def _choose(kind: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise UserError(f"{name!r} is not a known {kind}. {did_you_mean(name, known)}")
    return known[name]
