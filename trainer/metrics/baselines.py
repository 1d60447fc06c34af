"""Baselines that ignore the image: the best constant depth and the mean depth of each row.

Both are fitted to the truth that scores them, which favours them over a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.metrics.protocol import DepthProtocol, Scores

# Pixels kept of an image: all of KITTI's annotated depth, every 4th of a dense map of 1242 x 376.
MOST_PIXELS = 2**17
COARSE_BITS = 16  # of a float32: a precision of 1 %


@dataclass(frozen=True)
class MaskedTruth:
    """The valid pixels of one image, small enough to keep those of a whole data set."""

    depth: np.ndarray  # (n,) float32 metres, n <= MOST_PIXELS
    row: np.ndarray  # (n,) int16
    size: tuple[int, int]  # height and width of the image, pixels
    is_part: bool = False  # of the valid pixels

    @classmethod
    def of(cls, truth: np.ndarray, valid: np.ndarray) -> MaskedTruth:
        """Keep the pixels of truth (H W), metres, where valid (H W) is true; evenly spaced ones of too many."""
        height, width = truth.shape
        places = np.flatnonzero(valid)
        is_part = len(places) > MOST_PIXELS
        if is_part:
            places = places[np.linspace(0, len(places) - 1, MOST_PIXELS).round().astype(np.intp)]
        depth = truth.reshape(-1)[places].astype(np.float32)
        return cls(depth, (places // width).astype(np.int16), (height, width), is_part)


class Baselines:
    """The best constant depth and the mean depth of each row, fitted once."""

    def __init__(self, truths: Sequence[MaskedTruth]):
        self._truths = truths
        self._constant = best_constant_depth([t.depth for t in truths])
        self._row_mean = RowMeanDepth(truths)

    def score(self, protocol: DepthProtocol) -> dict[str, dict[str, Any]]:
        """Score both by the metrics that need no maps, aligned as predictions are; describe how each was made."""
        aligned = protocol.alignment.constant
        part = f", at most {MOST_PIXELS} pixels of each" if any(t.is_part for t in self._truths) else ""
        fitted_to = f"the truth of the evaluated items{part}"
        constant, bins = self._constant, self._row_mean.bins
        return {
            "constant_depth": {
                "depth_m": f"{aligned}, per image: what any constant becomes" if aligned else constant,
                "fitted_to": f"{fitted_to}, smallest mean AbsRel",
                **self._mean(protocol, lambda t: np.full(t.depth.shape, constant)),
            },
            "row_mean_depth": {
                "depth_m": f"mean of each of {bins} rows{', then aligned per image' * bool(aligned)}",
                "fitted_to": fitted_to,
                **self._mean(protocol, self._row_mean.predict),
            },
        }

    def _mean(self, protocol: DepthProtocol, guess_of: Callable[[MaskedTruth], np.ndarray]) -> Scores:
        scores = []
        for truth in self._truths:
            guess, target = guess_of(truth), truth.depth.astype(np.float64)
            scores.append(protocol.score(protocol.alignment.align_baseline(guess, target), target))
        return protocol.mean(scores, protocol.pixel_keys)


def best_constant_depth(truths: Sequence[np.ndarray]) -> float:
    """Find the constant depth in metres with the smallest AbsRel over all images, exactly.

    truths are the valid depths of each image, (n_i,) in metres, positive, n_i >= 1. The mean over images of
    mean(|c - t| / t) is a weighted sum of distances to c, so its minimum is the weighted median of the truths with
    weights 1 / (t * pixels of the image). Returns the smallest minimiser, one of the given depths, as float32.
    """
    # Positive floats sort like their bits. The upper half of the bits selects the depths to sort: sorting all would
    # take 40 bytes a pixel, gigabytes for the annotated depth of a test set.
    whole = [np.ascontiguousarray(t, np.float32) for t in truths]
    coarse = np.zeros(1 << (32 - COARSE_BITS))
    for t in whole:
        coarse += np.bincount(_coarse(t), weights=_weight(t), minlength=len(coarse))
    below = np.cumsum(coarse)
    place = int(np.searchsorted(below, below[-1] / 2))
    near = [(t[chosen], _weight(t)[chosen]) for t in whole if (chosen := _coarse(t) == place).any()]
    depth, weight = (np.concatenate(column) for column in zip(*near, strict=True))
    order = np.argsort(depth)
    reached = below[place] - coarse[place] + np.cumsum(weight[order])
    return float(depth[order[min(np.searchsorted(reached, below[-1] / 2), len(order) - 1)]])


def _coarse(depth: np.ndarray) -> np.ndarray:
    return depth.view(np.uint32) >> COARSE_BITS


def _weight(depth: np.ndarray) -> np.ndarray:
    return 1 / (depth.astype(np.float64) * len(depth))


class RowMeanDepth:
    """Mean true depth of each image row over all images.

    Rows of images of different heights are matched by their fraction of the height, in as many bins as the tallest
    image has rows.
    """

    def __init__(self, truths: Sequence[MaskedTruth]):
        self.bins = max(t.size[0] for t in truths)
        total, count = np.zeros(self.bins), np.zeros(self.bins)
        for truth in truths:
            place = self._bin(truth)
            total += np.bincount(place, weights=truth.depth, minlength=self.bins)
            count += np.bincount(place, minlength=self.bins)
        self._mean = total / np.maximum(count, 1)  # bins without truth are never read

    def predict(self, truth: MaskedTruth) -> np.ndarray:
        """Return depth (n,) in metres at the pixels of an image that was averaged."""
        return self._mean[self._bin(truth)]

    def _bin(self, truth: MaskedTruth) -> np.ndarray:
        return (2 * truth.row.astype(np.int64) + 1) * self.bins // (2 * truth.size[0])  # centre of the pixel
