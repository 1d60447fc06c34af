"""Masks and edge maps on disk: pictures or NumPy arrays of small numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.files.arrays import read_array
from trainer.data.files.pictures import open_picture
from trainer.runtime.errors import DataError


def read_mask(path: Path, valid: Sequence[float] | None = None) -> NDArray[np.bool_]:
    """Read where a map is valid, (H W) bool: the values `valid`, by default all but 0. Raises DataError.

    Of a picture in colour the largest channel counts.
    """
    values = _values(path, "mask")
    return values > 0 if valid is None else np.isin(values, np.asarray(valid))


def read_edges(path: Path) -> NDArray[np.bool_]:
    """Read depth edges (H W) bool: what is not black. Raises DataError."""
    return _values(path, "edge map") > 0


def _values(path: Path, what: str) -> NDArray[Any]:
    """Read numbers (H W), the largest of several channels. Raises DataError."""
    if path.suffix == ".npy":
        values = read_array(path, "Copy it again")
    else:
        with open_picture(path, what) as picture:
            values = np.asarray(picture)
    if values.ndim not in (2, 3):
        raise DataError(f"{path}: expected a {what} (H, W), got {values.dtype} of shape {values.shape}")
    flat: NDArray[Any] = values.reshape(*values.shape[:2], -1).max(2)
    return flat
