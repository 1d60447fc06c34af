"""Align predicted depth with metres, one fit per image.

Monocular training leaves scale open, so it comes from the truth (`median`, Zhou et al., arXiv:1704.07813). Training
with a stereo pair gives depth up to the unit of the baseline (`stereo`). Networks trained on many data sets give
inverse depth up to scale and shift (`lsqr_disp`, MiDaS, arXiv:1907.01341). The monocular depth challenge of 2025 fits
depth, whatever was predicted, without the extremes of the prediction (`lsqr_depth_trim`, arXiv:2504.17787).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from trainer.types import METRES_PER_UNIT

CONSTANT = 1e-6  # relative spread below which numbers differ by float32 rounding (1e-7) alone
INFINITE = 1e10  # stands for infinite depth; its inverse is not 0
TRIMMED = 5  # per cent of the predictions, at either end, that take no part in a trimmed fit


@dataclass(frozen=True)
class Fit:
    """Scale and shift of depth, or of inverse depth."""

    scale: float
    shift: float = 0.0
    of_inverse: bool = False
    fallback: str = ""  # a key of `FALLBACKS`: what was fitted instead of what the alignment says

    def apply(self, depth: np.ndarray) -> np.ndarray:
        """Convert depth, any shape and unit, to metres. Depth 0 means missing; its inverse is 0.

        A shift may give results <= 0. A protocol clips them to its smallest depth, so a depth beyond infinity counts as
        nearest, as in the evaluators of arXiv:2208.01489 and arXiv:2307.10713.
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

    A prediction with a median <= 0 keeps its scale.
    """
    centre = float(np.median(pred))
    return Fit(float(np.median(truth)) / centre if centre > 0 else 1.0)


def median_lower(pred: np.ndarray, truth: np.ndarray) -> Fit:
    """Scale as `median` does, but an even count takes the lower of its two middle values, as `torch.median` does.

    A prediction with a median <= 0 keeps its scale.
    """
    centre = _lower_middle(pred)
    return Fit(_lower_middle(truth) / centre if centre > 0 else 1.0)


def _lower_middle(values: np.ndarray) -> float:
    middle = (values.size - 1) // 2
    return float(np.partition(values, middle, axis=None)[middle])


def lsqr_disp(pred: np.ndarray, truth: np.ndarray) -> Fit:
    """Minimise the squared error of a * disp + b against inverse true depth (arXiv:1907.01341, arXiv:2307.10713)."""
    return Fit(*least_squares(invert(pred), 1 / truth), of_inverse=True)


def lsqr_depth(pred: np.ndarray, truth: np.ndarray) -> Fit:
    """Minimise the squared error of a * depth + b against true depth."""
    return Fit(*least_squares(pred, truth))


# Where a trimmed fit is not defined: what takes its place, and why.
FALLBACKS = {
    "untrimmed": "is constant, or one pixel, without its extremes: it is fitted with them",
    "median": "is constant, or one pixel: it is scaled by the ratio of medians",
}


def lsqr_depth_trim(pred: np.ndarray, truth: np.ndarray) -> Fit:
    """Minimise the squared error of a * depth + b against true depth, without the extremes of the prediction.

    Pixels take part whose prediction lies strictly between its 5th and its 95th percentile over the valid pixels; a may
    become negative. MDEC 2025, arXiv:2504.17787, which does not say what holds where these are fewer than two or all
    alike: here the fit takes all valid pixels then, and where these are alike, too, the ratio of medians. `fallback` of
    the fit says so.
    """
    low, high = np.percentile(pred, (TRIMMED, 100 - TRIMMED))
    inside = (low < pred) & (pred < high)
    for chosen, fallback in ((inside, ""), (np.ones_like(inside), "untrimmed")):
        if not is_constant(pred[chosen]):
            return Fit(*least_squares(pred[chosen], truth[chosen]), fallback=fallback)
    return replace(median(pred, truth), fallback="median")


def is_constant(x: np.ndarray) -> bool:
    """Whether the numbers x (n,) are equal but for rounding, or fewer than two."""
    return len(x) < 2 or bool(np.ptp(x) <= CONSTANT * np.abs(x).max())


def least_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Find a, b that minimise sum (a x + b - y)^2, x and y (n,).

    A constant x gets a = 0, b = mean(y). Solves centred normal equations: x and y may be large beside their spread.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = x.mean(), y.mean()
    if is_constant(x):
        return 0.0, float(mean_y)
    a = float(np.sum((x - mean_x) * (y - mean_y)) / np.sum((x - mean_x) ** 2))
    return a, float(mean_y - a * mean_x)


def invert(depth: np.ndarray) -> np.ndarray:
    """Invert depth or inverse depth; 0 stays 0."""
    return np.divide(1.0, depth, out=np.zeros(np.shape(depth)), where=np.asarray(depth) != 0)


@dataclass(frozen=True)
class Alignment:
    """A way to fit, as stored in result files.

    `constant` is the value that any constant prediction becomes; "" = unchanged, the fit does not use the truth.
    `of_shift` is the quantity that gets a shift beside its scale; "" = none.
    """

    fit: FitTo
    rule: str | float  # text, or the factor of every image
    constant: str = ""
    of_shift: str = ""

    @property
    def has_fallback(self) -> bool:
        """Whether a constant prediction, to which nothing can be fitted, is left to another rule."""
        return self.fit is lsqr_depth_trim

    @property
    def has_shift(self) -> bool:
        return bool(self.of_shift)

    def align_baseline(self, guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Align a depth in metres that was made without the image, if the fit uses the truth."""
        return self.fit(guess, truth).apply(guess) if self.constant else guess


def _shifted(fit: FitTo, of: str, constant: str) -> Alignment:
    which = "" if fit is not lsqr_depth_trim else f", without the {TRIMMED} % nearest and farthest predictions"
    rule = f"scale and shift of {of}, least squares{which}, per image; an aligned {of} <= 0 counts as min_depth"
    return Alignment(fit, rule, constant, of)


ALIGNMENTS: dict[str, Alignment] = {
    "median": Alignment(median, "median(truth) / median(prediction), per image", "median(truth)"),
    "median_lower": Alignment(
        median_lower, "lower median(truth) / lower median(prediction), per image", "lower median(truth)"
    ),
    "stereo": Alignment(stereo, METRES_PER_UNIT),
    "none": Alignment(none, 1.0),
    "lsqr_disp": _shifted(lsqr_disp, "inverse depth", "1 / mean(1 / truth)"),
    "lsqr_depth": _shifted(lsqr_depth, "depth", "mean(truth)"),
    "lsqr_depth_trim": _shifted(lsqr_depth_trim, "depth", "median(truth)"),
}
