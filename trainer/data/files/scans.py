"""LiDAR scans: binary files of points."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.runtime.errors import DataError
from trainer.runtime.files import read_file

Array = NDArray[Any]
_POINT_BYTES = 16  # four float32


def read_points(path: str) -> Array:
    """Read a LiDAR scan: (n 4) float32, x forward, y left, z up in metres, reflectance. Raises DataError."""
    try:
        content = read_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. Restore it or set dataset.use_depth: false") from error
    if problem := scan_problem(path, len(content)):
        raise DataError(problem)
    return np.frombuffer(content, dtype="<f4").reshape(-1, 4)


def finite_points(points: Array) -> tuple[Array, str]:
    """Drop points (n 3+) that are not finite. Returns the others, and a note about the dropped ones, or ""."""
    known = np.isfinite(points[:, :3]).all(axis=1)
    if known.all():
        return points, ""
    return points[known], f"{int((~known).sum())} of {len(points)} points are NaN or infinite: left out"


def scan_problem(path: str, num_bytes: int) -> str:
    """Say what is wrong with the size of a LiDAR scan, or ""."""
    if num_bytes and num_bytes % _POINT_BYTES == 0:
        return ""
    return f"{path} is not a LiDAR scan: {num_bytes} bytes, and a point has {_POINT_BYTES}. Copy or download it again"
