"""Depth maps on disk: 16-bit PNG with a scale, or NumPy arrays in metres."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from trainer.data.files.arrays import read_array
from trainer.data.files.pictures import open_picture
from trainer.runtime.errors import DataError


def read_depth(path: Path, values_per_metre: float) -> NDArray[np.float32]:
    """Read depth (H W) in metres: `.npy` holds metres, a 16-bit PNG `values_per_metre` times metres. DataError."""
    return read_depth_array(path) if path.suffix == ".npy" else read_depth_png(path, values_per_metre)


def read_depth_array(path: Path) -> NDArray[np.float32]:
    """Read a `.npy` file of depth, (H W) or (H W 1) floats in metres. Raises DataError."""
    depth = read_array(path, "Copy it again")
    if depth.ndim == 3 and depth.shape[2] == 1:
        depth = depth[..., 0]
    if depth.ndim != 2 or depth.dtype.kind != "f":
        raise DataError(f"{path}: expected floating-point depth (H, W), got {depth.dtype} of shape {depth.shape}")
    return np.asarray(depth, np.float32)


def read_annotated(path: str | Path | IO[bytes]) -> NDArray[np.float32]:
    """Read annotated depth of KITTI (arXiv:1708.06500): (H W) metres, 0 = none. Raises DataError."""
    return read_depth_png(path, values_per_metre=256)


def read_depth_png(path: str | Path | IO[bytes], values_per_metre: float) -> NDArray[np.float32]:
    """Read a 16-bit PNG of depth: (H W) metres = value / `values_per_metre`, 0 = none. Raises DataError."""
    with open_picture(path, "depth map") as picture:
        values = np.asarray(picture)
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.dtype.itemsize < 2:
        found = f"expected 16-bit grey, got {values.dtype} of shape {values.shape}"
        raise DataError(f"{path} is no depth map: {found}. Check where depth is looked for")
    return values.astype(np.float32) / np.float32(values_per_metre)


def resize_nearest(depth: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a sparse map to `size` (w, h) by taking the nearest pixel, pixel centres at half integers."""
    rows, columns = (
        np.floor((np.arange(to) + 0.5) * (have / to)).astype(np.intp)
        for to, have in zip(size[::-1], depth.shape, strict=True)
    )
    return depth[np.ix_(rows, columns)]
