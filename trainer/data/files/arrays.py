"""NumPy files in memory, and on disks, where they may be damaged or malicious.

What reads them takes no pickle, and no more memory than the file is long.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trainer.runtime.errors import DataError
from trainer.runtime.files import open_file

_HEADERS = {  # by version of the format; 3 differs from 2 in names of fields, which numbers have not
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def array_bytes(array: Any) -> bytes:
    """Encode an array of numbers as NPY."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def archive_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Encode arrays as compressed NPZ; equal ones give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_array(source: str | Path | IO[bytes], fix: str) -> NDArray[Any]:
    """Read an array of numbers from a `.npy` file. Raises DataError naming `source` and the advice `fix`."""
    try:
        with open_file(source) if isinstance(source, str | Path) else nullcontext(source) as file:
            shape, fortran, dtype, num_bytes = _read_head(file)
            flat: NDArray[Any] = np.frombuffer(bytearray(file.read(num_bytes)), dtype)
            return flat.reshape(shape, order="F" if fortran else "C")
    except FileNotFoundError as error:
        raise DataError(f"{source} is missing. {fix}") from error
    except Exception as error:  # a broken header fails in any way, as its parser does
        raise DataError(f"{source} is not a readable array ({error}). {fix}") from error


def array_problem(path: str, fix: str) -> str:
    """Say what is wrong with the header or size of a `.npy` file, or "". Reads the header only."""
    try:
        with open_file(path) as file:
            _read_head(file)
    except Exception as error:
        return f"{path} is not a readable array ({error}). {fix}"
    return ""


def array_layout(path: str | Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Read shape, dtype and the place of the first byte of a `.npy` file. Raises OSError, ValueError when damaged."""
    with open_file(path) as file:
        shape, _, dtype, _ = _read_head(file)
        return shape, dtype, file.tell()


def _read_head(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read shape, Fortran order, dtype, number of bytes; compare with the file: a damaged one may claim terabytes."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.kind not in "biufc":
        raise ValueError(f"it holds {dtype}, not numbers")
    num_bytes = math.prod(shape) * dtype.itemsize
    start = file.tell()
    there = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    if min(shape, default=0) < 0 or there != num_bytes:
        raise ValueError(f"{there} bytes for {dtype} of shape {shape}")
    return shape, fortran, dtype, num_bytes
