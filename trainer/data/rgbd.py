"""RGB-D recordings: colour frames with a depth map and a camera pose each, as hand-held depth cameras give them.

The layout is that of the prepared sequences of DeepVideoMVS (Duzceker et al., arXiv:2012.02177).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from trainer.data import DATASETS
from trainer.data.clips.clips import Clip, Line, list_clip
from trainer.data.clips.dataset import ClipDataset, doubt, first_readable, refuse_hints, refuse_stereo
from trainer.data.clips.intrinsics import read_intrinsics, resized
from trainer.data.clips.poses import are_motions, read_poses
from trainer.data.files.depth import read_depth, resize_nearest
from trainer.data.files.paths import SET_A_ROOT, data_roots, find_folder
from trainer.data.options import CommonOptions, checked_size
from trainer.data.raw_item import RawItem
from trainer.runtime.errors import UserError

_COLOUR, _DEPTH = ("images", "rgb", "color"), ("depth", "depths")


@DATASETS.register("rgbd")
class RgbdScenes(ClipDataset):
    """Scenes of an RGB-D camera: frames, depth, intrinsics, poses.

    `<root>/<scene>/images/*.jpg`, `depth/*.png` (or `.npy`, metres) with the numbers of the images, `K.txt`, and
    `poses.txt` with one camera-to-world pose per image, metres; `root` may be a scene itself. Folders may also be
    called rgb or color, and depths. `Ts_true` is given where all scenes have finite poses.

    Args:
        root: folder that is, or contains, rgbd or a scene; null = look in the usual places.
        split_file: lines `<scene> <frame>`; null = all frames that have their neighbours, divided by `val_every`.
        val_every: every n-th block of frames is for val and test, with a gap around it; 0 = all frames in all modes.
        frame_gap: frames from one neighbour to the next, for cameras that move little: offset -1 is so many back.
        supp_range: [least, most] factor of the offsets of supports, drawn per item in training (arXiv:2307.10713).
        depth_scale: values of a depth PNG per metre: 1000 = millimetres.
        depth_size: (width, height) of the depth maps, resized by nearest neighbour; null = as recorded.

    The other arguments are those of `DepthDataset`. Frames without a depth map get one of zeros.
    """

    source: ClassVar[str] = "Duzceker et al., arXiv:2012.02177"
    defaults: ClassVar[CommonOptions] = {"size": (320, 224)}
    measures_speed = True

    def __init__(
        self,
        root: str | None = None,
        split_file: str | None = None,
        val_every: int = 10,
        frame_gap: int = 1,
        supp_range: tuple[int, int] = (1, 1),
        depth_scale: float = 1000.0,
        depth_size: tuple[int, int] | None = None,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(**self.defaults | common)
        refuse_hints(self.use_hints, "an RGB-D recording")
        refuse_stereo(self.supp_idxs, "an RGB-D recording")
        if not depth_scale > 0:
            raise UserError(f"dataset.depth_scale must be positive, got {depth_scale}")
        self.frame_gap, self.supp_range, self.depth_scale = frame_gap, supp_range, depth_scale
        self.depth_size = None if depth_size is None else checked_size(depth_size, "dataset.depth_size")
        self.root = find_folder(data_roots(root), ("rgbd",), _holds_scenes, "RGB-D data", SET_A_ROOT)
        folders = [self.root] if _is_scene(self.root) else sorted(filter(_is_scene, self.root.iterdir()))
        self._scenes = {folder.name: folder for folder in folders}
        clips = {name: list_clip(_sub(folder, _COLOUR), name) for name, folder in self._scenes.items()}
        self._choose_items(clips, split_file, val_every, self.root)
        self._depths = {name: self._list_depth(folder, clips[name]) for name, folder in self._scenes.items()}
        self._depth_shapes: dict[str, tuple[int, ...]] = {}
        self._K = {name: read_intrinsics(folder / "K.txt") for name, folder in self._scenes.items()}
        self._poses = {name: self._read_poses(folder, clips[name]) for name, folder in self._scenes.items()}
        self._has_poses = all(self._poses.values())
        if self.use_speed and not self._has_poses:
            raise UserError(
                f"dataset.use_speed: {self.root}: not all scenes have finite poses in poses.txt, which say how far the"
                " camera moves. Complete them, or set it to false"
            )

    @property
    def home(self) -> Path:
        return self.root

    def check(self) -> list[str]:
        """List bad lines, missing pictures, and pictures and depth maps that are cut short."""
        paths = (self._depth_path(line) for line in self.lines) if self.use_depth else ()
        return super().check() + self._damaged((path for path in paths if path), "depth maps")

    def notes(self) -> list[str]:
        notes = super().notes()
        notes += filter(None, (doubt(K, self._native_size(name), name) for name, K in self._K.items()))
        without = sum(self._depth_path(line) is None for line in self.lines) if self.use_depth else 0
        if without:
            notes.append(f"{without} of {len(self.lines)} items have no depth map: theirs are empty")
        if not self._has_poses:
            notes.append("not all scenes have finite poses in poses.txt: items have no Ts_true")
        return notes

    def load(self, index: int, factor: int = 0) -> RawItem:
        line, target, supports = self._read(index, factor)
        native = self._native_size(line.clip)
        K, depth, K_depth = self._K[line.clip], None, None
        if self.use_depth:
            with self.stage("Depth"):
                depth = self._depth(line)
                K_depth = resized(K, native, (depth.shape[1], depth.shape[0]))
        Ts = self._motions(line, factor) if self._has_poses else None
        K = resized(K, native, self.size)
        return RawItem(target, supports, K, depth=depth, Ts_true=Ts, K_depth=K_depth)

    def _depth(self, line: Line) -> NDArray[np.float32]:
        path = self._depth_path(line)
        if path is None:
            return np.zeros(self.depth_size[::-1] if self.depth_size else self._depth_shape_of(line.clip), np.float32)
        depth = self._known_depth(read_depth(Path(path), self.depth_scale), path)
        return depth if self.depth_size is None else resize_nearest(depth, self.depth_size)

    def _depth_shape_of(self, scene: str) -> tuple[int, ...]:
        """(height, width) of the depth maps of a scene, or of its pictures when it has no maps."""
        if scene not in self._depth_shapes:
            maps = self._depths[scene].values()
            self._depth_shapes[scene] = (
                first_readable(lambda path: read_depth(Path(path), self.depth_scale).shape, maps)
                if maps
                else self._native_size(scene)[::-1]
            )
        return self._depth_shapes[scene]

    def _depth_path(self, line: Line) -> str | None:
        return self._depths.get(line.clip, {}).get(line.number)

    def _motions(self, line: Line, factor: int = 0) -> NDArray[Any]:
        """True motions target -> support (n 4 4), metres."""
        poses = self._poses[line.clip]
        numbers = [self._support(line, offset)[1] for offset in self._offsets(factor)]
        motions = [np.linalg.inv(poses[number]) @ poses[line.number] for number in numbers]
        return np.array(motions).reshape(-1, 4, 4)

    def _list_depth(self, folder: Path, clip: Clip) -> dict[int, str]:
        """Map the numbers of a clip to its depth maps."""
        where = _sub(folder, _DEPTH)
        if not (self.use_depth and os.path.isdir(where)):
            return {}
        found = list_clip(where, clip.name, clip.step, suffixes=(".png", ".npy"))
        by_stem = {Path(path).stem: path for path in found.frames.values()}
        stems = {number: Path(path).stem for number, path in clip.frames.items()}
        return {number: by_stem[stem] for number, stem in stems.items() if stem in by_stem}

    def _read_poses(self, folder: Path, clip: Clip) -> dict[int, NDArray[Any]]:
        """Map the numbers of a clip to poses, one per picture; empty without poses, or when some are not finite."""
        path = folder / "poses.txt"
        if not os.path.isfile(path):
            return {}
        poses = read_poses(path)
        if len(poses) != len(clip.frames):
            raise UserError(f"{path} has {len(poses)} poses for {len(clip.frames)} pictures: one per picture is needed")
        if not np.isfinite(poses).all():
            return {}
        broken = np.flatnonzero(~are_motions(poses))
        if broken.size:
            raise UserError(f"{path}: pose {broken[0]} (and {broken.size - 1} more) is no motion. Copy it again")
        return dict(zip(sorted(clip.frames), poses, strict=True))


def _sub(folder: Path, names: Sequence[str]) -> Path:
    """Find the first of `names` in `folder`; the first name when all are missing."""
    return next((folder / name for name in names if os.path.isdir(folder / name)), folder / names[0])


def _is_scene(folder: Path) -> bool:
    return os.path.isfile(folder / "K.txt") and os.path.isdir(_sub(folder, _COLOUR))


def _holds_scenes(folder: Path) -> bool:
    return _is_scene(folder) or any(_is_scene(path.parent) for path in folder.glob("*/K.txt"))
