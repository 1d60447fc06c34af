"""The files of a KITTI folder, and the frames that a split file names. Nothing here opens a picture."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

from numpy.typing import NDArray

from trainer.data.files.damage import find_damaged
from trainer.data.files.scans import read_points
from trainer.data.files.splits import capped, counted, is_number, read_rows, shown
from trainer.data.kitti_raw.calibration import Calibration, read_calibration
from trainer.data.kitti_raw.hints import read_hints
from trainer.runtime.errors import DataError
from trainer.runtime.files import read_file

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")  # the last one wins where a frame has several
MANIFEST = "synthetic.json"  # in a folder of rendered drives, which have names of KITTI
_SIDES = {"l": 2, "r": 3}
_EXPECTED = '"<date>/<drive> <frame> <l|r>"'


class Frame(NamedTuple):
    """One picture of a drive."""

    drive: str  # "<date>/<date>_drive_<dddd>_sync"
    number: int
    camera: int  # 2 left colour, 3 right colour

    @property
    def stem(self) -> str:
        """`<date>/<drive>/image_0<camera>/<10 digits>`"""
        return f"{self.drive}/image_0{self.camera}/{self.number:010d}"

    @property
    def name(self) -> str:
        """The stem, for messages: a support may lie before the first frame."""
        return self.stem if self.number >= 0 else f"{self.stem.rpartition('/')[0]} before the first frame"

    @property
    def date(self) -> str:
        return self.drive.partition("/")[0]

    def support(self, offset: int) -> Frame:
        """The frame `offset` later in the same camera; 0 = the same moment in the other camera."""
        if offset == 0:
            return self._replace(camera=5 - self.camera)
        return self._replace(number=self.number + offset)


class Line(NamedTuple):
    """One line of a split file: a frame, or what is wrong with it."""

    file: str
    number: int  # of the line, from 1
    frame: Frame | None
    problem: str = ""

    @property
    def place(self) -> str:
        """`<file>:<line number>`"""
        return f"{self.file}:{self.number}"


def read_split(path: Path) -> list[Line]:
    """Read lines `<date>/<drive> <frame> <l|r>`, blank ones left out. Raises UserError for no such file."""
    file, lines = str(path), []
    for i, row in read_rows(path, _EXPECTED):
        match row.split():
            case [drive, number, side] if drive.count("/") == 1 and is_number(number) and side in _SIDES:
                # One string per drive: lists of 72,000 lines are handed to every worker process.
                lines.append(Line(file, i, Frame(sys.intern(drive), int(number), _SIDES[side])))
            case _:
                lines.append(Line(file, i, None, f"{file}:{i}: {shown(row)}: expected {_EXPECTED}"))
    return lines


class Recordings:
    """The files of a KITTI raw folder, its annotated depth and hints; each folder is read once, when first needed.

    A place is a string that `open` takes and messages name; None = missing. Strings and not `pathlib`, which would take
    most of the time of a start-up check that asks for 160,000. Whatever cannot be read raises DataError naming it.
    """

    def __init__(self, raw: Path, annotated: Path | None = None, hints: Path | None = None):
        self.raw = raw
        self.annotated = annotated
        self.hints = hints
        self._suffixes: dict[str, dict[int, str]] = {}
        self._calibrated: dict[str, bool] = {}

    @cached_property
    def origin(self) -> str:
        """Beginning of the names of drives that tells rendered ones from KITTI's; "" for KITTI's own."""
        try:
            return f"rendered_{hashlib.sha256(read_file(self.raw / MANIFEST)).hexdigest()[:12]}_"
        except OSError:
            return ""

    def frames(self) -> Iterator[Frame]:
        """Yield all pictures of both cameras, drive by drive."""
        for drive in sorted(self.raw.glob("[0-9]*_[0-9]*_[0-9]*/*_drive_*")):
            for camera in _SIDES.values():
                some = Frame(f"{drive.parent.name}/{drive.name}", 0, camera)
                numbers = self._listed(self.image_folder(some), IMAGE_SUFFIXES)
                yield from (some._replace(number=number) for number in sorted(numbers))

    def image_folder(self, frame: Frame) -> str:
        """Folder or database of the pictures of that drive and camera."""
        return f"{self.raw}/{frame.drive}/image_0{frame.camera}/data"

    def image(self, frame: Frame) -> str | None:
        """Place of the picture."""
        return self._find(self.image_folder(frame), frame.number, IMAGE_SUFFIXES)

    def velodyne(self, frame: Frame) -> str | None:
        """Place of the LiDAR scan."""
        return self._find(f"{self.raw}/{frame.drive}/velodyne_points/data", frame.number, (".bin",))

    def annotated_depth(self, frame: Frame) -> str | None:
        """Place of the annotated depth (Uhrig et al., arXiv:1708.06500)."""
        if self.annotated is None:
            return None
        date, _, drive = frame.drive.partition("/")
        for part in (date, "train", "val"):
            folder = f"{self.annotated}/{part}/{drive}/proj_depth/groundtruth/image_0{frame.camera}"
            if path := self._find(folder, frame.number, (".png",)):
                return path
        return None

    def hint(self, frame: Frame) -> str | None:
        """Place of the depth hints (Watson et al., arXiv:1909.09051)."""
        if self.hints is None:
            return None
        return self._find(f"{self.hints}/{frame.drive}/image_0{frame.camera}", frame.number, (".npy",))

    def open(self, place: str) -> str | IO[bytes]:
        """Return what PIL can open: a path, or a stream."""
        return place

    def read_points(self, place: str) -> NDArray[Any]:
        """Read a LiDAR scan (n 4)."""
        return read_points(place)

    def read_hints(self, place: str, size: tuple[int, int]) -> NDArray[Any]:
        """Read depth hints (h w) of `size` (w, h)."""
        return read_hints(place, size)

    def read_calibration(self, date: str) -> Calibration:
        """Read the calibration of a date."""
        return read_calibration(self.raw / date)

    def has_calibration(self, date: str) -> bool:
        """Tell whether a date has a calibration, sound or not."""
        if date not in self._calibrated:
            self._calibrated[date] = os.path.isfile(f"{self.raw}/{date}/calib_cam_to_cam.txt")
        return self._calibrated[date]

    def is_empty(self, folder: str) -> bool:
        """Tell whether an image folder has no frame at all."""
        return not self._listed(folder, IMAGE_SUFFIXES)

    def find_damaged(self, pictures: Sequence[str], arrays: Sequence[str]) -> tuple[list[str], int]:
        """List places that are cut short, and count those that there was no time for."""
        return find_damaged([*pictures, *arrays])

    def _list(self, folder: str, suffixes: Sequence[str]) -> dict[int, str]:
        """Map the numbers of the frames in a folder or database to what follows them in their places."""
        return list_frames(folder, suffixes)

    def _find(self, folder: str, number: int, suffixes: Sequence[str]) -> str | None:
        suffix = self._listed(folder, suffixes).get(number)
        return None if suffix is None else f"{folder}/{number:010d}{suffix}"

    def _listed(self, folder: str, suffixes: Sequence[str]) -> dict[int, str]:
        if folder not in self._suffixes:
            self._suffixes[folder] = self._list(folder, suffixes)
        return self._suffixes[folder]


def list_frames(folder: str, suffixes: Sequence[str]) -> dict[int, str]:
    """Map the frame numbers in `folder` to the suffix of their file; empty when there is no such folder."""
    found: dict[int, str] = {}
    try:
        with os.scandir(folder) as entries:
            names = [os.path.splitext(entry.name) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error}. Make it readable") from error
    for stem, suffix in names:
        if suffix in suffixes and len(stem) == 10 and stem.isdecimal():
            number = int(stem)
            found[number] = max(found.get(number, suffix), suffix, key=suffixes.index)
    return found


def check_images(lines: Sequence[Line], offsets: Sequence[int], listing: Recordings, mode: str = "train") -> list[str]:
    """List bad lines, missing targets and missing supports; an absent or broken folder is one problem.

    The last line counts the incomplete items, and says how to do without the supports if nothing else is missing.
    """
    problems = [line.problem for line in lines if line.frame is None]
    absent: dict[str, int] = {}
    broken: dict[str, None] = {}
    missing: list[str] = []
    lacking: dict[str, set[int | None]] = {}  # place of an incomplete item -> missing supports; None = its target
    for line in lines:
        if line.frame is None:
            continue
        supports = [(offset, line.frame.support(offset)) for offset in offsets]
        for offset, frame in [(None, line.frame), *supports]:
            try:
                if listing.image(frame) is not None:
                    continue
            except DataError as error:
                broken[str(error)] = None
                continue
            lacking.setdefault(line.place, set()).add(offset)
            role = "target" if offset is None else f"support {offset:+d}"
            folder = listing.image_folder(frame)
            if listing.is_empty(folder):
                absent[folder] = absent.get(folder, 0) + 1
            else:
                missing.append(f"{line.place}: {role} {frame.name} is missing: no .png or .jpg in {folder}")
    nothing = [
        f"{folder} does not exist or is empty: {counted(number, 'frame is', 'frames are')} missing"
        for folder, number in absent.items()
    ]
    problems = capped(problems, "bad lines") + capped(list(broken), "broken folders")
    problems += capped(nothing, "folders without pictures")
    problems += capped(missing, "missing frames")
    if lacking:
        num_items = sum(line.frame is not None for line in lines)
        fix = ""
        if mode != "train" and any(None not in gone for gone in lacking.values()):
            fix = (
                f". Depth of {mode} frames needs no neighbours: dataset.{mode}.supp_idxs: null. Clips, poses and camera"
                " paths need them whatever it says: leave these items, mostly the ends of drives, out of the split"
            )
        elif set().union(*lacking.values()) == {0}:
            others = [offset for offset in offsets if offset] or [-1, 1]
            fix = f". Only pictures of the other camera are missing; without them: dataset.supp_idxs={others}"
        problems.append(
            f"{len(lacking)} of {counted(num_items, 'item is', 'items are')} incomplete:"
            f" `monodepth prepare kitti check` lists what is missing{fix}"
        )
    return problems
