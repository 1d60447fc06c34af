"""What turns the depth of a network into metres, one fit per image.

Monocular training leaves the scale of the world open, so the truth has to lend it (`median`, Zhou et al.,
arXiv:1704.07813). Training with a stereo pair knows it up to the unit in which the baseline was given
(`stereo`). Networks trained on many data sets know inverse depth up to scale and shift (`lsqr_disp`, MiDaS,
arXiv:1907.01341).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.types import METRES_PER_UNIT

CONSTANT = 1e-6  # spread over magnitude below which numbers differ by the rounding of float32 (1e-7) alone
INFINITE = 1e10  # depth that stands for an infinite one: farther than anything, and its inverse is not 0


@dataclass(frozen=True)
class Fit:
    """How one prediction becomes metres: scale and shift of its depth, or of its inverse depth."""

    scale: float
    shift: float = 0.0
    of_inverse: bool = False

    def apply(self, depth: np.ndarray) -> np.ndarray:
        """Turn depth, any shape and unit, into metres. A depth of 0, which is none, is 1/0 = 0 where inverted.

        What a shift brings to 0 or below is no depth either: a protocol clips it to the least it knows, so what the fit
        says is beyond infinity counts as nearest, as in the evaluators of arXiv:2208.01489 and arXiv:2307.10713.
        """
        if self.of_inverse:
            return invert(self.scale * invert(depth) + self.shift)
        return self.scale * depth + self.shift if self.shift else self.scale * depth


FitTo = Callable[[np.ndarray, np.ndarray], Fit]  # predicted, true depth of the valid pixels (n,) -> fit


def none(pred: np.ndarray, truth: np.ndarray) -> Fit:
    """Take the prediction as metres."""
    return Fit(1.0)


def stereo(pred: np.ndarray, truth: np.ndarray) -> Fit:
    """Scale by the true baseline over the one used in training: 0.54 m / 0.1 = 5.4 (arXiv:1806.01260)."""
    return Fit(METRES_PER_UNIT)


def median(pred: np.ndarray, truth: np.ndarray) -> Fit:
    """Scale so that the medians over the valid pixels agree; an even count averages its two middle values.

    A prediction whose median is 0 or less has nothing to scale: it stays as it is.
    """
    centre = float(np.median(pred))
    return Fit(float(np.median(truth)) / centre if centre > 0 else 1.0)


def lsqr_disp(pred: np.ndarray, truth: np.ndarray) -> Fit:
    """Minimise the squared error of a * disp + b against inverse true depth (arXiv:1907.01341, arXiv:2307.10713)."""
    return Fit(*least_squares(invert(pred), 1 / truth), of_inverse=True)


def lsqr_depth(pred: np.ndarray, truth: np.ndarray) -> Fit:
    """Minimise the squared error of a * depth + b against true depth."""
    return Fit(*least_squares(pred, truth))


def least_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Find a, b that minimise sum (a x + b - y)^2, x and y (n,).

    A constant x has many such lines, all with the value mean(y) there: it gets a = 0, b = mean(y). Centred normal
    equations: x and y may be large beside their spread.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = x.mean(), y.mean()
    if np.ptp(x) <= CONSTANT * np.abs(x).max():
        return 0.0, float(mean_y)
    a = float(np.sum((x - mean_x) * (y - mean_y)) / np.sum((x - mean_x) ** 2))
    return a, float(mean_y - a * mean_x)


def invert(depth: np.ndarray) -> np.ndarray:
    """Invert depth or inverse depth; 0 stays 0."""
    return np.divide(1.0, depth, out=np.zeros(np.shape(depth)), where=np.asarray(depth) != 0)


@dataclass(frozen=True)
class Alignment:
    """A way to find the fit, and what a result file says about it.

    `constant` says what any constant becomes by borrowing from the truth of each image; "" = it stays, nothing is
    borrowed. `of_shift`: what gets a shift beside its scale, "" = nothing.
    """

    fit: FitTo
    rule: str | float  # text, or the factor of every image
    constant: str = ""
    of_shift: str = ""

    @property
    def has_shift(self) -> bool:
        """Whether it finds scale and shift, not scale alone."""
        return bool(self.of_shift)

    def align_baseline(self, guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Bring a depth in metres that was made without the image to where a network would be brought.

        It borrows from each truth what a network borrows, and is taken as it is otherwise.
        """
        return self.fit(guess, truth).apply(guess) if self.constant else guess


def _shifted(fit: FitTo, of: str, constant: str) -> Alignment:
    rule = f"scale and shift of {of}, least squares, per image; an aligned {of} <= 0 counts as min_depth"
    return Alignment(fit, rule, constant, of)


ALIGNMENTS: dict[str, Alignment] = {
    "median": Alignment(median, "median(truth) / median(prediction), per image", "median(truth)"),
    "stereo": Alignment(stereo, METRES_PER_UNIT),
    "none": Alignment(none, 1.0),
    "lsqr_disp": _shifted(lsqr_disp, "inverse depth", "1 / mean(1 / truth)"),
    "lsqr_depth": _shifted(lsqr_depth, "depth", "mean(truth)"),
}
