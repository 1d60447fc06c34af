"""KITTI raw recordings: colour stereo pairs in drives, LiDAR or annotated ground truth.

A. Geiger et al., IJRR 2013; splits of Eigen (arXiv:1406.2283) and Zhou (arXiv:1704.07813); annotated depth of
Uhrig et al. (arXiv:1708.06500). Pictures may be PNG as distributed or JPEG as Monodepth2 converts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data import DATASETS
from trainer.data._kitti_calib import Calibration, project_points
from trainer.data._kitti_files import Frame, Line, Listing, Recordings, check_images, read_split
from trainer.data._kitti_places import find_annotated, find_hints, find_raw, find_split
from trainer.data._recorded import RecordedDataset
from trainer.data.base import DataError, Mode, RawItem, checked_size, read_image
from trainer.types import STEREO_BASELINE_UNITS, UserError

Intrinsics = Literal["average", "calibrated"]

_AVERAGE_K = np.array([[0.58, 0, 0.5], [0, 1.92, 0.5], [0, 0, 1]])  # in image widths and heights; Monodepth2


class KittiItems(RecordedDataset):
    """Items of KITTI recordings, wherever they lie; a data set finds `listing` and `lines` and says so to `_attach`.

    Args:
        use_benchmark: annotated depth instead of projected LiDAR scans.
        depth_size: (width, height) of the depth maps; null = size of the recording.
        intrinsics: `average` of all dates (Monodepth2), or `calibrated` per date and camera.

    The other arguments are those of `DepthDataset`. Frames without ground truth get a map of zeros.
    """

    raw: Path
    split_file: Path
    lines: list[Line]
    listing: Recordings

    def __init__(
        self,
        use_benchmark: bool,
        depth_size: tuple[int, int] | None,
        intrinsics: Intrinsics,
        *options: Any,
    ):
        super().__init__(*options)
        if intrinsics not in get_args(Intrinsics):
            known = ", ".join(get_args(Intrinsics))
            raise UserError(f"dataset.intrinsics {intrinsics!r} is not one of {known}")
        self.intrinsics = intrinsics
        self.use_benchmark = use_benchmark
        self.depth_size = None if depth_size is None else checked_size(depth_size, "dataset.depth_size")
        self._calibrations: dict[str, Calibration] = {}
        self._broken: set[str] = set()  # what could not even be looked up

    def _attach(self, raw: Path, split: str, split_file: str | None) -> None:
        """Read the split file that belongs to the recordings in `raw`."""
        self.raw = raw
        self.split_file = Path(split_file) if split_file else find_split(raw, split, self.mode)
        self.lines = read_split(self.split_file)
        self._watch(len(self.lines))

    def __len__(self) -> int:
        return len(self.lines)

    def describe(self, index: int) -> str:
        """`<date>/<drive>/image_0<camera>/<10 digits>`, or the place of a bad line."""
        line = self.lines[index]
        return line.place if line.frame is None else line.frame.stem

    def check(self) -> list[str]:
        """List bad split lines, targets, supports and hints that are not on disk, unreadable calibration files."""
        problems = check_images(self.lines, self.supp_idxs, self.listing) + self._hint_problems()
        calibration = map(self._calibration_problem, sorted(self._calibrated_dates()))
        problems += [problem for problem in calibration if problem]
        if self.use_depth:
            self._depth_frames()
        return problems + sorted(self._broken.difference(problems))

    def notes(self) -> list[str]:
        """Say how many frames have no ground truth."""
        frames = [line.frame for line in self.lines if line.frame is not None]
        without = len(frames) - len(self._depth_frames()) if self.use_depth else 0
        if not without:
            return []
        kind = "annotated depth" if self.use_benchmark else "LiDAR scan"
        return [f"{without} of {len(frames)} items have no {kind}: their depth maps are empty"]

    def load(self, index: int) -> RawItem:
        """Read pictures, intrinsics and depth of an item. Raises DataError for a missing or broken file."""
        line = self.lines[index]
        if line.frame is None:
            raise DataError(line.problem)
        frame = line.frame
        with self.stage("Image"):
            target = self._image(frame, "target")
        with self.stage("Support"):
            supports = [self._image(frame.support(i), f"support {i:+d}") for i in self.supp_idxs]
        with self.stage("Depth"):
            depth = self._depth(frame) if self.use_depth else None
            hints = self._hints(frame) if self.use_hints else None
        T_stereo = _stereo_motion(frame.camera) if 0 in self.supp_idxs else None
        return RawItem(target, supports, self._intrinsics(frame), T_stereo, depth, hints=hints)

    def _image(self, frame: Frame, role: str) -> NDArray[np.uint8]:
        path = self.listing.image(frame)
        if path is None:
            folder = self.listing.image_folder(frame)
            raise DataError(
                f"{role} {frame.stem} is missing: no .png or .jpg in {folder}. "
                "Complete the drive or remove the item from the split"
            )
        return read_image(cast("str", self.listing.open(path)), self.size)  # PIL opens files, too

    def _intrinsics(self, frame: Frame) -> NDArray[Any]:
        if self.intrinsics == "calibrated":
            return self._calibration(frame.date).intrinsics(frame.camera, self.size)
        return _AVERAGE_K * np.array([[self.size[0]], [self.size[1]], [1]])

    def _depth_path(self, frame: Frame) -> str | None:
        return self.listing.annotated_depth(frame) if self.use_benchmark else self.listing.velodyne(frame)

    def _depth(self, frame: Frame) -> NDArray[np.float32]:
        """Ground truth (H W) in metres; zeros where the frame has none."""
        path = self._depth_path(frame)
        if path is None:
            width, height = self.depth_size or self._recorded_size(frame)
            return np.zeros((height, width), np.float32)
        if self.use_benchmark:
            depth = read_depth_png(self.listing.open(path))
        else:
            calibration = self._calibration(frame.date)
            projection = calibration.velodyne_to_pixels(frame.camera)
            depth = project_points(
                self.listing.read_points(path), projection, calibration.sizes[frame.camera]
            )
        return depth if self.depth_size is None else resize_nearest(depth, self.depth_size)

    def _recorded_size(self, frame: Frame) -> tuple[int, int]:
        path = self.listing.image(frame)
        assert path is not None  # the target has just been read
        with Image.open(self.listing.open(path)) as picture:
            return picture.size

    def _hints(self, frame: Frame) -> NDArray[np.float32]:
        place = self.listing.hint(frame)
        if place is None:
            raise DataError(
                f"{frame.stem} has no depth hints. Make those of this drive (prepare hints), or set use_hints: false"
            )
        return self.listing.read_hints(place, self.size)

    def _calibration(self, date: str) -> Calibration:
        if date not in self._calibrations:
            self._calibrations[date] = self.listing.read_calibration(date)
        return self._calibrations[date]

    def _calibration_problem(self, date: str) -> str:
        try:
            self._calibration(date)
        except DataError as error:
            return str(error)
        return ""

    def _calibrated_dates(self) -> set[str]:
        """Dates whose calibration some item needs."""
        always = self.intrinsics == "calibrated"
        scans = self.use_depth and not self.use_benchmark
        if always:
            return {line.frame.date for line in self.lines if line.frame is not None}
        return {frame.date for frame in self._depth_frames()} if scans else set()

    def _depth_frames(self) -> list[Frame]:
        """Targets that have ground truth, readable or not."""
        frames = (line.frame for line in self.lines if line.frame is not None)
        return [frame for frame in frames if self._is_there(self._depth_path, frame)]

    def _is_there(self, find: Callable[[Frame], str | None], frame: Frame) -> bool:
        """Look for something; what is broken is there, and remembered for `check`."""
        try:
            return find(frame) is not None
        except DataError as error:
            self._broken.add(str(error))
            return True

    def _hint_problems(self) -> list[str]:
        if not self.use_hints:
            return []
        frames = [line.frame for line in self.lines if line.frame is not None]
        missing = [frame for frame in frames if not self._is_there(self.listing.hint, frame)]
        if not missing:
            return []
        return [f"{len(missing)} of {len(frames)} items have no depth hints, the first: {missing[0].stem}"]


@DATASETS.register("kitti")
class KittiRaw(KittiItems):
    """KITTI raw drives: stereo and temporal supports, LiDAR or annotated depth.

    Args:
        root: folder that is, or contains, kitti_raw_sync or kitti_raw; null = look in the usual places.
        split: folder of split files in or beside the raw folder (`splits/<split>/<mode>_files.txt`).
        split_file: a split file; wins over `split` and `mode`.
        use_benchmark: annotated depth instead of projected LiDAR scans.
        depth_root: folder of annotated depth, by date or as the official archive; null = beside `root`.
        depth_size: (width, height) of the depth maps, resized by nearest neighbour so that recordings of
            different size can share a batch; null = size of the recording.
        intrinsics: `average` of all dates (Monodepth2), or `calibrated` per date and camera.
        hints_root: folder of depth hints (`<date>/<drive>/image_0<camera>/*.npy`); null = in or beside the raw folder.

    The other arguments are those of `DepthDataset`. Frames without ground truth get a map of zeros.
    """

    def __init__(
        self,
        root: str | None = None,
        split: str = "eigen_zhou",
        split_file: str | None = None,
        use_benchmark: bool = False,
        depth_root: str | None = None,
        depth_size: tuple[int, int] | None = (1242, 376),
        intrinsics: Intrinsics = "average",
        hints_root: str | None = None,
        mode: Mode = "train",
        size: tuple[int, int] = (640, 192),
        supp_idxs: int | Sequence[int] | None = (-1, 1),
        use_depth: bool = True,
        use_hints: bool = False,
        use_aug: bool = False,
        use_strong_aug: bool = False,
        as_torch: bool = True,
        log_time: bool = False,
        seed: int = 0,
    ):
        super().__init__(
            use_benchmark, depth_size, intrinsics,
            mode, size, supp_idxs, use_depth, use_hints, use_aug, use_strong_aug, as_torch, log_time, seed,
        )  # fmt: skip
        raw = find_raw(root)
        self._attach(raw, split, split_file)
        annotated = find_annotated(raw, depth_root) if use_depth and use_benchmark else None
        self.listing = Listing(raw, annotated, find_hints(raw, hints_root) if use_hints else None)


def read_depth_png(path: str | IO[bytes]) -> NDArray[np.float32]:
    """Read a 16-bit PNG of KITTI depth: (H W) metres = value / 256, 0 = none. Raises DataError."""
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a readable depth map ({error}). Copy or download it again") from error
    if values.ndim != 2 or values.dtype == np.uint8:
        raise DataError(
            f"{path} is no KITTI depth map: expected 16-bit grey, "
            f"got {values.dtype} of shape {values.shape}. Check dataset.depth_root"
        )
    return values.astype(np.float32) / np.float32(256)


def resize_nearest(depth: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a sparse map to `size` (w, h) by taking the nearest pixel, pixel centres at half integers."""
    rows, columns = (
        np.floor((np.arange(to) + 0.5) * (have / to)).astype(np.intp)
        for to, have in zip(size[::-1], depth.shape, strict=True)
    )
    return depth[np.ix_(rows, columns)]


def _stereo_motion(camera: int) -> NDArray[Any]:
    """Target -> other camera (4 4): the right camera (3) stands to the right of the left one (2)."""
    T = np.eye(4)
    T[0, 3] = -STEREO_BASELINE_UNITS if camera == 2 else STEREO_BASELINE_UNITS
    return T
