"""KITTI odometry: 22 sequences of a driving stereo rig, each with its own calibration, eleven with true poses.

A. Geiger, P. Lenz, R. Urtasun, "Are we ready for Autonomous Driving? The KITTI Vision Benchmark Suite", CVPR 2012.
Training on sequences 0-8 and testing on 9 and 10 is the split of Zhou et al., arXiv:1704.07813.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from trainer.data import DATASETS
from trainer.data.clips.clips import Clip, Line, list_clip, read_lines
from trainer.data.clips.dataset import ClipDataset, refuse_hints
from trainer.data.clips.intrinsics import resized
from trainer.data.clips.poses import Rig, are_motions, read_poses, read_rig
from trainer.data.files.depth import resize_nearest
from trainer.data.files.frames import LEFT, FrameList, Frames, Numbers
from trainer.data.files.paths import SET_A_ROOT, data_roots, expanded, find_folder, holds
from trainer.data.files.scans import read_points
from trainer.data.files.splits import find_split, is_number
from trainer.data.kitti_raw.calibration import project_points
from trainer.data.kitti_raw.lists import list_name, recording_of
from trainer.data.kitti_raw.places import KITTI_LICENCE
from trainer.data.options import CommonOptions, check_choice, checked_size
from trainer.data.raw_item import RawItem
from trainer.runtime.errors import DataError, UserError
from trainer.types import METRES_PER_UNIT

Pictures = Literal["auto", "colour", "grey"]

_NAMES = ("kitti_odom", "kitti_odometry")
_PICTURES = "sequences/[0-9][0-9]/image_[0-3]"
_CAMERAS = {"colour": {"l": 2, "r": 3}, "grey": {"l": 0, "r": 1}}
_TEST_SEQUENCES = ("09", "10")


@DATASETS.register("kitti_odom")
class KittiOdometry(ClipDataset):
    """KITTI odometry sequences, colour or grey, with the intrinsics of each sequence and its true poses.

    Ground truth is projected LiDAR, where a sequence has the folder `velodyne`; without any there is no key `depth`.
    `Ts_true` is given where all sequences have poses. The baseline of a stereo pair is that of the calibration.

    Args:
        root: folder that is, or contains, kitti_odom or kitti_odometry (`sequences/00/...`); null = look in the usual
            places.
        split: folder of split files in or beside the data (`splits/<split>/<mode>_files.txt`, lines
            `<sequence> <frame> <l|r>`); null = by rule: the left frames of sequences 00-08 (with `val_every`) for
            train and val, of 09 and 10 for test.
        split_file: a split file; wins over `split` and `mode`.
        pictures: `colour` (image_2, image_3), `grey` (image_0, image_1), or `auto` = colour where there is colour.
        val_every: without split files, every n-th block of frames is for val, with a gap around it; 0 = all frames.
        supp_range: [least, most] factor of the offsets of supports, drawn per item in training (arXiv:2307.10713).
        depth_size: (width, height) of the depth maps, resized by nearest neighbour so that sequences of different size
            can share a batch; null = size of the recording.

    The other arguments are those of `DepthDataset`.
    """

    source: ClassVar[str] = "CVPR 2012; Zhou et al., arXiv:1704.07813"
    licence = KITTI_LICENCE
    measures_speed = True

    def __init__(
        self,
        root: str | None = None,
        split: str | None = None,
        split_file: str | None = None,
        pictures: Pictures = "auto",
        val_every: int = 10,
        supp_range: tuple[int, int] = (1, 1),
        depth_size: tuple[int, int] | None = (1242, 376),
        **common: Unpack[CommonOptions],
    ):
        super().__init__(**common)
        refuse_hints(self.use_hints, "KITTI odometry")
        check_choice("dataset.pictures", pictures, Pictures)
        self.pictures, self.supp_range = pictures, supp_range
        self.depth_size = None if depth_size is None else checked_size(depth_size, "dataset.depth_size")
        self.root = find_folder(data_roots(root), _NAMES, holds(_PICTURES), "KITTI odometry", SET_A_ROOT)
        clips: dict[str, Clip] = {}
        self.split_file: Path | None = None
        if split or split_file:
            self.split_file = expanded(split_file) if split_file else find_split(self.root, split or "", self.mode)
            lines = read_lines(self.split_file, _parse, '"<sequence> <frame> <l|r>"')
            for line in lines:
                self._add(clips, line.clip)
        else:
            for folder in sorted((self.root / "sequences").glob("[0-9][0-9]")):
                if (folder.name in _TEST_SEQUENCES) == (self.mode == "test") and int(folder.name) <= 10:
                    self._add(clips, f"{folder.name}/l")
            left = {name: clip for name, clip in clips.items() if name.endswith("/l")}
            if not any(clip.frames for clip in left.values()):
                raise UserError(self._absent())
            lines = self._by_rule(left, 0 if self.mode == "test" else val_every, self.root)
        self._set_items(clips, lines)
        self.sequences = sorted({line.clip[:2] for line in lines if not line.problem})
        scans = {name: self.root / "sequences" / name / "velodyne" for name in self.sequences}
        has_scans = any(os.path.isdir(folder) for folder in scans.values())
        self._without_depth = self.use_depth and not has_scans
        self.use_depth = self.use_depth and has_scans
        self._has_poses = bool(self.sequences) and all(os.path.isfile(self._pose_file(s)) for s in self.sequences)
        if self.use_speed and not self._has_poses:
            without = ", ".join(s for s in self.sequences if not os.path.isfile(self._pose_file(s)))
            raise UserError(
                f"dataset.use_speed: {self.root / 'poses'} has no poses of sequence {without}, which say how far the"
                " camera moves. Copy them there, name other frames with dataset.split_file, or set it to false"
            )
        self._rigs: dict[str, Rig] = {}
        self._poses: dict[str, NDArray[Any]] = {}

    @property
    def home(self) -> Path:
        return self.root

    def check(self) -> list[str]:
        """List bad lines, missing and cut pictures, cut scans, unreadable calibration and pose files."""
        sequences = list(filter(None, map(self._sequence_problem, self.sequences)))
        lines = [line for line in self.lines if self.use_depth and not line.problem]
        scans = dict.fromkeys(str(self._scan(line)) for line in lines)
        return super().check() + sequences + self._damaged(scans, "scans")

    def _sequence_problem(self, sequence: str) -> str:
        try:
            for name in self.clips:
                if name[:2] == sequence:
                    self._rig(sequence).camera(self._camera(name))
            if self._has_poses:
                last = max(line.number for line in self.lines if line.clip[:2] == sequence)
                self._camera_pose(f"{sequence}/l", last + max(0, 0, *self._offsets()))
        except DataError as error:
            return str(error)
        return ""

    def notes(self) -> list[str]:
        notes = super().notes()
        if self._without_depth:
            notes.append(f"no sequence in {self.root} has a folder velodyne: there is no ground-truth depth")
        if not self._has_poses:
            notes.append("not all sequences have true poses: items have no Ts_true")
        return notes

    def load(self, index: int, factor: int = 0) -> RawItem:
        line, target, supports = self._read(index, factor)
        rig, camera = self._rig(line.clip[:2]), self._camera(line.clip)
        K = resized(rig.K(camera), self._native_size(line.clip), self.size)
        depth, K_depth = self._depth(line, camera) if self.use_depth else (None, None)
        return RawItem(
            target,
            supports,
            K,
            T_stereo=self._stereo_motion(line) if 0 in self.supp_idxs else None,
            depth=depth,
            Ts_true=self._motions(line, factor) if self._has_poses else None,
            K_depth=K_depth,
        )

    def lists(self) -> list[tuple[FrameList, Frames]]:
        targets: dict[str, list[int]] = {}
        for line in self.lines:
            if not line.problem:
                targets.setdefault(str(int(line.clip[:2])), []).append(line.number)
        digest = Frames.of((sequence, numbers, LEFT) for sequence, numbers in targets.items()).digest()
        return [(FrameList(self.list_name, digest, len(self)), self.frames())] if targets else []

    @property
    def list_name(self) -> str:
        return list_name(self.split_file) if self.split_file else f"sequences {', '.join(self.sequences)}"

    def fingerprints(self) -> Numbers:
        return np.empty(0, np.int64)  # frames are known by drive and number

    def _recording(self, name: str) -> tuple[str, int, int]:
        sequence, _, side = name.partition("/")
        return recording_of(sequence, side)

    def _absent(self) -> str:
        """Name the sequences that are used without split files, those that are here, and the ways out."""
        is_test = self.mode == "test"
        wanted = " and ".join(_TEST_SEQUENCES) if is_test else "00 to 08"
        there = sorted(path.parent.name for path in self.root.glob(_PICTURES))
        instead = ", or evaluate with --mode val" if is_test else ""
        return (
            f"{self.root}: without split files kitti_odom takes sequences {wanted} for {self.mode} (arXiv:1704.07813),"
            f" and no pictures of them are here. There are: {', '.join(dict.fromkeys(there))}. Copy them here, name"
            f" frames to take with dataset.split_file or dataset.{self.mode}.split_file{instead}"
        )

    def _add(self, clips: dict[str, Clip], name: str) -> None:
        """List the frames of a sequence and side, and of its stereo partner when that is a support."""
        for clip in (name, _partner(name))[: 1 + (0 in self.supp_idxs)] if name else ():
            if clip not in clips:
                folder = self.root / "sequences" / clip[:2] / f"image_{self._camera(clip)}"
                clips[clip] = list_clip(folder, clip, step=1) if os.path.isdir(folder) else Clip(clip, {})

    def _camera(self, name: str) -> int:
        """Number of the camera of `<sequence>/<side>`."""
        sequence, _, side = name.partition("/")
        has_colour = os.path.isdir(self.root / "sequences" / sequence / "image_2")
        best = "colour" if has_colour else "grey"
        return _CAMERAS.get(self.pictures, _CAMERAS[best])[side]

    def _support(self, line: Line, offset: int) -> tuple[str, int]:
        return (line.clip, line.number + offset) if offset else (_partner(line.clip), line.number)

    def _rig(self, sequence: str) -> Rig:
        if sequence not in self._rigs:
            self._rigs[sequence] = read_rig(self.root / "sequences" / sequence / "calib.txt")
        return self._rigs[sequence]

    def _pose_file(self, sequence: str) -> Path:
        return self.root / "poses" / f"{sequence}.txt"

    def _pose(self, sequence: str) -> NDArray[Any]:
        """Poses of camera 0 (number of frames, 4, 4), camera to world. Raises DataError."""
        if sequence not in self._poses:
            path = self._pose_file(sequence)
            poses = read_poses(path)
            broken = np.flatnonzero(~are_motions(poses))
            if broken.size:
                more = f"(and {broken.size - 1} more)"
                raise DataError(f"{path}: the pose of frame {broken[0]} {more} is no motion. Copy it again")
            self._poses[sequence] = poses
        return self._poses[sequence]

    def _camera_pose(self, name: str, number: int) -> NDArray[Any]:
        sequence = name[:2]
        poses = self._pose(sequence)
        if not 0 <= number < len(poses):
            raise DataError(f"{self._pose_file(sequence)} has {len(poses)} poses, none of frame {number} ({name})")
        return poses[number] @ np.linalg.inv(self._rig(sequence).from_camera_0(self._camera(name)))

    def _motions(self, line: Line, factor: int = 0) -> NDArray[Any]:
        """True motions target -> support (n 4 4), metres."""
        target = self._camera_pose(line.clip, line.number)
        places = [self._support(line, offset) for offset in self._offsets(factor)]
        motions = [np.linalg.inv(self._camera_pose(*place)) @ target for place in places]
        return np.array(motions).reshape(-1, 4, 4)

    def _stereo_motion(self, line: Line) -> NDArray[Any]:
        """Target -> other camera (4 4), in units of the 0.1 baseline."""
        rig = self._rig(line.clip[:2])
        other, own = (rig.from_camera_0(self._camera(name)) for name in (_partner(line.clip), line.clip))
        T: NDArray[Any] = other @ np.linalg.inv(own)
        T[:3, 3] /= METRES_PER_UNIT
        return T

    def _depth(self, line: Line, camera: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Projected LiDAR (H W) in metres, zeros without a scan, and its K."""
        size, rig = self._native_size(line.clip), self._rig(line.clip[:2])
        out = self.depth_size or size
        K = resized(rig.K(camera), size, out)
        path = self._scan(line)
        with self.stage("Depth"):
            if not os.path.isfile(path):
                return np.zeros((out[1], out[0]), np.float32), K
            points = self._known_points(read_points(str(path)), str(path))
            return resize_nearest(project_points(points, rig.lidar_to_pixels(camera), size), out), K

    def _scan(self, line: Line) -> Path:
        return self.root / "sequences" / line.clip[:2] / "velodyne" / f"{line.number:06d}.bin"


def _parse(row: str) -> tuple[str, int] | None:
    match row.split():
        case [sequence, number, side] if is_number(sequence, 2) and is_number(number) and side in ("l", "r"):
            return f"{int(sequence):02d}/{side}", int(number)
    return None


def _partner(name: str) -> str:
    sequence, _, side = name.partition("/")
    return f"{sequence}/{'r' if side == 'l' else 'l'}"
