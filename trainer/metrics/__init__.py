"""How good depth is: metric sets, alignment of scale, crops, baselines. Nothing here loads data or networks.

A metric set is one published evaluation protocol and one file of this package; it registers under the name
that `evaluate --metrics` takes. The metrics watched during training are in `validation.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from models_zoo.registry import Registry

if TYPE_CHECKING:
    import numpy as np

METRICS = Registry("metric set", package="trainer.metrics")


@dataclass(frozen=True)
class Metric:
    """One number of a metric set: its key in result files, its unit, and which direction is better."""

    key: str
    unit: str
    higher_is_better: bool = False


class MetricSet(ABC):
    """A published set of metrics on the valid pixels of one image.

    `version` belongs to the keys: it rises when the meaning of a key changes; stored with the numbers.
    """

    version: ClassVar[int]
    metrics: ClassVar[tuple[Metric, ...]]

    @abstractmethod
    def compute(self, pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """Score predicted against true depth, both (n,) in metres, positive, n >= 1; keys as in `metrics`."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the numbers, in order."""
        return tuple(metric.key for metric in self.metrics)
