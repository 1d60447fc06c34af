"""Depth maps on disk: 16-bit PNG with a scale, NumPy arrays, Sintel's `.dpt`, bare float32."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trainer.data.files.arrays import array_layout, read_array
from trainer.data.files.pictures import open_picture, picture_size
from trainer.runtime.errors import DataError
from trainer.runtime.files import open_file, read_file

DepthFormat = Literal["png", "npy", "npz", "dpt", "raw"]

DPT_TAG = 202021.25  # float32 at the start of the files of MPI Sintel (D. Butler et al., ECCV 2012)
DPT_HEAD = struct.Struct("<fii")  # tag, width, height
_MOST_BYTES = 1 << 30  # of an array in an archive, which may claim any size
_FIX = "Copy it again"


def format_of(name: str) -> DepthFormat | None:
    """Return the format of a depth file by the ending of its name; None for another ending."""
    ending = os.path.splitext(name)[1][1:].lower()
    return next((form for form in get_args(DepthFormat) if form == ending), None)


def read_stored(path: Path, form: DepthFormat, key: str, size: tuple[int, int]) -> NDArray[Any]:
    """Read the values (H W) of a depth file as they are stored, in the unit of the file.

    key: of the array in an `npz`; size: (width, height) of a `raw` file, little-endian float32 row by row. Raises
    DataError.
    """
    match form:
        case "npy":
            return _as_map(read_array(path, _FIX), path)
        case "npz":
            return _as_map(_read_member(path, key), path)
        case "dpt":
            width, height = _dpt_size(path)
            return np.frombuffer(read_file(path), "<f4", width * height, DPT_HEAD.size).reshape(height, width)
        case "raw":
            if problem := raw_problem(path, size):
                raise DataError(problem)
            return np.frombuffer(read_file(path), "<f4").reshape(size[::-1])
    return _read_deep_grey(path)


def stored_size(path: Path, form: DepthFormat) -> tuple[int, int] | None:
    """Read (width, height) of a depth file from its header; None where it has none at hand. Raises DataError."""
    match form:
        case "png":
            return picture_size(path)
        case "npy":
            try:
                shape, _, _ = array_layout(path)
            except (OSError, ValueError) as error:
                raise DataError(f"{path} is not a readable array ({error}). {_FIX}") from error
            return (shape[1], shape[0]) if len(shape) > 1 else None
        case "dpt":
            return _dpt_size(path)
    return None


def raw_problem(path: Path, size: tuple[int, int]) -> str:
    """Say why a file is no bare float32 map of (width, height), or ""."""
    try:
        there = os.path.getsize(path)
    except OSError as error:
        return f"{path} cannot be read ({error}). {_FIX}"
    width, height = size
    if there == 4 * width * height:
        return ""
    needed = f"{4 * width * height} of float32 depth of {width}x{height}, the size of its picture"
    return f"{path} has {there} bytes, not the {needed}. {_FIX}"


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
    return _read_deep_grey(path).astype(np.float32) / np.float32(values_per_metre)


def resize_nearest(depth: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a sparse map to `size` (w, h) by taking the nearest pixel, pixel centres at half integers."""
    rows, columns = (
        np.floor((np.arange(to) + 0.5) * (have / to)).astype(np.intp)
        for to, have in zip(size[::-1], depth.shape, strict=True)
    )
    return depth[np.ix_(rows, columns)]


def _read_deep_grey(path: str | Path | IO[bytes]) -> NDArray[Any]:
    with open_picture(path, "depth map") as picture:
        values = np.asarray(picture)
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.dtype.itemsize < 2:
        found = f"expected 16-bit grey, got {values.dtype} of shape {values.shape}"
        raise DataError(f"{path} is no depth map: {found}. Check where depth is looked for")
    return values


def _as_map(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """Drop an axis of length 1 at either end of numbers (H W)."""
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[..., 0] if values.shape[2] == 1 else values[0]
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise DataError(f"{path}: expected depth (H, W), got {values.dtype} of shape {values.shape}")
    return values


def _read_member(path: Path, key: str) -> NDArray[Any]:
    """Read the array `key` of an `npz` archive. Raises DataError naming the arrays that are there."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if key not in names:
                there = ", ".join(names) or "nothing"
                raise DataError(f"{path} has no array {key!r}, but {there}. Set dataset.depth_key")
            if archive.getinfo(f"{key}.npy").file_size > _MOST_BYTES:
                raise DataError(f"{path}: {key} has more than {_MOST_BYTES >> 20} MB, no depth map. {_FIX}")
            with archive.open(f"{key}.npy") as member:
                return read_array(member, _FIX)
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. {_FIX}") from error
    except Exception as error:  # a damaged archive fails in any way
        raise DataError(f"{path} is not a readable archive of arrays ({error}). {_FIX}") from error


def _dpt_size(path: Path) -> tuple[int, int]:
    """Read (width, height) of a `.dpt` file whose length agrees with them. Raises DataError."""
    try:
        with open_file(path) as file:
            head = file.read(DPT_HEAD.size)
            there = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). {_FIX}") from error
    tag, width, height = DPT_HEAD.unpack(head) if len(head) == DPT_HEAD.size else (0.0, 0, 0)
    if tag != DPT_TAG or min(width, height) < 1 or there != DPT_HEAD.size + 4 * width * height:
        raise DataError(f"{path} is no depth of MPI Sintel, or was cut short ({there} bytes). {_FIX}")
    return width, height
