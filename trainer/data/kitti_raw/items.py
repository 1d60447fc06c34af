"""Items of KITTI recordings, in files or databases: how one is read, and what is checked before training."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from trainer.data.clips.intrinsics import KITTI_FOCAL, average_intrinsics, field_of_view
from trainer.data.files.damage import is_first_of_machine
from trainer.data.files.depth import read_annotated, resize_nearest
from trainer.data.files.frames import Frames, Numbers
from trainer.data.files.paths import expanded
from trainer.data.files.pictures import picture_size
from trainer.data.files.splits import capped, find_split
from trainer.data.kitti_raw.calibration import Calibration, project_points
from trainer.data.kitti_raw.files import Frame, Recordings, check_images, read_split
from trainer.data.kitti_raw.lists import list_name, sightings
from trainer.data.options import CommonOptions, check_choice, checked_size
from trainer.data.raw_item import RawItem, stereo_motion
from trainer.data.recorded import RecordedDataset
from trainer.runtime.errors import DataError, UserError

T = TypeVar("T")
R = TypeVar("R")
Intrinsics = Literal["average", "calibrated"]
DepthAlong = Literal["optical_axis", "lidar_x"]

_MEANINGS: dict[DepthAlong, str] = {
    "optical_axis": "metres along the optical axis", "lidar_x": "metres ahead of the scanner",
}  # fmt: skip
_ANNOTATED = ("eigen_benchmark", "eigen_zhou")  # splits that are customarily scored on annotated depth


class KittiItems(RecordedDataset):
    """Items of KITTI recordings, which a subclass opens.

    Args:
        split_file: a split file; wins over `split` and `mode`.
        use_benchmark: annotated depth instead of projected LiDAR scans.
        depth_along: depth of LiDAR points: metres along the `optical_axis` of the camera, or ahead of the LiDAR,
            `lidar_x`, as the truth of published tables of the Eigen split.
        depth_size: (width, height) of the depth maps, resized by nearest neighbour so that recordings of
            different size can share a batch; null = size of the recording.
        intrinsics: `average` of all dates (Monodepth2), or `calibrated` per date and camera.

    The other arguments are those of `DepthDataset`. Frames without ground truth get a map of zeros.
    """

    usual_crop = "garg"
    truth_arguments = ("use_benchmark", "depth_along")
    truths = (
        {"use_benchmark": False, "depth_along": "optical_axis"},
        {"use_benchmark": False, "depth_along": "lidar_x"},
        {"use_benchmark": True, "depth_along": "optical_axis"},
    )

    def __init__(
        self,
        root: str | None = None,
        split: str = "eigen_zhou",
        split_file: str | None = None,
        use_benchmark: bool = False,
        depth_along: DepthAlong = "optical_axis",
        depth_size: tuple[int, int] | None = (1242, 376),
        intrinsics: Intrinsics = "average",
        hints_root: str | None = None,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(**common)
        check_choice("dataset.intrinsics", intrinsics, Intrinsics)
        check_choice("dataset.depth_along", depth_along, DepthAlong)
        if use_benchmark and depth_along != "optical_axis":
            raise UserError(
                f"dataset.depth_along: {depth_along} is about LiDAR scans, and dataset.use_benchmark: true asks for "
                "annotated depth, which is along the optical axis. Set one of both back to its default"
            )
        self.intrinsics = intrinsics
        self.use_benchmark = use_benchmark
        self.depth_along = depth_along
        self.depth_size = None if depth_size is None else checked_size(depth_size, "dataset.depth_size")
        self._calibrations: dict[str, Calibration] = {}
        self._broken: set[str] = set()  # problems of looking up
        self.listing = self._open(root, hints_root)
        self.raw = self.listing.raw
        self.split_file = expanded(split_file) if split_file else find_split(self.raw, split, self.mode)
        self.lines = read_split(self.split_file)
        self._watch(len(self.lines))

    @abstractmethod
    def _open(self, root: str | None, hints_root: str | None) -> Recordings:
        """Find the recordings, with what the options need. Raises UserError."""

    def __len__(self) -> int:
        return len(self.lines)

    @classmethod
    def field_of_view(cls, arguments: Mapping[str, Any]) -> float | None:
        return field_of_view(KITTI_FOCAL[0])

    @classmethod
    def truth_of(cls, arguments: Mapping[str, Any]) -> str:
        annotated, along = (arguments[key] for key in cls.truth_arguments)
        return "annotated depth (arXiv:1708.06500)" if annotated else f"LiDAR, {_MEANINGS[along]}"

    @classmethod
    def unusual_truth(cls, arguments: Mapping[str, Any]) -> str | None:
        """Name the ground truth unless it is annotated depth of a split in `_ANNOTATED`, or LiDAR of another split."""
        customary = cls.split_name(arguments) in _ANNOTATED
        if arguments.get("use_benchmark"):
            return None if customary else "annotated"
        along = arguments.get("depth_along", "optical_axis")
        return str(along) if along != "optical_axis" else "lidar" if customary else None

    def describe(self, index: int) -> str:
        """`<date>/<drive>/image_0<camera>/<10 digits>`, or the place of a bad line."""
        line = self.lines[index]
        return line.place if line.frame is None else line.frame.stem

    @classmethod
    def scene_in(cls, name: str) -> str | None:
        return "/".join(name.split("/")[:2]) if name.count("/") == 3 else None

    def check(self) -> list[str]:
        """List bad split lines, files that are not on disk or cut short, unreadable calibration files.

        Of the processes of a launcher on a machine the first looks for files; the others only list their folders, for
        themselves and their workers.
        """
        problems = []
        if is_first_of_machine():
            problems += check_images(self.lines, self.supp_idxs, self.listing, self.mode) + self._hint_problems()
            damaged, self._not_looked_at = self.listing.find_damaged(*self._places())
            problems += capped(damaged, "damaged files")
        near = (frame.support(offset) for frame in self._frames() for offset in (1, *self.supp_idxs))
        for folder in dict.fromkeys(map(self.listing.image_folder, near)):
            self._tried(self.listing.is_empty, folder)
        for date in self._calibrated_dates():
            self._tried(self._calibration, date)
        return problems + sorted(self._broken.difference(problems))

    def notes(self) -> list[str]:
        frames, notes = self._frames(), super().notes()
        if self.use_depth and (without := len(frames) - len(self._depth_frames())):
            kind = "annotated depth" if self.use_benchmark else "LiDAR scan"
            notes.append(f"{without} of {len(frames)} items have no {kind}: their depth maps are empty")
        dates = Counter(frame.date for frame in frames if self.use_depth)
        if bare := sorted(date for date in dates if not self.listing.has_calibration(date)):
            notes.append(
                f"{sum(dates[date] for date in bare)} of {len(frames)} items have no calibration ({', '.join(bare)}): "
                "metrics on point clouds take the average camera for them"
            )
        return notes

    def load(self, index: int) -> RawItem:
        line = self.lines[index]
        if line.frame is None:
            raise DataError(line.problem)
        frame = line.frame
        with self.stage("Image"):
            target = self._image(frame, "target")
        with self.stage("Support"):
            supports = [self._image(frame.support(i), f"support {i:+d}") for i in self.supp_idxs]
        with self.stage("Depth"):
            depth = K_depth = None
            if self.use_depth:
                depth = self._depth(frame)
                has_calibration = self.listing.has_calibration(frame.date)
                K_depth = self._K(frame, (depth.shape[1], depth.shape[0]), has_calibration)
            hints = self._hints(frame) if self.use_hints else None
        T_stereo = stereo_motion(frame.camera == 3) if 0 in self.supp_idxs else None
        K = self._K(frame, self.size, self.intrinsics == "calibrated")
        way = self._travelled_from(frame) if self.use_speed else None
        return RawItem(target, supports, K, T_stereo, depth, hints=hints, K_depth=K_depth, travelled=way)

    def _travelled_from(self, frame: Frame) -> NDArray[Any]:
        """Return the metres (n,) from a frame to its supports, 0 = not known."""
        raise NotImplementedError

    def _image(self, frame: Frame, role: str) -> NDArray[np.uint8]:
        path = self.listing.image(frame)
        if path is None:
            missing = f"{role} {frame.name} is missing: no .png or .jpg in {self.listing.image_folder(frame)}"
            raise DataError(f"{missing}. Complete the drive or remove the item from the split")
        return self._picture(path)

    def _K(self, frame: Frame, size: tuple[int, int], calibrated: bool) -> NDArray[Any]:
        """K (3 3) in pixels of `size` (w, h): of the rectified camera, or the average of all dates."""
        if calibrated:
            return self._calibration(frame.date).intrinsics(frame.camera, size)
        return average_intrinsics(size)

    @property
    def home(self) -> Path:
        return self.raw

    def picture_places(self) -> list[str]:
        frames = [f if i is None else f.support(i) for f in self._frames() for i in (None, *self.supp_idxs)]
        return self._found(self.listing.image, frames)

    def open_picture(self, place: Any) -> Any:
        return self.listing.open(place)

    def picture_of(self, index: int) -> str | None:
        frame = self.lines[index].frame
        return None if frame is None else self.listing.image(frame)

    def frames(self, indices: Sequence[int] | None = None) -> Frames:
        chosen = self.lines if indices is None else [self.lines[i] for i in indices]
        targets: dict[tuple[str, int], list[int]] = {}
        for line in chosen:
            if line.frame is not None:
                targets.setdefault((line.frame.drive, line.frame.camera), []).append(line.frame.number)
        return Frames.of(
            sighting
            for (drive, camera), numbers in targets.items()
            for sighting in sightings(
                self.listing.origin + drive.rpartition("/")[2], numbers, "lr"[camera - 2], self.supp_idxs
            )
        )

    @property
    def list_name(self) -> str:
        return list_name(self.split_file)

    def fingerprints(self) -> Numbers:
        return np.empty(0, np.int64)  # frames are known by drive and number

    def _places(self) -> tuple[list[str], list[str]]:
        """List the pictures and the arrays that items need, each once."""
        frames, pictures = self._frames(), self.picture_places()
        truths = self._found(self._depth_path, frames if self.use_depth else [])
        hints = self._found(self.listing.hint, frames if self.use_hints else [])
        return (pictures + truths, hints) if self.use_benchmark else (pictures, truths + hints)

    def _found(self, find: Callable[[Frame], str | None], frames: Iterable[Frame]) -> list[str]:
        places = (self._tried(find, frame) for frame in dict.fromkeys(frames))
        return list(dict.fromkeys(place for place in places if place))  # both cameras share a scan

    def _depth_path(self, frame: Frame) -> str | None:
        return self.listing.annotated_depth(frame) if self.use_benchmark else self.listing.velodyne(frame)

    def _depth(self, frame: Frame) -> NDArray[np.float32]:
        """Ground truth (H W) in metres; zeros where the frame has none."""
        path = self._depth_path(frame)
        if path is None:
            size = self.depth_size
            if size is None:  # that of the picture, which has just been read
                size = picture_size(self.listing.open(cast("str", self.listing.image(frame))))
            return np.zeros(size[::-1], np.float32)
        if self.use_benchmark:
            depth = read_annotated(self.listing.open(path))
        else:
            calibration = self._calibration(frame.date)
            projection = calibration.velodyne_to_pixels(frame.camera)
            points = self._known_points(self.listing.read_points(path), path)
            forward = self.depth_along == "lidar_x"
            depth = project_points(points, projection, calibration.sizes[frame.camera], forward)
        return depth if self.depth_size is None else resize_nearest(depth, self.depth_size)

    def _hints(self, frame: Frame) -> NDArray[np.float32]:
        place = self.listing.hint(frame)
        if place is None:
            raise DataError(
                f"{frame.stem} has no depth hints. Make them (`monodepth prepare hints`), or set use_hints: false"
            )
        return self.listing.read_hints(place, self.size)

    def _calibration(self, date: str) -> Calibration:
        if date not in self._calibrations:
            self._calibrations[date] = self.listing.read_calibration(date)
        return self._calibrations[date]

    def _calibrated_dates(self) -> set[str]:
        """Dates whose calibration items read."""
        dates = {frame.date for frame in self._frames()}
        if self.intrinsics == "calibrated":
            return dates
        if not self.use_depth:
            return set()
        scanned = set() if self.use_benchmark else {frame.date for frame in self._depth_frames()}
        return scanned | set(filter(self.listing.has_calibration, dates))

    def _frames(self) -> list[Frame]:
        return [line.frame for line in self.lines if line.frame is not None]

    def _depth_frames(self) -> list[Frame]:
        """Targets with ground truth, readable or not."""
        return [frame for frame in self._frames() if self._tried(self._depth_path, frame) is not None]

    def _tried(self, find: Callable[[T], R], what: T) -> R | Literal[""]:
        """Find something; "" when it is broken, which `check` reports."""
        try:
            return find(what)
        except DataError as error:
            self._broken.add(str(error))
            return ""

    def _hint_problems(self) -> list[str]:
        frames = self._frames() if self.use_hints else []
        missing = [frame for frame in frames if self._tried(self.listing.hint, frame) is None]
        if not missing:
            return []
        return [
            f"{len(missing)} of {len(frames)} items have no depth hints, the first: {missing[0].stem}, in "
            f"{self.listing.hints}. Make those of these drives (`monodepth prepare hints`), or set"
            " dataset.use_hints: false"
        ]
