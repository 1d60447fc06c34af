"""Ground truth of a split in one file, as `prepare targets` and earlier tools write it: scores need no data set then.

Maps of different size are stored as an array of arrays, which NumPy pickles. Reading it runs nothing in the pickle.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models_zoo.registry import did_you_mean
from trainer.data.clips.intrinsics import is_camera
from trainer.data.files.pickles import read_pickle
from trainer.runtime.errors import UserError
from trainer.runtime.files import open_file

# Arrays of the file; only `depth` is required.
KEYS = ("depth", "K", "items", "edge", "cat", "subcat", "size", "truth")


@dataclass(frozen=True)
class TargetsFile:
    """True depth of the items of a split, in order, without their images: `trainer.types.Batch` without `target`."""

    depths: Sequence[np.ndarray]  # a map (H W) per item, metres, 0 = none; sizes may vary
    K: np.ndarray | None = None  # (b 3 3) intrinsics in pixels of the maps; None = unknown, as below
    edges: Sequence[np.ndarray] | None = None  # a map (H W) of true depth edges per item
    names: Sequence[str] | None = None  # of the items
    categories: Sequence[tuple[str, str]] | None = None  # category and subcategory of each item
    truth: str = ""  # what the maps hold, in words; "" = unknown
    scene_in: Callable[[str], str | None] = lambda name: None  # of the data set: the scene of an item, by its name

    @classmethod
    def read(cls, path: Path) -> TargetsFile:
        """Read an NPZ file: `depth` (b h w) or an array of b maps (h w), and optionally `K` (b 3 3) or (b 4 4),
        `items`, `edge`, `cat`, `subcat`; `size` (b 2), height and width, of padded maps; a text `truth`.

        Raises UserError for another kind of file, a missing `depth`, and arrays that do not belong together.
        """
        arrays = _read_arrays(path)
        truth = arrays.pop("truth", None)
        if "depth" not in arrays:
            raise UserError(f"{path}: has no array 'depth'. {did_you_mean('depth', arrays)}")
        count = len(arrays["depth"])
        for key, array in arrays.items():
            if len(array) != count:
                raise UserError(f"{path}: {key} has {len(array)} entries, depth {count}. Write the file again")
        sizes = arrays.get("size")
        depths = _maps(arrays["depth"], "depth", sizes, np.float32, path)
        edges = _maps(arrays["edge"], "edge", sizes, np.bool_, path) if "edge" in arrays else None
        for i, (depth, edge) in enumerate(zip(depths, edges or depths, strict=True)):
            if depth.shape != edge.shape:
                raise UserError(
                    f"{path}: item {i} has depth of shape {depth.shape} and edge of {edge.shape}. Write it again"
                )
        categories = None
        if {"cat", "subcat"} <= set(arrays):
            categories = list(zip(map(str, arrays["cat"]), map(str, arrays["subcat"]), strict=True))
        names = list(map(str, arrays["items"])) if "items" in arrays else None
        K = _intrinsics(arrays["K"], path) if "K" in arrays else None
        return cls(depths, K, edges, names, categories, "" if truth is None or truth.ndim else str(truth))

    def __len__(self) -> int:
        return len(self.depths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = {"depth": torch.from_numpy(self.depths[index])[None], "index": torch.tensor(index)}
        if self.K is not None:
            item["K_depth"] = torch.from_numpy(self.K[index])
        if self.edges is not None:
            item["edges"] = torch.from_numpy(self.edges[index])[None]
        return item

    def describe(self, index: int) -> str:
        """Name of an item, or its number."""
        return f"item {index}" if self.names is None else self.names[index]

    def scene_of(self, index: int) -> str | None:
        """Scene of an item; None without names."""
        return None if self.names is None else self.scene_in(self.names[index])

    def category(self, index: int) -> tuple[str, str] | None:
        """Category and subcategory of an item."""
        return None if self.categories is None else self.categories[index]


@contextmanager
def open_npz(path: Path, what: str, fix: str, if_missing: str = "") -> Iterator[BufferedReader]:
    """Open an NPZ file to read bytes; whatever the block fails with becomes a UserError.

    Messages say that the file is not `what` and to do `fix`, or that it does not exist, with advice `if_missing`.
    """
    try:
        with open_file(path) as file:
            yield file
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file{if_missing}") from error
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}). Name an NPZ file") from error
    except Exception as error:  # a damaged archive fails in any way
        reason = "one holds objects" if "allow_pickle" in str(error) else error
        raise UserError(f"{path}: is not {what} ({reason}). {fix}") from error


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays in `KEYS`; pickled ones through a reader that runs nothing."""
    what, makes_it = "an NPZ file of ground truth", ". `monodepth prepare targets` makes it"
    with open_npz(path, what, "Copy or write it again", makes_it) as file, zipfile.ZipFile(file) as archive:
        known = [key for key in KEYS if f"{key}.npy" in archive.namelist()]
        return {key: _read_array(archive, key, path) for key in known}


def _read_array(archive: zipfile.ZipFile, key: str, path: Path) -> np.ndarray:
    with archive.open(f"{key}.npy") as stream:
        try:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        except ValueError as error:
            if "Object arrays" not in str(error):
                raise
            header = stream.tell()  # has been read
            array = read_pickle(stream, f"{path}: {key}", archive.getinfo(stream.name).file_size - header)
    if not isinstance(array, np.ndarray) or (array.ndim == 0 and key != "truth"):
        raise UserError(f"{path}: {key} is not an array with an entry per item. Write the file again")
    return array


def _maps(array: np.ndarray, key: str, sizes: np.ndarray | None, dtype: Any, path: Path) -> list[np.ndarray]:
    """One map (H W) per item, padding cut off."""
    try:
        entries = [np.asarray(entry) for entry in array]
        if other := next((e.dtype for e in entries if e.dtype.kind not in "biufO"), None):
            raise TypeError(f"one has {other}")
        maps = [np.ascontiguousarray(entry, dtype) for entry in entries]
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: {key} holds something other than maps of numbers ({error})") from error
    for i, entry in enumerate(maps):
        if entry.ndim != 2 or not entry.size:
            raise UserError(f"{path}: item {i} of {key} is not a map (h, w), but of shape {entry.shape}")
    if sizes is None:
        return maps
    if sizes.dtype.kind not in "iu" or sizes.shape != (len(maps), 2):
        raise UserError(f"{path}: size must be integers (b, 2), got {sizes.dtype} of shape {sizes.shape}")
    for i, (entry, (h, w)) in enumerate(zip(maps, sizes.tolist(), strict=True)):
        if not (0 < h <= entry.shape[0] and 0 < w <= entry.shape[1]):
            raise UserError(f"{path}: size {h}x{w} of item {i} is not within its {key} of shape {entry.shape}")
    return [entry[:h, :w] for entry, (h, w) in zip(maps, sizes.tolist(), strict=True)]


def _intrinsics(K: np.ndarray, path: Path) -> np.ndarray:
    if K.ndim != 3 or K.shape[1:] not in ((3, 3), (4, 4)):
        raise UserError(f"{path}: K must be (b, 3, 3) or (b, 4, 4), got {K.shape}")
    if K.dtype.kind not in "iuf":
        raise UserError(f"{path}: K holds {K.dtype}, not numbers. Write the file again")
    for i, camera in enumerate(K[:, :3, :3]):
        if not is_camera(camera):
            raise UserError(f"{path}: K of item {i} is no camera: {camera.tolist()}. Write the file again")
    return np.ascontiguousarray(K[:, :3, :3], np.float32)
