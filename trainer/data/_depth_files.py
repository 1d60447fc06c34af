"""Depth maps on disk: 16-bit PNG with a scale, or NumPy arrays in metres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.base import DataError


def read_depth(path: Path, values_per_metre: float) -> NDArray[np.float32]:
    """Read depth (H W) in metres: `.npy` holds metres, a 16-bit PNG `values_per_metre` times metres. DataError."""
    return read_depth_array(path) if path.suffix == ".npy" else _read_png(path, values_per_metre)


def read_depth_array(path: Path) -> NDArray[np.float32]:
    """Read a `.npy` file of depth, (H W) or (H W 1) floats in metres. Raises DataError."""
    try:
        depth = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable array ({error}). Copy it again") from error
    if depth.ndim == 3 and depth.shape[2] == 1:
        depth = depth[..., 0]
    if depth.ndim != 2 or depth.dtype.kind != "f":
        raise DataError(
            f"{path}: expected floating-point depth (H, W), got {depth.dtype} of shape {depth.shape}"
        )
    return np.asarray(depth, np.float32)


def _read_png(path: Path, values_per_metre: float) -> NDArray[np.float32]:
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a readable depth map ({error}). Copy it again") from error
    if values.ndim != 2 or values.dtype == np.uint8:
        raise DataError(
            f"{path} is no depth map: expected 16-bit grey, got {values.dtype} of shape {values.shape}"
        )
    return values.astype(np.float32) / np.float32(values_per_metre)
