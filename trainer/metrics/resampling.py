"""How sure a mean over images is: bootstrap intervals, and a test of paired differences by flipped signs.

Frames of one scene (a drive, a clip) look alike, so scenes are resampled, too: an interval over images alone is too
narrow for a statement about other places.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 2000
FLIPS = 10_000  # random choices of signs; fewer units than log2 of this are enumerated
SEED = 0
LEAST = 6  # units: the range of fewer covers the median with less than 95 % (1 - 2^(1-n))
RULE = (
    f"{100 * LEVEL:.0f} %, bootstrap of the mean, {RESAMPLES} resamples, seed {SEED}, percentiles widened for few units"
    " (arXiv:1411.5279)"
)
_CHUNK = 4_000_000  # counts in memory at a time


def intervals(items: Sequence[Mapping[str, Any]], keys: Collection[str]) -> dict[str, Any]:
    """Return the intervals of the means of `keys` over items (rows of numbers), for result files.

    Keys: "rule"; "images" and, where every item has a `scene` and some share one, "scenes": each with "count" and
    [low, high] of each key that `LEAST` units or more have. The mean of scenes is that over their images.
    """
    keys = [key for key in keys if any(key in item for item in items)]
    values = np.array([[item.get(key, np.nan) for key in keys] for item in items], np.float64).reshape(len(items), -1)
    found: dict[str, Any] = {"rule": RULE, "images": _section(keys, values)}
    groups = scene_numbers([item.get("scene") for item in items])
    if groups is not None:
        found["scenes"] = _section(keys, values, groups)
    return found


def scene_numbers(scenes: Sequence[str | None]) -> NDArray[np.int64] | None:
    """Number the scenes of items, (n,) from 0; None when an item has none, or none is shared."""
    numbers = {scene: number for number, scene in enumerate(dict.fromkeys(scenes))}
    if None in numbers or len(numbers) == len(scenes):
        return None
    return np.array([numbers[scene] for scene in scenes], np.int64)


def bootstrap(values: Floats, groups: NDArray[np.int64] | None = None) -> Floats:
    """Return the interval (k 2) of the means of values (n k), NaN = absent.

    Rows are drawn with replacement, or whole groups of them, numbered from 0, where `groups` (n,) is given. The mean is
    always that over rows. NaN for a column that fewer than `LEAST` units have. Expanded percentiles: Hesterberg, *What
    Teachers Should Know about the Bootstrap*, arXiv:1411.5279, sec. 5.2.
    """
    from scipy.special import ndtr, stdtrit

    sums, counts = _by_unit(values, groups)
    drawn_sums, drawn_counts = (np.concatenate(parts) for parts in zip(*_resampled(sums, counts), strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = drawn_sums / drawn_counts  # (RESAMPLES k)
    units = (counts > 0).sum(axis=0)
    ends = np.full((values.shape[1], 2), np.nan)
    for i_key, n in enumerate(units):
        known = means[np.isfinite(means[:, i_key]), i_key]
        if n >= LEAST and known.size:
            tail = float(ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - LEVEL) / 2)))
            ends[i_key] = np.quantile(known, [tail, 1 - tail])
    return ends


def sign_flips(differences: Floats, groups: NDArray[np.int64] | None = None) -> float:
    """Return the two-sided p that differences (n,) between pairs have a mean of 0: their signs could as well be others.

    The signs of whole groups, numbered from 0, are flipped together where `groups` (n,) is given. All choices are
    enumerated where they are fewer than `FLIPS`; else as many are drawn, and the observed one counts as one of them.
    Fisher, *The Design of Experiments* (1935), sec. 21.
    """
    sums = _by_unit(differences[:, None], groups)[0][:, 0]
    observed = abs(sums.sum()) - 1e-12 * np.abs(sums).sum()  # equal but for rounding is as far
    if 2 ** len(sums) <= FLIPS:
        choices = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        return float((np.abs((2.0 * choices - 1) @ sums) >= observed).mean())
    rng, hits = np.random.default_rng(SEED), 0
    for size in _chunks(FLIPS, len(sums)):
        signs = 2.0 * rng.integers(0, 2, (size, len(sums)), dtype=np.int8) - 1
        hits += int((np.abs(signs @ sums) >= observed).sum())
    return (1 + hits) / (1 + FLIPS)


def _section(keys: Sequence[str], values: Floats, groups: NDArray[np.int64] | None = None) -> dict[str, Any]:
    count = len(values) if groups is None else int(groups.max()) + 1
    ends = bootstrap(values, groups) if count >= LEAST else ()
    known = {key: [float(f"{v:.6g}") for v in pair] for key, pair in zip(keys, ends, strict=False)}
    return {"count": count, **{key: pair for key, pair in known.items() if np.isfinite(pair).all()}}


def _by_unit(values: Floats, groups: NDArray[np.int64] | None) -> tuple[Floats, Floats]:
    """Return the sum and the number of known values of each unit (a row, or a group of them), each (units k)."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    if groups is None:
        return filled, known.astype(np.float64)
    sums, counts = (np.zeros((int(groups.max()) + 1, values.shape[1])) for _ in range(2))
    np.add.at(sums, groups, filled)
    np.add.at(counts, groups, known)
    return sums, counts


def _resampled(sums: Floats, counts: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Yield sums and counts of resamples (r k), all `RESAMPLES` of them in pieces."""
    rng, n = np.random.default_rng(SEED), len(sums)
    for size in _chunks(RESAMPLES, n):
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)  # multinomial
        yield times @ sums, times @ counts


def _chunks(total: int, width: int) -> Iterator[int]:
    most = max(1, _CHUNK // width)
    yield from (min(most, total - start) for start in range(0, total, most))
