"""Pseudo-labels of rendered scenes: the true disparity under an affine map, with planted errors on request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trainer.data.world.materials import facade
from trainer.data.world.raycast import View
from trainer.data.world.scenes import Scene

_LABEL = 5  # last word of entropy: scenes draw from other ones
_DRAWS = 500  # of house fronts, to learn how red they are
TOO_SMALL = 0.3  # times the disparity of a front that is seen wrong


@dataclass(frozen=True)
class Teacher:
    """A teacher that is right up to scale and shift, but for the reddest house fronts, which seem much too far.

    It is wrong as networks are: alike in all pictures, so that a student can learn it. Labels are a function of `seed`
    and the number of the item.

    Args:
        seed: of all labels.
        wrong: share of the house fronts that are seen wrong, 0..1.
    """

    seed: tuple[int, ...]
    wrong: float = 0.0

    def label(self, index: int, depth: NDArray[np.floating], mistaken: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Make the label (h w) of an item, > 0 everywhere, of its depth (h w) in metres, and of `mistaken` (h w)."""
        rng = np.random.default_rng([*self.seed, index, _LABEL])
        disp = 1 / depth.astype(np.float64)
        scale, shift = 10 ** rng.uniform(-1, 1), rng.uniform(0, 1) * disp.mean()
        disp[mistaken] *= TOO_SMALL
        return (scale * (disp + shift)).astype(np.float32)

    def mistaken(self, scene: Scene, frame: int, view: View) -> NDArray[np.bool_]:
        """Return where (h w) the label of a view is wrong: on house fronts that are redder than most."""
        if not self.wrong:
            return np.zeros(view.size[::-1], np.bool_)
        table = scene.table
        is_front = table["sill"] > 0
        return (is_front & (table["r"] > self._redness * table["b"]))[scene.faces(frame, view)]

    @cached_property
    def _redness(self) -> float:
        """Red over blue that a share `wrong` of all house fronts exceeds."""
        rng = np.random.default_rng(0)
        colours = np.array([facade(rng).colour for _ in range(_DRAWS)])
        return float(np.quantile(colours[:, 0] / colours[:, 2], 1 - self.wrong))
