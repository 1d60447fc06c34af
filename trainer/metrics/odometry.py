"""Trajectory errors of chained camera motions: ATE of short snippets, and KITTI's drift over long segments.

A motion (4 4) maps points from the camera of a frame to that of the next. A pose (4 4) maps points from the camera to
the world, which is the camera of the first frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LENGTHS_M = (100, 200, 300, 400, 500, 600, 700, 800)  # of the segments of KITTI's drift
STEP = 10  # frames between the starts of segments: one second
UNITS = {"ate_m": "m", "ate_std_m": "m", "t_err_pct": "%", "r_err_deg_per_100m": "degrees / 100 m"}

FORMULAS = {
    "ate_m": "sqrt(sum over frames |scale * predicted - true position|^2) / frames, mean over snippets"
    " (arXiv:1704.07813); not the root of a mean",
    "t_err_pct": "100 |translation of the relative error| / length, mean over segments (KITTI odometry)",
    "r_err_deg_per_100m": "100 angle of the relative error / length, mean over segments (KITTI odometry)",
}


def trajectory(motions: np.ndarray) -> np.ndarray:
    """Chain motions (n 4 4) to poses (n+1 4 4), the first one the identity."""
    poses = [np.eye(4)]
    for motion in motions:
        poses.append(poses[-1] @ np.linalg.inv(motion))
    return np.stack(poses)


def snippet_errors(pred: np.ndarray, true: np.ndarray, frames: int = 5) -> np.ndarray:
    """Return the absolute trajectory error of every snippet of `frames` frames, (n - frames + 2,) metres.

    pred, true (n 4 4) are motions. Each snippet starts at the origin and is scaled on its own; its error is the root
    of the summed squared distances over the number of frames (SfM-Learner, arXiv:1704.07813: not the root of their
    mean). Empty for too few frames.
    """
    errors = []
    for start in range(len(pred) - frames + 2):
        ours, theirs = (trajectory(m[start : start + frames - 1])[:, :3, 3] for m in (pred, true))
        error = scale_to(ours, theirs) * ours - theirs
        errors.append(np.sqrt(np.sum(error**2)) / frames)
    return np.array(errors)


def scale_to(pred: np.ndarray, true: np.ndarray) -> float:
    """Return the factor that brings predicted positions (n 3) nearest to true ones; 1 when they do not move."""
    power = float(np.sum(pred**2))
    return float(np.sum(pred * true)) / power if power else 1.0


def segment_errors(pred: np.ndarray, true: np.ndarray, lengths: Sequence[float] = LENGTHS_M) -> list[dict[str, float]]:
    """Measure drift over segments of the true path, as the KITTI odometry development kit (Geiger, CVPR 2012).

    pred, true (n 4 4) are poses in metres. A segment starts at every tenth frame and ends where the path exceeds its
    length. Returns for each `length_m`, `t_err` (metres per metre) and `r_err` (radians per metre).
    """
    path = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1))])
    found = []
    for first in range(0, len(true), STEP):
        for length in lengths:
            last = int(np.searchsorted(path, path[first] + length, side="right"))
            if last >= len(true):
                continue
            true_motion, pred_motion = (np.linalg.inv(p[first]) @ p[last] for p in (true, pred))
            error = np.linalg.inv(pred_motion) @ true_motion
            angle = np.arccos(np.clip((np.trace(error[:3, :3]) - 1) / 2, -1, 1))
            drift = float(np.linalg.norm(error[:3, 3])) / length
            found.append({"length_m": float(length), "t_err": drift, "r_err": float(angle) / length})
    return found


def score_sequence(pred: np.ndarray, true: np.ndarray, frames: int = 5) -> dict[str, Any]:
    """Score the motions (n 4 4) of one unbroken sequence; None for errors that need a longer one.

    For the drift the whole path is scaled once, because monocular motion has no unit.
    """
    snippets = snippet_errors(pred, true, frames)
    ours, theirs = trajectory(pred), trajectory(true)
    scale = scale_to(ours[:, :3, 3], theirs[:, :3, 3])
    ours[:, :3, 3] *= scale
    segments = segment_errors(ours, theirs)
    turn = 100 * float(np.degrees(np.mean([s["r_err"] for s in segments]))) if segments else None
    return {
        "frames": len(pred) + 1,
        "path_m": float(np.sum(np.linalg.norm(true[:, :3, 3], axis=1))),
        "scale": scale,
        "snippets": len(snippets),
        "ate_m": float(snippets.mean()) if len(snippets) else None,
        "ate_std_m": float(snippets.std()) if len(snippets) else None,
        "segments": len(segments),
        "t_err_pct": 100 * float(np.mean([s["t_err"] for s in segments])) if segments else None,
        "r_err_deg_per_100m": turn,
    }
