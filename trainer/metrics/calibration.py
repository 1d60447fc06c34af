"""Metres from the depth of a network: one power law, metres = exp(a log d + b), for all images.

a = 1 is a single scale. Both are fitted to the logarithms of depth and truth by least squares that doubt outliers,
every image counting the same; what they are worth is measured on drives that the fit has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

MOST_PIXELS = 10_000  # of an image; evenly spaced ones of more
DOUBT = 1.345  # deviations from which on the error of a pixel counts linearly (Huber, 95 % efficient)
DEVIATION = 1.4826  # of a normal distribution over its median absolute value
ROUNDS = 50  # of weighing pixels, at most
LEAST_DRIVES = 3  # to leave whole drives out; fewer are cut into blocks
BLOCKS, GAP = 5, 10  # of images in order, and how many beside a block are in neither part

Map = TypeVar("Map", Tensor, np.ndarray)


@dataclass(frozen=True)
class PowerLaw:
    """metres = exp(a log d + b) of the depth d of a network."""

    a: float
    b: float

    @property
    def factor(self) -> float:
        """exp(b): metres at d = 1."""
        return math.exp(self.b)

    @classmethod
    def scale(cls, factor: float) -> PowerLaw:
        """Return the law that multiplies by a factor."""
        return PowerLaw(1.0, math.log(factor))

    def apply(self, depth: Map) -> Map:
        """Turn depth (any shape), > 0, into metres."""
        return self.factor * (depth if self.a == 1 else depth**self.a)

    def __str__(self) -> str:
        return f"{self.factor:.4g} x depth" + ("" if self.a == 1 else f" ^ {self.a:.4g}")


@dataclass(frozen=True)
class Calibration(PowerLaw):
    """A power law, what it was fitted to, and what it is worth there."""

    data: Mapping[str, str]  # type, mode, and split of the data set
    images: int
    drives: int
    folds: int  # parts of the images, each scored by the law of the others
    abs_rel: Mapping[str, float]  # cross-validated: "before", "scale" (a = 1) and "after"

    @property
    def words(self) -> str:
        """`calibrated on 32 images of 16 drives of synthetic (val): 5.31 x depth ^ 0.94`."""
        name = " ".join(filter(None, (self.data["type"], self.data.get("split"))))
        return f"calibrated on {self.images} images of {name} ({self.data['mode']}): {self}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain texts and numbers."""
        return {key: dict(value) if isinstance(value, Mapping) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Undo `to_dict`."""
        return cls(**{field.name: data[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Sample:
    """Valid pixels of one image: depth of the network and truth in metres, (n,) float32 each."""

    index: int  # in the data set
    drive: str  # the drive, clip or scene that it is of
    depth: np.ndarray
    truth: np.ndarray

    @classmethod
    def of(cls, index: int, drive: str, depth: np.ndarray, truth: np.ndarray) -> Sample:
        """Keep the valid pixels (n,) of an image, evenly spaced ones of too many."""
        places = np.arange(len(truth))
        if len(places) > MOST_PIXELS:
            places = np.linspace(0, len(places) - 1, MOST_PIXELS).round().astype(np.intp)
        return cls(index, drive, depth[places].astype(np.float32), truth[places].astype(np.float32))

    def abs_rel(self, law: PowerLaw, limits: tuple[float, float]) -> float:
        """Return the mean of |metres - truth| / truth, metres being clipped to the limits."""
        metres = np.clip(law.apply(self.depth.astype(np.float64)), *limits)
        return float(np.mean(np.abs(metres - self.truth) / self.truth))


def fit(samples: Sequence[Sample], scale_only: bool = False) -> PowerLaw:
    """Fit a power law, `scale_only` with a = 1. Depth that is the same everywhere gets a = 1, too.

    Iterated least squares with Huber's weights: errors of more than 1.345 deviations count linearly.
    """
    x, y = (np.log(np.concatenate([getattr(s, key) for s in samples], dtype=np.float64)) for key in ("depth", "truth"))
    equal = np.concatenate([np.full(len(s.truth), 1 / len(s.truth)) for s in samples])
    scale_only = scale_only or np.ptp(x) < 1e-6
    doubt, law = np.ones_like(x), PowerLaw(1.0, 0.0)
    for _ in range(ROUNDS):
        before, law = law, _weighted(x, y, equal * doubt, scale_only)
        off = np.abs(law.a * x + law.b - y)
        spread = DEVIATION * _weighted_median(off, equal)
        if spread < 1e-9 or max(abs(law.a - before.a), abs(law.b - before.b)) < 1e-9:
            break
        doubt = np.minimum(1.0, DOUBT * spread / np.maximum(off, 1e-12))
    return law


def _weighted(x: np.ndarray, y: np.ndarray, weight: np.ndarray, scale_only: bool) -> PowerLaw:
    mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
    a = 1.0
    if not scale_only:
        a = float(np.sum(weight * (x - mean_x) * (y - mean_y)) / np.sum(weight * (x - mean_x) ** 2))
    return PowerLaw(a, float(mean_y - a * mean_x))


def _weighted_median(values: np.ndarray, weight: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def folds(samples: Sequence[Sample]) -> list[tuple[list[Sample], list[Sample]]]:
    """Divide samples, in the order of their data set, into up to five pairs of a part to fit and a part to score.

    Whole drives are left out; of fewer than three drives, five blocks of successive images, the images up to ten
    places beside a block being in neither part. Parts without images are left out.
    """
    drives: dict[str, list[Sample]] = {}
    for sample in samples:
        drives.setdefault(sample.drive, []).append(sample)
    if len(drives) >= LEAST_DRIVES:
        held: list[list[Sample]] = [[] for _ in range(min(BLOCKS, len(drives)))]
        for drive in sorted(drives.values(), key=len, reverse=True):
            min(held, key=len).extend(drive)
    else:
        blocks = np.array_split(np.arange(len(samples)), BLOCKS)
        held = [[samples[i] for i in block] for block in blocks]
    pairs = []
    for part in held:
        near = {s.index + step for s in part for step in (range(-GAP, GAP + 1) if len(drives) < LEAST_DRIVES else (0,))}
        pairs.append(([s for s in samples if s.index not in near], part))
    return [(fitted, scored) for fitted, scored in pairs if fitted and scored]


@dataclass(frozen=True)
class CrossValidation:
    """AbsRel of each image by laws that have not seen its drive."""

    groups: Sequence[str]  # drive of each image, or its block
    abs_rel: Mapping[str, np.ndarray]  # "before", "scale", "after": (images,)
    folds: int

    def mean(self, key: str) -> float:
        """Return AbsRel, averaged over images."""
        return float(self.abs_rel[key].mean())

    def gain(self, worse: str, better: str) -> tuple[float, float]:
        """Return by how much AbsRel is less, and the standard error of that over drives (or blocks)."""
        difference = self.abs_rel[worse] - self.abs_rel[better]
        names = np.asarray(self.groups)
        means = np.array([difference[names == name].mean() for name in dict.fromkeys(self.groups)])
        error = float(means.std(ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else math.inf
        return float(difference.mean()), error


def cross_validate(samples: Sequence[Sample], before: PowerLaw, limits: tuple[float, float]) -> CrossValidation | None:
    """Score the law `before`, and laws fitted to other drives, on every image; None where nothing can be left out."""
    pairs = folds(samples)
    rows, groups, in_blocks = [], [], len({s.drive for s in samples}) < LEAST_DRIVES
    for i_fold, (fitted, scored) in enumerate(pairs):
        laws = before, fit(fitted, scale_only=True), fit(fitted)
        rows += [[sample.abs_rel(law, limits) for law in laws] for sample in scored]
        groups += [f"block {i_fold}" if in_blocks else sample.drive for sample in scored]
    if len(pairs) < 2:
        return None
    table = np.array(rows)
    columns = {key: table[:, i] for i, key in enumerate(("before", "scale", "after"))}
    return CrossValidation(groups, columns, len(pairs))
