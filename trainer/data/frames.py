"""Pictures with depth in any layout that patterns of file names can tell: the reader of most evaluation sets.

The arguments say where pictures, depth, masks and cameras of a set lie, and what their numbers mean.
"""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import Unpack

from trainer.data import DATASETS
from trainer.data.clips.cameras import Camera, read_camera, read_world_poses
from trainer.data.clips.clips import Clip, Line, choose_frames
from trainer.data.clips.dataset import ClipDataset, doubt, first_readable, refuse_hints, refuse_stereo
from trainer.data.clips.intrinsics import is_camera, resized
from trainer.data.clips.listing import clips_by_folder, read_item_list
from trainer.data.files.coding import Kind
from trainer.data.files.damage import is_first_of_machine
from trainer.data.files.depth import DepthFormat
from trainer.data.files.layout import Layout, problems_of
from trainer.data.files.maps import Maps
from trainer.data.files.patterns import INDEX, Words
from trainer.data.files.pictures import picture_size, read_rgb
from trainer.data.files.splits import capped
from trainer.data.files.usual import First, Usual
from trainer.data.options import CommonOptions
from trainer.data.raw_item import RawItem
from trainer.data.recorded import RecordedDataset
from trainer.data.world.miniature import made_frames, write_layout
from trainer.geometry import crop_intrinsics
from trainer.runtime.errors import DataError, UserError

_THREADS = 16
_TRIED = 5  # items, until one can be read
_OUTDOORS = 20.0  # metres: a usual depth that indoor sets do not reach


