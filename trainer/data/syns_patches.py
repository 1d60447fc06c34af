"""SYNS-Patches: single images of natural and indoor scenes with dense depth, for evaluation only.

W. Adams et al., "The Southampton-York Natural Scenes (SYNS) dataset", Scientific Reports 2016; patches, depth edges
and splits of arXiv:2208.01489.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from trainer.data import DATASETS
from trainer.data.clips.clips import read_lines
from trainer.data.clips.dataset import refuse_hints
from trainer.data.clips.intrinsics import resized
from trainer.data.files.arrays import array_bytes
from trainer.data.files.depth import read_depth_array
from trainer.data.files.masks import read_edges
from trainer.data.files.paths import SET_A_ROOT, data_roots, expanded, find_folder, holds
from trainer.data.files.pictures import picture_size
from trainer.data.files.splits import capped, find_split, is_number
from trainer.data.options import CommonOptions
from trainer.data.raw_item import RawItem
from trainer.data.recorded import RecordedDataset
from trainer.data.world.miniature import made_frames, picture_bytes, write
from trainer.runtime.errors import DataError, UserError
from trainer.runtime.files import read_file

_FIELD_OF_VIEW = (84.10, 25.46)  # degrees, of a patch
_NATIVE = (1242, 376)  # (width, height) of a patch
_EDGES = re.compile("edges(_0[123](_log|_inv)?)?")  # folders of depth edges


@DATASETS.register("syns_patches")
class SynsPatches(RecordedDataset):
    """SYNS-Patches, val and test: images with dense depth and depth edges. There is nothing to train on.

    Args:
        root: folder that is, or contains, syns_patches (`<scene>/images`, `depths`, `edges`); null = look in the usual
            places.
        split_file: a split file, lines `<scene> <number>.png`; null = `splits/<mode>_files.txt` in the folder.
        use_edges: load depth edges, the key `edges`, for metrics on them.
        edges_dir: which depth edges: `edges`, or one of `edges_01` to `edges_03`, each also with `_log` or `_inv`.

    The other arguments are those of `DepthDataset`, where

    supp_idxs: only null: there are no neighbours.
    use_aug: only false.
    """

    source: ClassVar[str] = "Adams et al., Scientific Reports 2016; arXiv:2208.01489"
    licence = "non-commercial use only"
    defaults: ClassVar[CommonOptions] = {"mode": "test", "supp_idxs": None}

    def __init__(
        self,
        root: str | None = None,
        split_file: str | None = None,
        use_edges: bool = True,
        edges_dir: str = "edges",
        **common: Unpack[CommonOptions],
    ):
        super().__init__(**self.defaults | common)
        refuse_hints(self.use_hints, "SYNS-Patches")
        if self.supp_idxs:
            raise UserError("dataset.supp_idxs: SYNS-Patches are single images. Set it to null")
        if self.use_aug:
            raise UserError("dataset.use_aug: SYNS-Patches are for evaluation only. Set it to false")
        if self.mode == "train":
            raise UserError("dataset.type: SYNS-Patches are for evaluation only: val and test. Train on other data")
        if not _EDGES.fullmatch(edges_dir):
            raise UserError(
                f"dataset.edges_dir {edges_dir!r} is no folder of depth edges: edges, or edges_01, edges_02, edges_03,"
                " each also with _log or _inv"
            )
        self.use_edges = use_edges
        self._folders = (("images", ".png"), ("depths", ".npy"), (edges_dir, ".png"))
        accept = holds("[0-9][0-9]/images")
        self.root = find_folder(data_roots(root), ("syns_patches",), accept, "SYNS-Patches", SET_A_ROOT)
        path = expanded(split_file) if split_file else find_split(self.root, ".", self.mode)
        self.lines = read_lines(path, _parse, '"<scene> <number>.png"')
        self._watch(len(self.lines))

    @classmethod
    def write_miniature(cls, out: Path, arguments: Mapping[str, Any]) -> None:
        folder, lines = out / "syns_patches", []
        for i, made in enumerate(made_frames(_NATIVE, indoors=False)):
            scene = folder / f"{i + 1:02}"
            write(scene / "images" / "0.png", picture_bytes(made.picture, ".png"))
            write(scene / "depths" / "0.npy", array_bytes(made.depth))
            edges = picture_bytes(np.uint8(255) * made.edges, ".png")
            write(scene / str(arguments.get("edges_dir") or "edges") / "0.png", edges)
            write(scene / "info.txt", b"Made data\nScene Category: Made: Street\n")
            lines.append(f"{i + 1:02} 0.png\n")
        write(folder / "splits" / f"{arguments['mode']}_files.txt", "".join(lines).encode())

    @property
    def home(self) -> Path:
        return self.root

    def picture_places(self) -> list[str]:
        return [str(self._file(line.clip, line.number, *self._folders[0])) for line in self.lines if not line.problem]

    def picture_of(self, index: int) -> str | None:
        line = self.lines[index]
        return None if line.problem else str(self._file(line.clip, line.number, *self._folders[0]))

    def __len__(self) -> int:
        return len(self.lines)

    def describe(self, index: int) -> str:
        """`<scene>/images/<number>`, or the place of a bad line."""
        line = self.lines[index]
        return line.place if line.problem else f"{line.clip}/images/{line.number}"

    @classmethod
    def scene_in(cls, name: str) -> str | None:
        return name.rpartition("/images/")[0] or None

    def category(self, index: int) -> tuple[str, str]:
        """Category and subcategory of the scene of an item; ("", "") when its text file has none."""
        for path in sorted((self.root / self.lines[index].clip).glob("*.txt")):
            try:
                found = _CATEGORY.search(read_file(path).decode("latin-1"))
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error}). Copy it again") from error
            if found:
                return found[1].strip(), found[2].strip()
        return "", ""

    def check(self) -> list[str]:
        """List bad lines, missing files, and pictures that are cut short."""
        problems = capped([line.problem for line in self.lines if line.problem], "bad lines")
        files = [path for line in self.lines if not line.problem for path in self._files(line.clip, line.number)]
        missing = [f"{path} is missing. Restore it or remove its item" for path in files if not os.path.isfile(path)]
        return problems + capped(missing, "missing files") + self._damaged(map(str, files), "files")

    def load(self, index: int) -> RawItem:
        line = self.lines[index]
        if line.problem:
            raise DataError(line.problem)
        picture, depth_file, edge_file = (self._file(line.clip, line.number, *of) for of in self._folders)
        with self.stage("Image"):
            target = self._picture(picture)
            K = _intrinsics(native := picture_size(picture))
        depth = edges = K_depth = None
        with self.stage("Depth"):
            if self.use_depth:
                depth = self._known_depth(read_depth_array(depth_file), str(depth_file))
                K_depth = resized(K, native, (depth.shape[1], depth.shape[0]))
            if self.use_edges:
                edges = read_edges(edge_file)
            if depth is not None and edges is not None and edges.shape != depth.shape:
                shapes = f"edges of shape {edges.shape} do not belong to depth of {depth.shape}"
                raise DataError(f"{edge_file}: {shapes}. Copy both")
        return RawItem(target, [], resized(K, native, self.size), depth=depth, K_depth=K_depth, edges=edges)

    def _files(self, scene: str, number: int) -> list[Path]:
        wanted = (True, self.use_depth, self.use_edges)
        return [self._file(scene, number, *of) for of, want in zip(self._folders, wanted, strict=True) if want]

    def _file(self, scene: str, number: int, folder: str, suffix: str) -> Path:
        return self.root / scene / folder / f"{number}{suffix}"


_CATEGORY = re.compile(r"Scene Category:\s*(.+?)\s*(?::|\s-\s)\s*(.+)")


def _parse(row: str) -> tuple[str, int] | None:
    match row.split():
        case [scene, name] if is_number(scene) and is_number(name.removesuffix(".png")):
            return f"{int(scene):02d}", int(name.removesuffix(".png"))
    return None


def _intrinsics(size: tuple[int, int]) -> NDArray[Any]:
    """K (3 3) of the field of view in pixels of (w, h)."""
    cx, cy = size[0] // 2, size[1] // 2
    fx, fy = (c / math.tan(math.radians(a) / 2) for c, a in zip((cx, cy), _FIELD_OF_VIEW, strict=True))
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
