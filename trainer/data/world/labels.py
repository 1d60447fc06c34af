"""Pseudo-labels of rendered scenes: the true disparity under an affine map, with planted errors on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LABEL = 5  # last word of entropy: scenes and items draw from other ones


@dataclass(frozen=True)
class Teacher:
    """A teacher that is right up to scale and shift, but for a wrong building in some pictures.

    Labels are a function of `seed` and the number of the item.

    Args:
        seed: of all labels.
        size: (w, h) of the pictures.
        wrong: share of the pictures with a planted error, 0..1.
    """

    seed: tuple[int, ...]
    size: tuple[int, int]
    wrong: float = 0.0

    def label(self, index: int, depth: NDArray[np.floating]) -> NDArray[np.float32]:
        """Make the label (h w) of an item, > 0 everywhere, of its depth (h w) in metres, > 0 everywhere."""
        rng = self._rng(index, "affine")
        disp = 1 / depth.astype(np.float64)
        planted = self.planted(index, depth.shape)
        if planted.any():
            near = self._rng(index, "kind").random() < 0.5
            inside = disp[planted]
            disp[planted] = 2.5 * inside.max() if near else 0.3 * inside.min()
        scale, shift = 10 ** rng.uniform(-1, 1), rng.uniform(0, 1) * disp.mean()
        return (scale * (disp + shift)).astype(np.float32)

    def planted(self, index: int, shape: Sequence[int] | None = None) -> NDArray[np.bool_]:
        """Return where (h w), or of another `shape`, the label of an item is wrong: nowhere, or in one rectangle.

        Its sides are 1/5 to 2/5 of the picture's. Its disparity is 2.5 times the largest one of what is seen there, or
        0.3 times the smallest, with equal chances.
        """
        mask = np.zeros(shape or self.size[::-1], np.bool_)
        rng = self._rng(index, "place")
        if rng.random() < self.wrong:
            rows, columns = (_interval(rng, side) for side in mask.shape)
            mask[rows, columns] = True
        return mask

    def _rng(self, index: int, what: str) -> np.random.Generator:
        return np.random.default_rng([*self.seed, index, ("affine", "place", "kind").index(what), _LABEL])


def _interval(rng: np.random.Generator, side: int) -> slice:
    length = max(1, round(rng.uniform(0.2, 0.4) * side))
    start = int(rng.integers(side - length + 1))
    return slice(start, start + length)
