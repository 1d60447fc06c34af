"""Does depth stay the same from frame to frame? The temporal alignment error, Video Depth Anything, arXiv:2501.12375.

The depth of a frame is moved into the next one, and back, by the motion of the camera, and compared with the depth that
is predicted there. Flicker of the scale shows, a steady error does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from trainer.metrics.align import Alignment, Fit, invert

LEAST_DISP = 1e-3  # inverse depth, before and after least squares in it
UNITS = {"tae_pct": "%"}
FORMULAS = {
    "tae_pct": "100 times the mean, over neighbouring frames and both directions, of mean |D - z| / D: D the depth"
    " predicted for a frame, z that of its neighbour, moved by the motion of the camera and rounded to the nearest"
    " pixel (arXiv:2501.12375). Of several points on a pixel the nearest counts, points behind the camera none, K is"
    " that of each frame, and a pair without common pixels is left out"
}


@dataclass(frozen=True)
class Frame:
    """One frame of a clip."""

    depth: np.ndarray  # (H W) in the unit of the motion; 0 = none
    scored: np.ndarray  # (H W) bool, the pixels that are compared
    K: np.ndarray  # (3 3) intrinsics in pixels of (H, W), pixel centres at integers


def moved_depth(frame: Frame, motion: np.ndarray, K: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Draw the points of a frame as a camera K (3 3) sees them that `motion` (4 4) maps them to.

    Returns (H W) = `size`, the depth of the nearest point on each pixel; 0 = none. Points behind the camera have none.
    """
    h, w = frame.depth.shape
    v, u = np.mgrid[:h, :w]
    rays = np.linalg.inv(frame.K) @ np.stack([u.ravel(), v.ravel(), np.ones(h * w)])
    depth = frame.depth.reshape(-1).astype(np.float64)
    points = motion[:3, :3] @ (rays * depth) + motion[:3, 3:]
    x, y, z = (K @ points)[:, (depth > 0) & (points[2] > 0)]
    with np.errstate(over="ignore"):  # a point beside the camera, far outside the picture
        column, row = np.rint(x / z), np.rint(y / z)
    inside = (column >= 0) & (column < size[1]) & (row >= 0) & (row < size[0])
    drawn = np.full(size[0] * size[1], np.inf)
    np.minimum.at(drawn, (row * size[1] + column)[inside].astype(np.intp), z[inside])
    return np.where(np.isinf(drawn), 0.0, drawn).reshape(size)


def one_way_error(source: Frame, target: Frame, motion: np.ndarray) -> float | None:
    """Compare the moved depth of `source` with that of `target`: mean |D - z| / D, None without a common pixel."""
    z = moved_depth(source, motion, target.K, target.depth.shape)
    common = (z > 0) & (target.depth > 0) & target.scored
    if not common.any():
        return None
    D = target.depth[common].astype(np.float64)
    return float(np.mean(np.abs(D - z[common]) / D))


def score_clip(frames: Iterable[Frame], motions: Sequence[np.ndarray]) -> dict[str, Any]:
    """Score the frames of a clip, in order; `motions` (4 4) map the points of each to the next one.

    Returns `tae_pct`, of the two directions `forward_pct` and `backward_pct`, per cent or None without common pixels;
    `pairs` of neighbours; `empty`, the comparisons without a common pixel.
    """
    forward, backward = [], []
    for (earlier, later), motion in zip(pairwise(frames), motions, strict=True):
        forward.append(one_way_error(earlier, later, motion))
        backward.append(one_way_error(later, earlier, np.linalg.inv(motion)))
    both = forward + backward
    means = {"tae_pct": _mean_pct(both), "forward_pct": _mean_pct(forward), "backward_pct": _mean_pct(backward)}
    return {**means, "pairs": len(forward), "empty": both.count(None)}


def fit_clip(alignment: Alignment, pred: np.ndarray, truth: np.ndarray) -> Fit:
    """Fit one scale, and shift if there is one, to the valid pixels (n,) of all frames of a clip."""
    return alignment.fit(_bounded(pred) if alignment.of_shift == "inverse depth" else pred, truth)


def apply_to_clip(fit: Fit, depth: np.ndarray) -> np.ndarray:
    """Convert depth to metres: as `Fit.apply`, but inverse depth is at least `LEAST_DISP` before and after a shift.

    So what is aligned to beyond infinity is far, as in the source; for single images it counts as near.
    """
    if not fit.of_inverse:
        return fit.apply(depth)
    return 1 / np.maximum(fit.scale * invert(_bounded(depth)) + fit.shift, LEAST_DISP)


def rule_for_clips(alignment: Alignment) -> str | float:
    """The rule of an alignment, as results keep it."""
    if alignment.of_shift == "inverse depth":
        return f"scale and shift of inverse depth, least squares, per clip; {LEAST_DISP:g} at least before and after"
    rule = alignment.rule
    return rule.replace("per image", "per clip") if isinstance(rule, str) else rule


def beyond(depth: np.ndarray) -> int:
    """Count the pixels whose inverse depth is below `LEAST_DISP`; depth 0 is none, and counts."""
    return int((invert(depth) < LEAST_DISP).sum())


def _bounded(depth: np.ndarray) -> np.ndarray:
    """Bring inverse depth to `LEAST_DISP` at least."""
    return 1 / np.maximum(invert(depth), LEAST_DISP)


def _mean_pct(errors: Sequence[float | None]) -> float | None:
    found = [error for error in errors if error is not None]
    return 100 * float(np.mean(found)) if found else None
