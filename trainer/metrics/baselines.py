"""What can be scored without looking at the image: depths that a network has to beat. Both are fitted to the evaluated truth.

Fitting to the very truth that scores them favours the baselines, so beating one is a statement that errs on the safe side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def best_constant_depth(truths: Sequence[np.ndarray]) -> float:
    """Find the one depth in metres that has the smallest AbsRel over all images, exactly.

    The mean over images of mean(|c - t| / t) is a weighted sum of distances to c, so its minimum is the weighted median of
    the truths with weights 1 / (t * pixels of the image).

    Args:
        truths: valid true depths of each image, (n_i,) in metres, positive, n_i >= 1.

    Returns:
        The smallest of the minimisers; one of the given depths.
    """
    depth = np.concatenate(truths).astype(np.float64)
    weight = 1 / (depth * np.repeat([len(t) for t in truths], [len(t) for t in truths]))
    order = np.argsort(depth, kind="stable")
    below = np.cumsum(weight[order])
    return float(depth[order[np.searchsorted(below, below[-1] / 2)]])


class RowMeanDepth:
    """Mean true depth of each image row: what the ground plane alone gives away.

    Rows of images of different heights meet at the same fraction of the height, in as many bins as the tallest has rows.
    """

    def __init__(self, truths: Sequence[np.ndarray], rows: Sequence[np.ndarray], heights: Sequence[int]):
        """Average over the pixels of all images.

        Args:
            truths: valid true depths of each image, (n_i,) in metres.
            rows: their image rows, (n_i,) int in [0, height_i).
            heights: heights of the images in pixels.
        """
        self.bins = max(heights)
        total = np.zeros(self.bins)
        count = np.zeros(self.bins)
        for truth, row, height in zip(truths, rows, heights, strict=True):
            place = self._bin(row, height)
            total += np.bincount(place, weights=truth, minlength=self.bins)
            count += np.bincount(place, minlength=self.bins)
        self._mean = total / np.maximum(count, 1)  # bins without truth are never asked for

    def predict(self, row: np.ndarray, height: int) -> np.ndarray:
        """Depth (n,) in metres at the given rows (n,) of an image that took part in the average."""
        return self._mean[self._bin(row, height)]

    def _bin(self, row: np.ndarray, height: int) -> np.ndarray:
        return ((row + 0.5) / height * self.bins).astype(np.int64)
