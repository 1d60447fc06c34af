"""From the items of a data set to files in a shard, and back: encoded pictures, and the arrays of an item as one npz.

A picture that the data set reads from a JPEG, PNG or WEBP file keeps its bytes; any other, and one whose bytes would be
read to other pixels, becomes a PNG of the pixels. Both give the tensors that the data set itself gives.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.base import DepthDataset
from trainer.data.files.arrays import read_array
from trainer.data.files.lmdb import Content
from trainer.data.files.pictures import at_size, read_rgb
from trainer.data.raw_item import RawItem
from trainer.data.shards.index import digest_of
from trainer.runtime.errors import DataError
from trainer.runtime.files import read_file

ARRAYS = tuple(field.name for field in fields(RawItem) if field.name not in ("target", "supports"))
PER_SUPPORT = ("Ts_true", "travelled")  # arrays with a row for each support
_ENDINGS = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp"}  # by the first bytes
_MOST_BYTES = 1 << 30  # of an array, which may claim any size


class Picture(NamedTuple):
    """One frame: what tells it from others, the ending of its file, and how to get its bytes."""

    key: Any  # its place in the data set, or a digest of its pixels
    source: Any  # of the data set; None = made by it
    pixels: NDArray[np.uint8]  # (h w 3)


class Sample(NamedTuple):
    """An item as it is written."""

    pictures: Sequence[Picture]  # target, supports
    arrays: Mapping[str, NDArray[Any]]


def sample(dataset: DepthDataset, index: int) -> Sample:
    """Read item `index` for writing. Raises DataError as `load` does."""
    raw = dataset.read(0, index)
    pictures = []
    for pixels in (raw.target, *raw.supports):
        source = dataset.source_of(pixels)
        pictures.append(Picture(digest_of(pixels.tobytes()) if source is None else str(source), source, pixels))
    held = {key: getattr(raw, key) for key in ARRAYS}
    return Sample(pictures, {key: np.asarray(array) for key, array in held.items() if array is not None})


def encoded(dataset: DepthDataset, picture: Picture) -> tuple[bytes, str]:
    """Return the bytes of a picture and the ending of its name. Raises DataError, OSError."""
    if picture.source is not None:
        opened = dataset.open_picture(picture.source)  # type: ignore[attr-defined]
        content = opened.read() if hasattr(opened, "read") else read_file(opened)
        ending = next((ending for head, ending in _ENDINGS.items() if content.startswith(head)), None)
        if ending is not None and _gives(content, picture.pixels):
            return content, ending
    buffer = io.BytesIO()
    Image.fromarray(picture.pixels).save(buffer, "png")
    return buffer.getvalue(), "png"


def _gives(content: bytes, pixels: NDArray[np.uint8]) -> bool:
    """Tell whether encoded bytes are read to these pixels."""
    source: Any = Content(content, "a picture")
    try:
        return np.array_equal(at_size(read_rgb(source), pixels.shape[1::-1]), pixels)
    except DataError:
        return False


def unpacked(content: bytes, wanted: Sequence[str], place: str) -> dict[str, NDArray[Any]]:
    """Read those of the `wanted` arrays that an archive has. Raises DataError naming `place`."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            there = [key for key in wanted if f"{key}.npy" in archive.namelist()]
            return dict(_members(archive, there, place))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{place} is no archive of arrays ({error}). Copy the shard again") from error


def _members(archive: zipfile.ZipFile, keys: Sequence[str], place: str) -> Iterator[tuple[str, NDArray[Any]]]:
    for key in keys:
        if archive.getinfo(f"{key}.npy").file_size > _MOST_BYTES:
            raise DataError(f"{place}: {key} has more than {_MOST_BYTES >> 20} MB. Write the shards again")
        yield key, read_array(Content(archive.read(f"{key}.npy"), f"{place}/{key}"), "Copy the shard again")


def described(index: int, name: str, arrays: Mapping[str, NDArray[Any]], supports: Mapping[int, str]) -> bytes:
    """Return what a reader of another program needs beside the pictures, as JSON; keys of supports by offset."""
    small = {key: array.tolist() for key, array in arrays.items() if key in ("K", "T_stereo", "Ts_true")}
    return json.dumps({"item": index, "name": name, "supports": supports, **small}).encode()
