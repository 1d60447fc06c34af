"""Does an uncertainty find the errors? Sparsification curves and their areas, AUSE and AURG: arXiv:2005.06209.

Pixels are removed in steps, the least certain first. A curve holds the error of those that are left; the better the
uncertainty, the faster it falls. The best possible curve removes the pixels in the order of their true error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from trainer.metrics import Curves, DepthMaps, MapMetricSet, Metric
from trainer.runtime.errors import UserError

STEPS = 50
Levels: TypeAlias = "tuple[np.ndarray, np.ndarray]"  # (N,), (number of levels,)
INLIER = 1.25  # ratio of depths below which a pixel is right, for d1
RULE = (
    "per image; removed are int(pixels * k / steps) for k = 0 .. steps - 1, the largest uncertainty first, equal ones"
    " (as float32) in equal shares; areas by trapezoids of width 1 / steps. ause: between the curve and that of the"
    " true error, by |p - t| / t, |p - t|, max(p / t, t / p); aurg: between the error of all pixels and the curve"
)

# For each error: how wrong a pixel is, what is averaged over pixels, and what the mean becomes.
_RootOf = Callable[[np.ndarray], np.ndarray]
_ERRORS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], _RootOf, _RootOf]] = {
    "abs_rel": (lambda p, t: np.abs(p - t) / t, lambda e: e, lambda mean: mean),
    "rmse": (lambda p, t: np.abs(p - t), np.square, np.sqrt),
    "d1": (lambda p, t: np.maximum(p / t, t / p), lambda e: (e >= INLIER).astype(float), lambda mean: mean),
}
_SHOWN = {"abs_rel": ("Abs Rel", "fraction"), "rmse": ("RMSE", "m"), "d1": ("1 - δ<1.25", "fraction")}


class Sparsification(MapMetricSet):
    """AUSE and AURG of AbsRel, RMSE and 1 - d1 (arXiv:2005.06209), see `RULE`; not registered: it needs an uncertainty.

    Args:
        steps: of the curves; the published numbers have 50.

    Raises UserError for fewer than 2 steps.
    """

    source = "Poggi et al., arXiv:2005.06209"
    version = 1
    needs = frozenset({"uncertainty"})
    metrics = tuple(
        Metric(f"{area}_{key}", unit, higher_is_better=area == "aurg", title=f"{area.upper()} {title}")
        for key, (title, unit) in _SHOWN.items()
        for area in ("ause", "aurg")
    )

    def __init__(self, steps: int = STEPS):
        if steps < 2:
            raise UserError(f"sparsification needs 2 steps or more, got {steps}")
        self.steps = steps
        self.rule = f"{steps} steps; {RULE}"

    def compute(self, maps: DepthMaps) -> dict[str, float]:
        return self.measure(maps)[0]

    def measure(self, maps: DepthMaps) -> tuple[dict[str, float], Curves]:
        """Score an image. Curves (steps,): `removed`, a share, and `<error>_by_uncertainty`, `<error>_by_error`.

        Raises ValueError without an uncertainty.
        """
        if maps.uncertainty is None:
            raise ValueError("sparsification: the image comes without uncertainty")
        pred, truth, doubt = (m[maps.scored] for m in (maps.pred, maps.truth, maps.uncertainty))
        by_doubt = levels(doubt)
        areas: dict[str, float] = {}
        curves: Curves = {"removed": np.arange(self.steps) / self.steps}
        for key, (error_of, value_of, finish) in _ERRORS.items():
            error = error_of(pred, truth)
            value = value_of(error)
            found, best = (finish(remaining_means(value, by, self.steps)) for by in (by_doubt, levels(error)))
            areas |= {f"ause_{key}": area(found - best), f"aurg_{key}": area(found[0] - found)}
            curves |= {f"{key}_by_uncertainty": found, f"{key}_by_error": best}
        return areas, curves


def levels(by: np.ndarray) -> Levels:
    """Rank numbers (N,): the level of each, from 0 for the least, and how many share each level.

    Numbers are equal as float32, so that rounding in a resize breaks no tie.
    """
    _, level, counts = np.unique(by.astype(np.float32), return_inverse=True, return_counts=True)
    return level.reshape(-1), counts


def remaining_means(values: np.ndarray, by: Levels, steps: int) -> np.ndarray:
    """Average the values (N,) that are left when int(N k / steps) of them are removed, for k = 0 .. steps - 1.

    Those of the highest level go first. Where only a part of a level goes, all of it loses the same share: the mean
    over all orders of equal pixels. Returns (steps,).
    """
    level, counts = by
    sums = np.bincount(level, weights=values)
    left = len(values) - len(values) * np.arange(steps) // steps  # from the lowest level on
    total = np.interp(left, np.cumsum([0, *counts]), np.cumsum([0, *sums]))
    return np.asarray(total / left)


def area(heights: np.ndarray) -> float:
    """Integrate heights (n,) at distance 1 / n by trapezoids, to 12 decimals: rounding gains nothing."""
    found = (heights.sum() - (heights[0] + heights[-1]) / 2) / len(heights)
    return round(float(found), 12) + 0.0  # never -0.0
