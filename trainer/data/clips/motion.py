"""Measure frames of a film: motion between two, sharpness, interlacing, pixels that never change.

Frames are compared at a width of 320 pixels by tracked corners (Shi and Tomasi, CVPR 1994; Bouguet 2000). Parallax is
what a homography cannot explain (Hartley and Zisserman, 2004, ch. 13): a camera that only turns has none, and
from a film without parallax no depth can be learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.runtime.optional import require

WIDTH = 320  # pixels; all distances below are in these
_CORNERS, _FEWEST_CORNERS = 400, 20
_BURNT = 235  # mean grey level above which a pixel that never changes is taken for sky

Picture = NDArray[np.uint8]


class Comparison(NamedTuple):
    """How a frame differs from an earlier one; distances in pixels."""

    found: float  # share of the corners that were found again
    shift: float = 0.0  # median displacement of the corners
    parallax: float = 0.0  # upper quartile of the distances to the best homography
    brightness: float = 0.0  # relative change of the mean


def small_grey(frame: Picture) -> Picture:
    """Resize a frame (h w 3), RGB, to grey values (h 320)."""
    cv2 = _opencv()
    height = max(round(frame.shape[0] * WIDTH / frame.shape[1]), 8)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small: Picture = cv2.resize(grey, (WIDTH, height), interpolation=cv2.INTER_AREA)
    return small


def is_blank(grey: Picture) -> bool:
    """Return whether a frame shows nothing: fewer than 20 corners."""
    return len(_corners(grey)) < _FEWEST_CORNERS


def sharpness(grey: Picture) -> float:
    """Return the variance of the Laplacian, comparable between frames of one film only."""
    cv2 = _opencv()
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def combing(frame: Picture) -> float:
    """Measure interlacing in a frame (h w 3), RGB: how many more pixels stick out of their rows than of their columns.

    A pixel sticks out when both neighbours are darker, or both brighter, by more than 8 levels. 0 for less than 2 %.
    """
    cv2 = _opencv()
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.int16)
    rows, columns = _sticking_out(grey), _sticking_out(grey.T)
    return rows / max(columns, 1e-3) if rows > 0.02 else 0.0


def _sticking_out(grey: NDArray[np.int16]) -> float:
    above, below = grey[1:-1] - grey[:-2], grey[1:-1] - grey[2:]
    return float(((np.minimum(above, below) > 8) | (np.maximum(above, below) < -8)).mean())


def compare(before: Picture, now: Picture) -> Comparison:
    """Track the corners of `before` into `now`, both (h w) grey, and back; those that do not come back do not count."""
    cv2 = _opencv()
    start = _corners(before)
    if len(start) < _FEWEST_CORNERS:
        return Comparison(0.0)
    options = {"winSize": (15, 15), "maxLevel": 3}
    end, ok, _ = cv2.calcOpticalFlowPyrLK(before, now, start, None, **options)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(now, before, end, None, **options)
    way_back = np.linalg.norm((back - start).reshape(-1, 2), axis=1)
    good = (ok.ravel() == 1) & (ok_back.ravel() == 1) & (way_back < 1)
    found = float(good.mean())
    if good.sum() < _FEWEST_CORNERS:
        return Comparison(found)
    a, b = start.reshape(-1, 2)[good], end.reshape(-1, 2)[good]
    mean_before, mean_now = float(before.mean()), float(now.mean())
    return Comparison(
        found,
        float(np.median(np.linalg.norm(b - a, axis=1))),
        _parallax(a, b),
        abs(mean_now - mean_before) / max(mean_before, 1.0),
    )


def lit_as(before: Picture, now: Picture) -> Picture:
    """Give `now` the mean and contrast of `before`, both (h w) grey: corners are tracked by their brightness."""
    a, b = before.astype(np.float32), now.astype(np.float32)
    lit: Picture = np.clip((b - b.mean()) * (a.std() / max(float(b.std()), 1.0)) + a.mean(), 0, 255).astype(np.uint8)
    return lit


class Stillness:
    """Finds the pixels that never change over a film, by the running mean and variance (h w) of grey values."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: NDArray[np.float64] = np.zeros(())
        self._squares: NDArray[np.float64] = np.zeros(())

    def add(self, grey: Picture) -> None:
        values = grey.astype(np.float64)
        self._count += 1
        self._sum = self._sum + values
        self._squares = self._squares + values**2

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the count and the sums as arrays."""
        return {"count": np.array(self._count), "sum": self._sum, "squares": self._squares}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` returned."""
        self._count, self._sum, self._squares = int(state["count"]), state["sum"], state["squares"]

    def share(self) -> float:
        """Return the share of the pixels that keep their value, within 3 grey levels, while others change."""
        still = self._still()
        return 0.0 if still is None else float(still.mean())

    def changing(self) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom, 0..1, of the picture without border rows and columns that mostly keep."""
        still = self._still()
        if still is None:
            return 0.0, 0.0, 1.0, 1.0
        top, bottom = _extent((~still).mean(axis=1) > 0.5)
        inside = still[round(top * len(still)) : round(bottom * len(still))]
        left, right = _extent((~inside).mean(axis=0) > 0.5)
        return left, top, right, bottom

    def _still(self) -> NDArray[np.bool_] | None:
        """Mark the pixels (h w) that keep their value, except a burnt-out sky; None for too few or still frames."""
        if self._count < 10:
            return None
        mean = self._sum / self._count
        deviation = np.sqrt(np.maximum(self._squares / self._count - mean**2, 0))
        still: NDArray[np.bool_] = (deviation < 3) & (mean < _BURNT)
        return still if np.percentile(deviation, 75) > 8 else None


def uneven_share(times: Sequence[float]) -> float:
    """Return the share of the steps between times that differ from the median step by more than half of it."""
    steps = np.diff(np.asarray(times, np.float64))
    usual = float(np.median(steps)) if len(steps) else 0.0
    return float((np.abs(steps - usual) > 0.5 * usual).mean()) if usual > 0 else 0.0


def _extent(wanted: NDArray[np.bool_]) -> tuple[float, float]:
    """Return first and one past the last true place as shares of the length; all of it for fewer than three.

    A place at a border inside is left out: it may be half of the border.
    """
    places, length = np.flatnonzero(wanted), len(wanted)
    if len(places) < 3:
        return 0.0, 1.0
    first, last = int(places[0]), int(places[-1]) + 1
    return (first + (first > 0)) / length, (last - (last < length)) / length


def _corners(grey: Picture) -> NDArray[np.float32]:
    cv2 = _opencv()
    corners = cv2.goodFeaturesToTrack(grey, _CORNERS, 0.01, 7)
    return np.zeros((0, 1, 2), np.float32) if corners is None else corners


def _parallax(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the upper quartile of the distances from the homography that explains most of a -> b, both (n 2)."""
    cv2 = _opencv()
    H, _ = cv2.findHomography(a, b, cv2.RANSAC, 1.0)
    if H is None:
        return 0.0
    explained = cv2.perspectiveTransform(a[:, None].astype(np.float32), H)[:, 0]
    return float(np.percentile(np.linalg.norm(explained - b, axis=1), 75))


def _opencv() -> Any:
    return require("cv2", "hints", "Looking through videos")
