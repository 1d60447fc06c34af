"""Pseudo-labels on disk: the disparity that a teacher network predicts for each picture, one file per picture.

`<item>.png` of 16 bits: values 1 to 65535 mean disparity `scale * value + offset`, 0 means none; the text chunks of
the file hold `scale` and `offset`, and say whose labels they are. Read as well: `.npz` with an array `disp`, `.npy`,
and PNG without these chunks, whose values count as they are: losses on labels do not depend on their unit.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trainer.data.files.arrays import read_array
from trainer.data.files.damage import find_damaged
from trainer.data.files.paths import expanded
from trainer.data.files.pictures import open_picture
from trainer.data.files.splits import capped
from trainer.runtime.errors import DataError, listed
from trainer.runtime.files import read_file

Map = NDArray[np.float32]

ENDINGS = (".png", ".npz", ".npy")
RECORD = "pseudo.json"  # in a folder of labels: whose they are
STEPS = 65534  # between the values 1 and 65535
FIX = "Make the label again (`monodepth prepare pseudo`), or set dataset.use_pseudo: false"

_KIND = "disparity"
_LEAST = 1e-6  # of the largest disparity: what a label of 0, infinitely far, is read as, since 0 means none
_HALF = 0.5  # share of a pixel that must be known for the pixel to be known after resizing


class PseudoLabels:
    """The labels in a folder, by name of their item."""

    def __init__(self, root: str):
        self.root = str(expanded(root))
        self._listed: dict[str, frozenset[str]] = {}

    def find(self, name: str) -> str | None:
        """Return the file of an item: `<name>` with one of `ENDINGS`, also in `data/` as KITTI has it; None without."""
        folder, _, stem = name.rpartition("/")
        for place in (f"{self.root}/{folder}", f"{self.root}/{folder}/data"):
            for ending in ENDINGS:
                if f"{stem}{ending}" in self._names(place):
                    return f"{place}/{stem}{ending}"
        return None

    def read(self, name: str, size: tuple[int, int]) -> Map:
        """Read the label (h w) of an item, resized to `size` (w, h); > 0, 0 = none. Raises DataError."""
        path = self.find(name)
        if path is None:
            raise DataError(f"{self.root}/{name}.png is missing: {name} has no pseudo-label. {FIX}")
        return resize_known(read_label(path), size)

    def problems(self, names: Iterable[str], mode: str) -> list[str]:
        """List labels that are missing or cut short."""
        paths = {name: self.find(name) for name in names}
        missing = [name for name, path in paths.items() if path is None]
        problems, _ = find_damaged(path for path in paths.values() if path)
        problems = capped(problems, "damaged pseudo-labels")
        if missing:
            problems.append(
                f"{len(missing)} of {len(paths)} items have no pseudo-label in {self.root}, the first:"
                f" {listed(missing)}. Make them with the pages of this training: monodepth prepare pseudo -c PAGE"
                f" --teacher NETWORK --mode {mode} --out {self.root}; or set dataset.use_pseudo: false"
            )
        return problems

    def record(self) -> dict[str, Any]:
        """Return what `prepare pseudo` noted of the teacher in the folder, or that it is unknown. Raises DataError."""
        path = f"{self.root}/{RECORD}"
        try:
            return dict(json.loads(read_file(path)))
        except FileNotFoundError:
            return {"model": "unknown"}
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} is no record of labels ({error}). Copy it again, or remove it") from error

    def _names(self, folder: str) -> frozenset[str]:
        if folder not in self._listed:
            names = os.listdir(folder) if os.path.isdir(folder) else ()
            self._listed[folder] = frozenset(names)
        return self._listed[folder]


def encode_label(disp: Map, facts: Mapping[str, str]) -> bytes:
    """Encode disparity (H W) as PNG; what is not finite becomes none. `facts` go into the text chunks.

    The error is at most half of 1/65534 of the largest value, or of the range where some are negative.
    """
    known = np.isfinite(disp)
    values = disp[known].astype(np.float64)
    lowest, highest = float(values.min(initial=0)), float(values.max(initial=0))
    scale = (highest - lowest) / STEPS or 1.0
    coded = np.zeros(disp.shape, np.uint16)
    coded[known] = np.rint((values - lowest) / scale) + 1
    info = PngInfo()
    for key, text in {"scale": repr(scale), "offset": repr(lowest - scale), "kind": _KIND, **facts}.items():
        info.add_text(key, text)
    buffer = io.BytesIO()
    Image.fromarray(coded).save(buffer, "png", pnginfo=info, compress_level=1)
    return buffer.getvalue()


def read_label(path: str) -> Map:
    """Read disparity (H W), > 0 and larger = nearer, 0 = none. Raises DataError.

    A map with negative values is shifted as a whole. NaN means none, and so does 0 in arrays and values of PNG.
    """
    disp, known = _READERS[os.path.splitext(path)[1]](path)
    if disp.ndim != 2 or not disp.size:
        raise DataError(f"{path}: expected disparity (H, W), got shape {disp.shape}. {FIX}")
    lowest = disp.min(where=known, initial=0)
    label = disp if lowest == 0 else disp - lowest
    label = np.maximum(label, max(_LEAST * label.max(where=known, initial=0), np.finfo(np.float32).tiny))
    return label if known.all() else np.where(known, label, np.float32(0))


def label_facts(path: str) -> dict[str, str]:
    """Return the text chunks of a label, {} for one without. Raises DataError."""
    with open_picture(path, "pseudo-label", FIX) as picture:
        return {str(key): value for key, value in picture.info.items() if isinstance(value, str)}


def resize_known(label: Map, size: tuple[int, int]) -> Map:
    """Resize a label (H W), 0 = none, to `size` (w, h), bilinearly with antialiasing as pictures are.

    A pixel is the mean of its known parts, and none where less than half of it is known.
    """
    if label.all():
        return resize_map(label, size)
    return np.nan_to_num(resize_map(np.where(label > 0, label, np.float32(np.nan)), size))


def resize_map(values: Map, size: tuple[int, int]) -> Map:
    """Resize a map (H W), NaN = none, as `resize_known` does."""
    if values.shape[::-1] == size:
        return values
    known = np.isfinite(values)
    if known.all():
        return _bilinear(values, size)
    share = _bilinear(known.astype(np.float32), size)
    share = np.where(share < _HALF, np.float32(np.nan), share)
    return _bilinear(np.where(known, values, np.float32(0)), size) / share


def _bilinear(array: Map, size: tuple[int, int]) -> Map:
    return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BILINEAR))


def _read_png(path: str) -> tuple[Map, NDArray[np.bool_]]:
    with open_picture(path, "pseudo-label", FIX) as picture:
        values, info = np.asarray(picture), {str(key): value for key, value in picture.info.items()}
        if picture.mode in ("P", "1") or values.ndim != 2:
            raise DataError(f"{path} is no disparity but a picture ({picture.mode}): one grey channel is needed")
    if info.get("kind", _KIND) != _KIND:
        raise DataError(f"{path} holds {info['kind']}, not disparity. {FIX}")
    scale, offset = _affine(path, info)
    return values.astype(np.float32) * np.float32(scale) + np.float32(offset), values > 0


def _affine(path: str, info: Mapping[str, Any]) -> tuple[float, float]:
    """Return scale and offset of the values of a PNG: its own, or by the maximum in a text file beside it.

    The latter is the layout of NimbleD (arXiv:2408.14177): disparity = maximum * value / 65535.
    """
    try:
        if "scale" in info:
            scale, offset = float(info["scale"]), float(info.get("offset", 0))
        elif os.path.isfile(text := f"{path.removesuffix('.png')}.txt"):
            scale, offset = float(read_file(text)) / 65535, 0.0
        else:
            return 1.0, 0.0
    except (ValueError, TypeError, OSError) as error:
        raise DataError(f"{path}: scale or offset cannot be read ({error}). {FIX}") from error
    if not (0 < scale < math.inf and math.isfinite(offset)):
        raise DataError(f"{path}: scale {scale} and offset {offset} are no numbers for disparity. {FIX}")
    return scale, offset


def _read_npy(path: str) -> tuple[Map, NDArray[np.bool_]]:
    return _plain(path, read_array(path, FIX))


def _read_npz(path: str) -> tuple[Map, NDArray[np.bool_]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("disp.npy") as entry:
            return _plain(path, read_array(cast("Any", entry), FIX))
    except (OSError, KeyError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} has no readable array `disp` ({error}). {FIX}") from error


def _plain(path: str, array: NDArray[Any]) -> tuple[Map, NDArray[np.bool_]]:
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path}: expected numbers for disparity, got {array.dtype}. {FIX}")
    while array.ndim > 2 and 1 in (array.shape[-1], array.shape[0]):  # (H W 1), (1 H W)
        array = array[..., 0] if array.shape[-1] == 1 else array[0]
    values = array.astype(np.float32)
    return values, np.isfinite(values) & (values != 0)


_READERS = {".png": _read_png, ".npz": _read_npz, ".npy": _read_npy}
