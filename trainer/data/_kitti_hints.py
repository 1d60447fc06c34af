"""Depth hints of KITTI: proxy depth from stereo matching, one NumPy file per image. Watson et al., arXiv:1909.09051."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.base import DataError
from trainer.data.files.arrays import read_array

HINTS_FIX = "Make the depth hints of its drive again (prepare hints), or set use_hints: false"


def read_hints(path: str | Path | IO[bytes], size: tuple[int, int]) -> NDArray[np.float32]:
    """Read hints (h w) of `size` (w, h), in units of the 0.1 baseline, 0 = none. Raises DataError.

    Resized by nearest neighbour as OpenCV does it: pixel i takes floor(i * source / target).
    """
    return resized_hints(read_array(path, HINTS_FIX), size, str(path))


def resized_hints(hints: NDArray[Any], size: tuple[int, int], place: str) -> NDArray[np.float32]:
    """Check hints and resize them to `size` (w, h) as `read_hints` does. Raises DataError naming `place`."""
    if hints.ndim != 2 or hints.dtype.kind != "f" or not hints.size:
        raise DataError(
            f"{place}: expected floating-point depth hints (h, w), got {hints.dtype} of shape {hints.shape}"
        )
    if not np.isfinite(hints).all() or hints.min() < 0:
        raise DataError(f"{place}: depth hints must be finite and at least 0. Make the depth hints again")
    rows, columns = (
        np.floor(np.arange(to) * (have / to)).astype(np.intp)
        for to, have in zip(size[::-1], hints.shape, strict=True)
    )
    resized: NDArray[np.float32] = hints[np.ix_(rows, columns)].astype(np.float32)
    return resized
