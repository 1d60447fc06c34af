"""The angle between predicted and true translation: monocular training leaves only the length open."""

from __future__ import annotations

from typing import Any

import numpy as np

NO_DIRECTION_DEG = 90.0  # what a random direction scores on average


def direction_error_deg(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the angle between translations (n 3) of any length: (n,) degrees in [0, 180].

    A prediction of length 0 scores 90. Raises ValueError when a truth has length 0.
    """
    if not np.linalg.norm(truth, axis=-1).all():
        raise ValueError("a true translation has length 0 and therefore no direction: leave it out")
    across = np.linalg.norm(np.cross(pred, truth), axis=-1)
    along = np.sum(pred * truth, axis=-1)
    angle = np.degrees(np.arctan2(across, along))  # arccos would lose half the digits near 0
    return np.where(np.linalg.norm(pred, axis=-1) > 0, angle, NO_DIRECTION_DEG)


def summarise_directions(pred: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Average the angle between predicted and true translations, (b n 3) each, over b images and n supports.

    Returns mean and median in degrees, the mean for a constant guess (the mean true direction of each support), and
    counts. A camera that does not move is skipped.
    """
    length = np.linalg.norm(truth, axis=-1)
    moves = length > 0  # (b n)
    direction = truth / np.where(moves, length, 1)[..., None]
    fixed = np.broadcast_to(direction.mean(axis=0), truth.shape)
    angle = direction_error_deg(pred[moves], truth[moves])
    return {
        "what": "angle between predicted and true translation, target to support",
        "unit": "degrees",
        "mean": float(angle.mean()),
        "median": float(np.median(angle)),
        "mean_of_fixed_direction": float(direction_error_deg(fixed[moves], truth[moves]).mean()),
        "count": int(moves.sum()),
        "skipped_without_motion": int((~moves).sum()),
    }
