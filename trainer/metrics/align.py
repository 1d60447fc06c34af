"""The factor that turns the depth of a network into metres, one per image.

Monocular training leaves the scale of the world open, so the truth has to lend it (`median`, Zhou et al.,
arXiv:1704.07813). Training with a stereo pair knows it up to the unit in which the baseline was given
(`stereo`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.types import METRES_PER_UNIT

Factor = Callable[[np.ndarray, np.ndarray], float]  # predicted, true depth of the valid pixels (n,) -> factor


def none(pred: np.ndarray, truth: np.ndarray) -> float:
    """Take the prediction as metres."""
    return 1.0


def stereo(pred: np.ndarray, truth: np.ndarray) -> float:
    """Scale by the true baseline over the one used in training: 0.54 m / 0.1 = 5.4 (arXiv:1806.01260)."""
    return METRES_PER_UNIT


def median(pred: np.ndarray, truth: np.ndarray) -> float:
    """Scale so that the medians over the valid pixels agree; an even count averages its two middle values."""
    return float(np.median(truth) / np.median(pred))


@dataclass(frozen=True)
class Alignment:
    """A way to find the factor, and what a result file says about it.

    `uses_truth` decides how a baseline, which is in metres already, is treated: it may borrow the scale of
    each image where the network does, and is taken as it is otherwise.
    """

    factor: Factor
    rule: str | float
    uses_truth: bool = False

    def baseline_factor(self, pred: np.ndarray, truth: np.ndarray) -> float:
        """The factor for a depth in metres that was made without the image."""
        return self.factor(pred, truth) if self.uses_truth else 1.0


ALIGNMENTS: dict[str, Alignment] = {
    "median": Alignment(median, "median(truth) / median(prediction), per image", uses_truth=True),
    "stereo": Alignment(stereo, METRES_PER_UNIT),
    "none": Alignment(none, 1.0),
}