@DATASETS.register("frames")
class Frames(ClipDataset):
    """Pictures with depth, in any layout, for evaluation: file names are patterns like `{scene}/rgb/{stem}.png`.

    A word in braces is any part of one name; other patterns are filled with the words of the picture, or of its line in
    the list, and `{index:03}` with the position of the item. Pictures of one folder are frames of one clip in their
    order, so `supp_idxs` works where that is true.

    Args:
        images: pattern of the pictures, from `root`.
        depth: pattern of the depth maps; null = there are none.
        root: folder that is, or contains, `folder`; null = look in the usual places.
        split: name of this data in results.
        folder: name of the folder; null = `split`.
        mask: pattern, or several, of maps that say where depth is valid.
        mask_valid: values of a mask that mean valid; null = all but 0.
        edges: pattern of maps of depth edges, for metrics on them.
        K: intrinsics: pattern of files (text, `.cam` of Sintel, `.json` of Cityscapes), or fx, fy, cx, cy in pixels of
            the pictures; null = unknown.
        poses: pattern of files of poses, camera -> world in metres: one per picture, or one for the pictures of a
            folder with a line each.
        list_file: the items in order, a line each, a path below `root`; null = all pictures, sorted by name.
        list_line: pattern of a line; null = the path of the picture is its first column.
        depth_format: png, npy, npz, dpt or raw (float32 of the size of the picture); null = by the ending.
        depth_key: of the array in an npz.
        depth_scale: values per metre (per pixel of a disparity); null = 1, and required for png.
        depth_offset: added to the values before they are divided.
        depth_kind: depth, inverse (1 / depth) or disparity (baseline * fx / depth).
        baseline: metres, for disparities.
        invalid: values that mean no depth; "inf" is both infinities, and NaN always means none.
        cut: shares cut from picture and maps before anything else: {bottom: 0.25}, or top, left, right.
        native_items: items of the whole set; another number is scored with a remark.
        native_size: (width, height) of the original pictures; others are read with a remark.
        usual_depth: (least, most) median of the depth of a picture, metres; others are read with a remark.

    The other arguments are those of `DepthDataset`. There is nothing to train on: modes val and test are the same.
    """

    source: ClassVar[str] = "each page of evaluation sets names its own"
    defaults: ClassVar[CommonOptions] = {"mode": "test", "supp_idxs": None}

    def __init__(
        self,
        images: str,
        depth: str | None = None,
        root: str | None = None,
        split: str = "frames",
        folder: str | None = None,
        mask: str | Sequence[str] | None = None,
        mask_valid: Sequence[float] | None = None,
        edges: str | None = None,
        K: str | Sequence[float] | None = None,
        poses: str | None = None,
        list_file: str | None = None,
        list_line: str | None = None,
        depth_format: DepthFormat | None = None,
        depth_key: str = "depth",
        depth_scale: float | None = None,
        depth_offset: float = 0.0,
        depth_kind: Kind = "depth",
        baseline: float | None = None,
        invalid: Sequence[float | Literal["inf"]] = (0.0,),
        cut: Mapping[str, float] | None = None,
        native_items: int | None = None,
        native_size: tuple[int, int] | None = None,
        usual_depth: tuple[float, float] = (0.2, 200.0),
        **common: Unpack[CommonOptions],
    ):
        given = dict(locals())
        super().__init__(**self.defaults | common)
        refuse_hints(self.use_hints, "this data")
        refuse_stereo(self.supp_idxs, "this data")
        if self.use_aug or self.mode == "train":
            key = "use_aug" if self.use_aug else "type"
            raise UserError(f"dataset.{key}: frames are for evaluation only: val and test, without augmentation")
        self.layout = layout = Layout.of(given)
        self.split, self._usual = split, Usual(native_items, native_size, usual_depth)
        self.use_depth = self.use_depth and depth is not None
        self._fixed = None if K is None or isinstance(K, str) else _camera_of(K)
        self.root = layout.find_root(root, folder or split, split)
        self.maps = Maps(self.root, layout)
        self._pictures = layout.images.find(self.root)
        clips = clips_by_folder(self.root, self._pictures)
        if layout.list_file:
            items = read_item_list(self.root / layout.list_file, self.root, layout, clips)
        else:
            items = self._all_frames(clips)
        self._set_items(clips, [line for line, _ in items])
        self._words: list[Words] = [{**words, INDEX: str(i)} for i, (_, words) in enumerate(items)]
        self._cameras: dict[Path, Camera] = {}
        self._poses: dict[Path, NDArray[Any]] = {}
        self._first: First | None = None  # set by `check`, as is its camera
        self._camera_of_first: Camera | None = None

    @classmethod
    def validate_config(cls, kwargs: dict[str, Any]) -> list[str]:
        return [*super().validate_config(kwargs), *problems_of(kwargs)]

    @classmethod
    def write_miniature(cls, out: Path, arguments: Mapping[str, Any]) -> None:
        indoors = (arguments.get("usual_depth") or (0, _OUTDOORS))[1] < _OUTDOORS
        frames = made_frames(arguments.get("native_size") or (640, 480), indoors)
        write_layout(out / (arguments.get("folder") or arguments["split"]), Layout.of(arguments), frames)

    @property
    def home(self) -> Path:
        return self.root

    def describe(self, index: int) -> str:
        """Path of the picture without its ending, or the place of a bad line."""
        line = self.lines[index]
        return line.place if line.problem else posixpath.join(line.clip, Path(self._picture_of(line)).stem)

    label_name = describe

    def check(self) -> list[str]:
        """List bad lines, missing and cut files, maps of another shape than their picture, and unreadable items."""
        items = [(words, line) for words, line in zip(self._words, self.lines, strict=True) if not line.problem]
        if problems := self._line_problems() or self.maps.missing([words for words, _ in items], self.use_depth):
            return problems
        with_depth = items if self.use_depth else []
        paths = list(self.picture_places())
        if self.layout.form != "raw":  # whatever its ending, a file of bare numbers is no picture
            paths += [str(self.maps.depth_place(words)) for words, _ in with_depth]
        if problems := self._damaged(paths, "files"):
            return problems
        if is_first_of_machine():
            with ThreadPoolExecutor(_THREADS) as pool:
                found = pool.map(lambda item: self.maps.shape_problem(item[0], self._picture_of(item[1])), with_depth)
                problems = capped([problem for problem in found if problem], "maps of another shape")
        return problems or self._try()

    def notes(self) -> list[str]:
        """Report files that `check` had no time for, and what is unusual about the first item."""
        notes = super().notes() if self.supp_idxs else RecordedDataset.notes(self)  # gaps matter to supports alone
        if self._first is None:
            return notes
        notes += self._usual.remarks(self._first, len(self))
        camera = self._camera_of_first
        if camera and (question := doubt(camera.K, self._first.size, self._first.name)):
            notes.append(question)
        return notes

    def load(self, index: int, factor: int = 0) -> RawItem:
        line, target, supports = self._read(index, factor)
        native, words = picture_size(self._picture_of(line)), self._words[index]
        rows, columns = self.layout.cut.box(native[1], native[0])
        kept = (columns.stop - columns.start, rows.stop - rows.start)
        camera = self._camera(words)
        depth = K = K_depth = None
        if camera is not None:
            K = crop_intrinsics(torch.from_numpy(camera.K), (columns.start, rows.start)).numpy()
        with self.stage("Depth"):
            if self.use_depth:
                depth = self.maps.depth(words, native, None if camera is None else camera.K[0, 0])
                depth = self._known_depth(depth, str(self.maps.depth_place(words)))
                K_depth = None if K is None else resized(K, kept, (depth.shape[1], depth.shape[0]))
            edges = self.maps.edges(words, None if depth is None else depth.shape)
        Ts = self._motions(line, factor) if self.layout.poses else None
        K = None if K is None else resized(K, kept, self.size)
        return RawItem(target, supports, K, depth=depth, Ts_true=Ts, K_depth=K_depth, edges=edges)

    def open_picture(self, place: Any) -> Any:
        """Return the path of a picture, or a stream of what the cut leaves of it."""
        if not any(self.layout.cut):
            return place
        rgb, stream = read_rgb(place), io.BytesIO()
        Image.fromarray(rgb[self.layout.cut.box(*rgb.shape[:2])]).save(stream, "BMP")
        stream.seek(0)
        return stream

    def _camera(self, words: Words) -> Camera | None:
        """Return the camera of an item in pixels of the picture as it is stored; None where it is not known."""
        if self._fixed is not None or self.layout.camera is None:
            return self._fixed
        place = self.maps.place(self.layout.camera, words)
        if place not in self._cameras:
            self._cameras[place] = read_camera(place)
        return self._cameras[place]

    def _motions(self, line: Line, factor: int) -> NDArray[Any]:
        """True motions target -> support (n 4 4), metres."""
        T = self._pose(line.clip, line.number)
        others = [self._pose(*self._support(line, offset)) for offset in self._offsets(factor)]
        return np.array([np.linalg.inv(other) @ T for other in others]).reshape(-1, 4, 4)

    def _pose(self, clip: str, number: int) -> NDArray[Any]:
        """Camera -> world (4 4), metres, of a picture."""
        frames, pattern = self.clips[clip].frames, self.layout.poses
        place = (
            self.maps.place(pattern, self._pictures[os.path.relpath(frames[number], self.root)]) if pattern else None
        )
        if place is None:
            raise ValueError("this layout has no poses")
        if place not in self._poses:
            self._poses[place] = read_world_poses(place)
        poses = self._poses[place]
        if len(poses) not in (1, len(frames)):
            raise DataError(f"{place} has {len(poses)} poses for {len(frames)} pictures: each needs one")
        return np.asarray(poses[0 if len(poses) == 1 else sorted(frames).index(number)])

    def _picture_of(self, line: Line) -> str:
        return self.clips[line.clip].frames[line.number]

    def _try(self) -> list[str]:
        """Read the first item that can be read; say why when there is none among the first ones."""
        readable = [index for index, line in enumerate(self.lines) if not line.problem]
        try:
            index, raw = first_readable(lambda i: (i, self.load(i)), readable[:_TRIED])
        except UserError as error:
            return [str(error)]
        self._first = First(self.describe(index), raw.depth, picture_size(self._picture_of(self.lines[index])))
        self._camera_of_first = self._camera(self._words[index])
        return []

    def _all_frames(self, clips: Mapping[str, Clip]) -> list[tuple[Line, Words]]:
        """Take all pictures that have their supports."""
        lines = [Line("", c, n) for c, clip in clips.items() for n in choose_frames(clip, self.supp_idxs, "test", 0)]
        if not lines:
            raise UserError(f"{self.root}: no picture has the neighbours {list(self.supp_idxs)} in its folder")
        self._left_out = self._explain(clips, lines, self.supp_idxs, 0)
        names = (os.path.relpath(clips[line.clip].frames[line.number], self.root) for line in lines)
        return [(line, self._pictures[name]) for line, name in zip(lines, names, strict=True)]


def _camera_of(numbers: Sequence[float]) -> Camera:
    """Make a camera of fx, fy, cx, cy in pixels. Raises UserError."""
    fx, fy, cx, cy = numbers if len(numbers) == 4 else (0.0,) * 4
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    if not is_camera(K):
        raise UserError(f"dataset.K: expected [fx, fy, cx, cy] in pixels of the pictures, got {list(numbers)}")
    return Camera(K)
