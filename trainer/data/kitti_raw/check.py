"""How complete a KITTI split is on disk: counted from listings, or read file by file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from trainer.data.files.depth import read_annotated
from trainer.data.files.pictures import open_picture
from trainer.data.kitti_raw.files import Line, Recordings
from trainer.data.kitti_raw.hints import SIZE
from trainer.runtime.errors import DataError

PUBLISHED = {
    ("eigen", "train"): 45200, ("eigen", "val"): 1776, ("eigen", "test"): 697,
    ("eigen_zhou", "train"): 39810, ("eigen_zhou", "val"): 4424, ("eigen_zhou", "test"): 700,
    ("eigen_benchmark", "train"): 71633, ("eigen_benchmark", "val"): 5915, ("eigen_benchmark", "test"): 652,
    ("benchmark", "train"): 72084, ("benchmark", "val"): 6060, ("benchmark", "test"): 500,
}  # fmt: skip
_OTHER_DATA = {  # data sets other than KITTI raw -> pattern of their lines
    "pictures of KITTI's test server": re.compile(r"'image \d+'"),
    "frames of KITTI odometry (dataset.type=kitti_odom)": re.compile(r"'\d+ \d+ [lr]'"),
}
TARGET, STEREO, SCAN, ANNOTATED, HINTS = "target", "stereo", "LiDAR", "annotated", "hints"


class Part(NamedTuple):
    """A file, or entry of a database, that an item needs."""

    kind: str  # a key of `_READERS`
    place: str


@dataclass
class SplitReport:
    """How many items of a split have which files; `parts` exist, `broken` could not be looked up."""

    num_items: int = 0
    num_complete: int = 0  # items that can be loaded, as far as listings show
    bad_lines: list[str] = field(default_factory=list)
    there: Counter[str] = field(default_factory=Counter)  # column -> items that have it
    missing: dict[str, list[str]] = field(default_factory=dict)  # column -> names
    absent_drives: Counter[str] = field(default_factory=Counter)  # drive -> items of it
    parts: set[Part] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)


def columns(offsets: Sequence[int]) -> list[str]:
    """Columns of the report: target, one per support, kinds of depth."""
    return [TARGET, *map(_support, offsets), SCAN, ANNOTATED, HINTS]


def needed(offsets: Sequence[int], mode: str) -> list[str]:
    """The columns without which an item cannot be loaded; evaluation needs no supports."""
    return [TARGET] if mode.endswith("test") else columns(offsets)[: 1 + len(offsets)]


def other_data(report: SplitReport) -> str:
    """Name the data set that the lines of a split belong to; "" for KITTI raw."""
    if report.num_items:
        return ""
    kinds = (what for what, looks in _OTHER_DATA.items() if all(map(looks.search, report.bad_lines)))
    return next(kinds, "")


def check_split(lines: Iterable[Line], offsets: Sequence[int], recordings: Recordings, mode: str) -> SplitReport:
    """Look up all files that the items of a split can have. Only folders and databases are opened."""
    report = SplitReport()
    must_have = needed(offsets, mode)
    for line in lines:
        if line.frame is None:
            report.bad_lines.append(line.problem)
            continue
        report.num_items += 1
        folder_there, is_complete = False, True
        images = [(TARGET, line.frame), *((_support(offset), line.frame.support(offset)) for offset in offsets)]
        wanted = [
            *((column, "picture", frame, recordings.image) for column, frame in images),
            (SCAN, "scan", line.frame, recordings.velodyne),
            (ANNOTATED, "annotated", line.frame, recordings.annotated_depth),
            (HINTS, "hints", line.frame, recordings.hint),
        ]
        for column, kind, frame, find in wanted:
            try:
                place = find(frame)
            except DataError as error:
                report.broken.add(str(error))
                place = None
                folder_there = True
            if place is None:
                report.missing.setdefault(column, []).append(frame.name)
                is_complete &= column not in must_have
                continue
            report.there[column] += 1
            report.parts.add(Part(kind, place))
        report.num_complete += is_complete
        if not folder_there and recordings.is_empty(recordings.image_folder(line.frame)):
            report.absent_drives[line.frame.drive] += 1
    return report


def read_part(part: Part, recordings: Recordings) -> str:
    """Read a file to its end. Returns what is wrong with it, or ""."""
    try:
        _READERS[part.kind](part.place, recordings)
    except (DataError, OSError) as error:
        return str(error) if isinstance(error, DataError) else f"{part.place} cannot be read: {error}"
    return ""


def _support(offset: int) -> str:
    return STEREO if offset == 0 else f"{offset:+d}"


def _read_picture(place: str, recordings: Recordings) -> None:
    with open_picture(recordings.open(place)) as picture:
        picture.load()


_READERS: dict[str, Callable[[str, Recordings], object]] = {
    "picture": _read_picture,
    "scan": lambda place, recordings: recordings.read_points(place),
    "annotated": lambda place, recordings: read_annotated(recordings.open(place)),
    "hints": lambda place, recordings: recordings.read_hints(place, SIZE),
}
