"""Intrinsics K of a camera in pixels, pixel centres at integers: from a text file, or from a field of view."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.geometry import scale_intrinsics
from trainer.runtime.errors import UserError
from trainer.runtime.files import read_file

Array = NDArray[Any]

KITTI_FOCAL = (0.58, 1.92)  # average focal length of KITTI in image widths and heights; Monodepth2
_LARGEST = 1e6  # pixels; a telescope on a large sensor has 1e5
_NORMALISED = 8.0  # focal length in picture widths, a view of 7 degrees; in pixels, cameras have more


def read_intrinsics(path: Path) -> Array:
    """Read K (3 3): nine numbers row by row, four (`fx fy cx cy`), or the sixteen of a 4x4 matrix.

    Raises UserError naming the file for other contents, an impossible camera, or K that is not in pixels.
    """
    try:
        numbers = [float(word) for word in read_file(path).decode("utf-8-sig").replace(",", " ").split()]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} cannot be read as numbers ({error})") from error
    if len(numbers) == 4:
        fx, fy, cx, cy = numbers
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    elif len(numbers) in (9, 16):
        side = math.isqrt(len(numbers))
        K = np.array(numbers).reshape(side, side)[:3, :3].copy()
    else:
        raise UserError(f"{path}: expected fx fy cx cy, or a 3x3 matrix, got {len(numbers)} numbers")
    if not is_camera(K):
        raise UserError(f"{path}: {K.tolist()} is no camera: expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]]")
    if max(K[0, 0], K[1, 1]) < _NORMALISED:
        raise UserError(
            f"{path}: focal lengths of {K[0, 0]:g} and {K[1, 1]:g} pixels look normalised. K is in pixels: multiply its"
            " first row (fx, cx) by the width of the pictures, its second (fy, cy) by their height"
        )
    return K


def is_camera(K: Array) -> bool:
    """Tell whether K (3 3) is [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with positive focal lengths, of a camera's size."""
    upper = not K[1, 0] and K[2].tolist() == [0, 0, 1]
    return bool(upper and (np.abs(K) < _LARGEST).all() and K[0, 0] > 0 and K[1, 1] > 0)  # NaN is not less


def from_field_of_view(size: tuple[int, int], degrees: float) -> Array:
    """Make K (3 3) of a horizontal field of view: square pixels, the axis through the centre of (w, h)."""
    width, height = size
    focal = width / 2 / math.tan(math.radians(degrees) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def average_intrinsics(size: tuple[int, int], focal: tuple[float, float] = KITTI_FOCAL) -> Array:
    """Return K (3 3) in pixels of size (w, h), the principal point in the middle.

    focal: in widths and heights; the default is KITTI's average (Monodepth2, arXiv:1806.01260).
    """
    width, height = size
    return np.array([[focal[0] * width, 0, 0.5 * width], [0, focal[1] * height, 0.5 * height], [0, 0, 1]])


def field_of_view(focal: float) -> float:
    """Return the horizontal field of view, in degrees, of a focal length in image widths."""
    return math.degrees(2 * math.atan(0.5 / focal))


def resized(K: Array, size_from: tuple[int, int], size_to: tuple[int, int]) -> Array:
    """Adapt K (3 3) to images resized from one (width, height) to another, as `scale_intrinsics`."""
    return scale_intrinsics(torch.from_numpy(np.asarray(K, np.float64)), size_from, size_to).numpy()
