"""Depth hints of KITTI: proxy depth from stereo matching, one NumPy file per image. Watson et al., arXiv:1909.09051."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data._kitti_files import Frame
from trainer.data.base import DataError

HINTS_NAMES = ("depth_hints", "kitti_depth_hints")


def holds_hints(folder: Path) -> bool:
    """Tell whether `folder` holds depth hints: drives by date, with a folder per camera."""
    return any(folder.glob("[0-9]*_[0-9]*_[0-9]*/*_drive_*/image_0[23]/*.npy"))


def hint_path(root: Path, frame: Frame) -> Path:
    """Path of the hints of a frame: `<date>/<drive>/image_0<camera>/<10 digits>.npy`."""
    return root / f"{frame.stem}.npy"


def read_hints(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    """Read hints (h w) of `size` (w, h), in units of the 0.1 baseline, 0 = none. Raises DataError.

    Resized by nearest neighbour as OpenCV does it: pixel i takes floor(i * source / target).
    """
    try:
        hints = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing. Make the depth hints of this drive, or set use_hints: false"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable array ({error}). Make the depth hints again") from error
    if hints.ndim != 2 or hints.dtype.kind != "f" or not hints.size:
        raise DataError(
            f"{path}: expected floating-point depth hints (h, w), got {hints.dtype} of shape {hints.shape}"
        )
    rows, columns = (
        np.floor(np.arange(to) * (have / to)).astype(np.intp)
        for to, have in zip(size[::-1], hints.shape, strict=True)
    )
    resized: NDArray[np.float32] = hints[np.ix_(rows, columns)].astype(np.float32)
    if not np.isfinite(resized).all() or resized.min() < 0:
        raise DataError(f"{path}: depth hints must be finite and at least 0. Make the depth hints again")
    return resized
