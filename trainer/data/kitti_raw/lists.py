"""Lists of KITTI's frames that are known by their content: what they are, whatever their name, and what they hold.

The digests are those of `Frames.digest`. Several published trainings read a list called eigen_zhou that is the one of
KITTI's depth benchmark, with 451 of the 697 frames that Eigen et al. (arXiv:1406.2283) test on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models_zoo.registry import did_you_mean
from trainer.data.files.frames import LEFT, RIGHT, SUPPORT, TARGET, FrameList, Frames, compare
from trainer.data.files.splits import find_split, is_number, list_splits, read_rows, shown
from trainer.runtime.errors import UserError, printable


class KnownList(NamedTuple):
    """A published list of frames."""

    title: str
    names: tuple[str, ...]  # `<split>/<mode>` that it is rightly called


KNOWN = {
    "b012b6247e98359c768bf252878078c8ecc44ec45a4853f2283fe06f24103226": KnownList(
        "Eigen test list", ("eigen/test", "eigen_full/test")
    ),
    "d9d989e46064de89634b2ec2b22c2fa66ba22906a7f9de7db69d71242d8a305d": KnownList(
        "Eigen benchmark test list", ("eigen_benchmark/test",)
    ),
    "77b5f05794d6fc1470e3688b8a27b75b1758da0874bd384b1be354d996e3d88d": KnownList(
        "Eigen-Zhou training list", ("eigen_zhou/train",)
    ),
    "9c960a0dba4eddee6264848935398791ecd565abe14efcf7fc2cf82a8088f8f4": KnownList(
        "Eigen-Zhou validation list", ("eigen_zhou/val",)
    ),
    "58f74b89e5e9a9670fffdc7bdab6c2afe9d763eebebf708b2be01838be7db7fc": KnownList(
        "Eigen training list", ("eigen_full/train", "eigen/train")
    ),
    "529b3bfa3dc3fe25cdf684c82ebb1565246d31feae1fdd8571218f4f35c9aa36": KnownList(
        "Eigen validation list", ("eigen_full/val", "eigen/val")
    ),
    "55f5eceb84c1be658d447d86d2544bfbb7a84b20fef0f09823b02b8b5a4c49bf": KnownList(
        "KITTI benchmark training list", ("benchmark/train",)
    ),
    "8373e62eb1730c05a5c770a0f421d8f29ddb64c7b256a207060e5d85faca35eb": KnownList(
        "KITTI benchmark validation list", ("benchmark/val",)
    ),
    "e8dfb72a3e4aa18cdd7f44275ea8551bcaba4f982d076a47eff72eb6e4a5b3ad": KnownList(
        "KITTI benchmark test list", ("benchmark/test",)
    ),
    "6e0f08f84d225102146bcc8bd172f7c662feb495483934f4dae9564498b46b0f": KnownList(
        "test list of 700 pictures of arXiv:2208.01489", ("eigen_zhou/test",)
    ),
    "d09bb7b3efb1bb36566d183dd56e85ac18e9da8fca95459c83cedf48ea7b56c2": KnownList(
        "KITTI odometry training list", ("odom/train",)
    ),
    "71acbb791c7cba36fea1c07daf8740844bb4bf9013479b8cf8d60eb754685557": KnownList(
        "KITTI odometry validation list", ("odom/val",)
    ),
}
# Drive of each odometry sequence with public poses, and its first frame there (development kit of KITTI odometry).
SEQUENCES = {
    "00": ("2011_10_03_drive_0027_sync", 0),
    "01": ("2011_10_03_drive_0042_sync", 0),
    "02": ("2011_10_03_drive_0034_sync", 0),
    "03": ("2011_09_26_drive_0067_sync", 0),
    "04": ("2011_09_30_drive_0016_sync", 0),
    "05": ("2011_09_30_drive_0018_sync", 0),
    "06": ("2011_09_30_drive_0020_sync", 0),
    "07": ("2011_09_30_drive_0027_sync", 0),
    "08": ("2011_09_30_drive_0028_sync", 1100),
    "09": ("2011_09_30_drive_0033_sync", 0),
    "10": ("2011_09_30_drive_0034_sync", 0),
}
CAMERAS = {"l": LEFT, "r": RIGHT}
_NAME = re.compile(r"(?:^|/)([^/]*_drive_[^/]*)/image_0([23])/([0-9]{10})$")
_EXPECTED = '"<date>/<drive> <frame> <l|r>" or "<sequence> <frame> <l|r>"'


@lru_cache(maxsize=1)
def eigen_test() -> Frames:
    """The 697 frames that Eigen et al. test on."""
    rows = (Path(__file__).parent / "eigen_test.txt").read_text().splitlines()
    parts = [row.split() for row in rows]
    return Frames.of((drive, list(map(int, numbers)), LEFT) for drive, *numbers in parts)


def list_name(path: Path) -> str:
    """Name a split file: `<split>/<mode>` of `<split>/<mode>_files.txt`, else its stem."""
    mode = path.name.removesuffix("_files.txt")
    return f"{path.parent.name}/{mode}" if mode != path.name else path.stem


def title_of(digest: str) -> str:
    """Name a list by its digest; "" where it is not known."""
    return KNOWN[digest].title if digest in KNOWN else ""


def in_words(entry: FrameList) -> str:
    """Name a list: what it is called, what it is, the beginning of its digest."""
    title = title_of(entry.digest)
    return ", ".join(filter(None, (printable(entry.name), title and f"the {title}", entry.digest[:12])))


def identify(digest: str, name: str, frames: Frames, tests: bool = False) -> str:
    """Say what a list called `name` is where the name does not, and how many of the Eigen test frames it holds.

    tests: it is a list to test on, which may hold them. Returns "" for one that is what it is called, and clean.
    """
    known = KNOWN.get(digest)
    shared = (
        0 if tests else compare(eigen_test(), Frames.of((d, n, LEFT) for d, n in frames.only(TARGET).items())).exact
    )
    holds = f"{shared} of the {len(eigen_test())} Eigen test frames are in it" if shared else ""
    if known is None:
        return f"{name}: {holds}" if holds else ""
    if name in known.names:
        return f"{name} is the {known.title}: {holds}" if holds else ""
    return f"this is the {known.title} under the name {name}" + (f": {holds}" if holds else "")


def are_published_together(digests: Iterable[str]) -> bool:
    """Tell whether all digests are of lists of one publication."""
    splits = [{name.partition("/")[0] for name in KNOWN[d].names} if d in KNOWN else set() for d in digests]
    return bool(splits) and bool(set.intersection(*splits))


def read_list(given: str, home: Path | None, offsets: Sequence[int], origin: str = "") -> tuple[FrameList, Frames]:
    """Read a list of frames of KITTI, raw or odometry: a split file, or the name of a split in or beside `home`.

    Supports at `offsets` are read, too; `origin` is that of the recordings. Raises UserError for a name that is not
    there, and naming a line that is none.
    """
    path = Path(given).expanduser()
    if not path.is_file():
        path = _find(given, home)
    targets: dict[tuple[str, str], list[int]] = {}
    rows = read_rows(path, _EXPECTED)
    for i, row in rows:
        match row.split():
            case [drive, number, side] if is_number(number) and side in CAMERAS and _is_drive(drive):
                targets.setdefault((drive.rpartition("/")[2], side), []).append(int(number))
            case _:
                raise UserError(f"{path}:{i}: {shown(row)}: expected {_EXPECTED}")
    own = Frames.of((_own_name(drive), numbers, CAMERAS[side]) for (drive, side), numbers in targets.items())
    frames = Frames.of(
        sighting
        for (drive, side), numbers in targets.items()
        for sighting in sightings(drive if drive.isdecimal() else origin + drive, numbers, side, offsets)
    )
    return FrameList(list_name(path), own.digest(), len(rows)), frames


def sightings(drive: str, numbers: Any, side: str, offsets: Iterable[int]) -> Iterator[tuple[str, Any, int]]:
    """Yield targets of a drive or odometry sequence and camera, and their supports, as `Frames.of` takes them."""
    drive, first, role = recording_of(f"{int(drive):02d}", side) if drive.isdecimal() else (drive, 0, CAMERAS[side])
    numbers = np.asarray(numbers, np.int64) + first
    yield drive, numbers, role
    yield from ((drive, numbers + offset, SUPPORT) for offset in offsets if offset)


def frames_named(names: Iterable[str]) -> Frames:
    """Find frames in names of items as `kitti` gives them, `<date>/<drive>/image_02/<10 digits>`."""
    found: dict[tuple[str, int], list[int]] = {}
    for match in filter(None, map(_NAME.search, names)):
        found.setdefault((match[1], LEFT if match[2] == "2" else RIGHT), []).append(int(match[3]))
    return Frames.of((drive, numbers, role) for (drive, role), numbers in found.items())


def recording_of(sequence: str, side: str) -> tuple[str, int, int]:
    """Return the raw drive of an odometry sequence (two digits), its first frame there, and the role of a side."""
    drive, first = SEQUENCES.get(sequence, (f"odometry_{sequence}", 0))
    return drive, first, CAMERAS[side]


def _find(name: str, home: Path | None) -> Path:
    """Find the training list of a split. Raises UserError."""
    if home is None:
        raise UserError(f"{name}: there is no such split file. Name one, with lines {_EXPECTED}")
    known = {split for split, mode, _ in list_splits(home) if mode == "train"}
    if name not in known:
        raise UserError(
            f"{name}: there is no such split file, and no split of this name with a train_files.txt in or beside"
            f" {home}. {did_you_mean(name, known)}. Name a file, with lines {_EXPECTED}"
        )
    return find_split(home, name, "train")


def _is_drive(drive: str) -> bool:
    return drive.count("/") == 1 or is_number(drive, 2)


def _own_name(drive: str) -> str:
    return str(int(drive)) if drive.isdecimal() else drive
