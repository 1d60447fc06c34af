"""Evaluate depth: metric sets, alignment of scale, crops, baselines. Nothing here loads data or networks.

A metric set is one published evaluation protocol and one file of this package, registered under the name
that `monodepth evaluate --metrics` takes. The metrics watched during training are in `validation.py`.

Two sets share a key only for the same number in the same unit; otherwise the key names the unit: `abs_rel` is a
fraction, `abs_rel_pct` per cent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from models_zoo.registry import Registry

if TYPE_CHECKING:
    import numpy as np

METRICS = Registry("metric set", package="trainer.metrics")
Curves: TypeAlias = "dict[str, np.ndarray]"  # by name, (n,) each


@dataclass(frozen=True)
class Metric:
    """One number of a metric set.

    Args:
        key: its name in result files.
        legacy: its name in the result files of the KITTI benchmark (arXiv:2208.01489); "" = not in them.
        title: its name in papers, for the heads of tables; "" = the key.
        pooled: how the numbers of images, weighted by their scored pixels, make that of all pixels together: by their
            "mean", or "rms", the root of the mean of their squares; "" = they do not.
    """

    key: str
    unit: str
    higher_is_better: bool = False
    legacy: str = ""
    title: str = ""
    pooled: Literal["mean", "rms", ""] = ""

    @property
    def shown(self) -> str:
        """Its name on a terminal: "Abs Rel", "RMSE [m]", "δ<1.25"."""
        return with_unit(self.title or self.key, self.unit)


def with_unit(title: str, unit: str) -> str:
    """Name a number on a terminal, where a value may follow: fractions have no unit, comparisons no spaces."""
    return title.replace(" < ", "<") + (f" [{unit}]" if unit not in ("", "fraction") else "")


class _Declared:
    """What a metric set declares."""

    source: ClassVar[str]  # its publication
    version: ClassVar[int]  # rises when the meaning of a key changes; results store it
    metrics: ClassVar[tuple[Metric, ...]]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(metric.key for metric in self.metrics)


class MetricSet(_Declared, ABC):
    """A published set of metrics on the valid pixels of one image, whatever their places."""

    @abstractmethod
    def compute(self, pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """Score predicted against true depth, both (n,) in metres, positive, n >= 1; keys as in `metrics`."""


@dataclass(frozen=True)
class DepthMaps:
    """One image to score as a whole: maps (H W) of the size of its truth, in metres."""

    pred: np.ndarray  # (H W) aligned and clipped, positive
    truth: np.ndarray  # (H W) 0 = none
    scored: np.ndarray  # (H W) bool, the pixels to score: valid ones, in a pass over edges only those on edges
    valid: np.ndarray  # (H W) bool, all pixels with a truth within range and crop
    K: np.ndarray | None = None  # (3 3) intrinsics in pixels of (H, W), pixel centres at integers
    unclipped: np.ndarray | None = None  # (H W) `pred` before it was clipped; None = as `pred`
    foreground: np.ndarray | None = None  # (H W) share of a pixel that a near object covers, 0..1
    uncertainty: np.ndarray | None = None  # (H W) of the prediction, any unit, larger = less certain


class MapMetricSet(_Declared, ABC):
    """A published set of metrics that depends on the places of pixels."""

    # Other inputs: "K"; "foreground"; "uncertainty"; "edges", which restricts it to true depth edges.
    needs: ClassVar[frozenset[str]] = frozenset()
    repeats_on_edges: ClassVar[bool] = True  # where items have depth edges, scored again on these alone
    rule: str = ""  # how it is computed, where that is not part of its publication; results store it

    @abstractmethod
    def compute(self, maps: DepthMaps) -> dict[str, float]:
        """Score an image with at least one scored pixel; keys as in `metrics`, none where there is nothing to score."""

    def measure(self, maps: DepthMaps) -> tuple[dict[str, float], Curves]:
        """Return what `compute` does, and curves behind the numbers, whose mean over images results keep."""
        return self.compute(maps), {}
