"""Which frames a data set reads, and what two have in common: by drive and number, or by the bytes of pictures.

Frames of one drive and number are one frame, whichever camera of a pair took the picture: a network that was trained on
one of them knows what is in the other.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.runtime.errors import DataError
from trainer.runtime.files import open_file

Numbers = NDArray[np.int64]
LEFT, RIGHT, SUPPORT = 1, 2, 4  # how a frame is read: as a target of either camera, or beside a target
TARGET = LEFT | RIGHT
_MOST = 5_000_000  # frames of a drive
NEAR = 10  # frames away: a second, at KITTI's 10 Hz
_PIECES, _PIECE = 8, 4096  # of a picture file: how many are hashed, of how many bytes


@dataclass(frozen=True)
class Frames:
    """Frames by drive: sorted numbers (n,), each once, and how they are read (n,), a sum of LEFT, RIGHT, SUPPORT."""

    drives: Mapping[str, tuple[Numbers, NDArray[np.uint8]]] = field(default_factory=dict)

    @classmethod
    def of(cls, sightings: Iterable[tuple[str, Any, int]]) -> Frames:
        """Collect (drive, numbers, role); numbers below 0 do not exist and are left out."""
        found: dict[str, list[tuple[Numbers, int]]] = {}
        for drive, numbers, role in sightings:
            found.setdefault(drive, []).append((np.asarray(numbers, np.int64), role))
        drives = {}
        for drive in sorted(found):
            numbers = np.concatenate([some for some, _ in found[drive]])
            roles = np.concatenate([np.full(len(some), role, np.uint8) for some, role in found[drive]])
            order = np.argsort(numbers, kind="stable")
            numbers, roles = numbers[order], roles[order]
            numbers, roles = numbers[(there := numbers >= 0)], roles[there]
            if len(numbers):
                starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
                drives[drive] = numbers[starts], np.bitwise_or.reduceat(roles, starts)
        return cls(drives)

    @classmethod
    def union(cls, several: Iterable[Frames]) -> Frames:
        """Join the frames of several lists."""
        return cls.of(
            (drive, numbers[roles == role], int(role))
            for frames in several
            for drive, (numbers, roles) in frames.drives.items()
            for role in np.unique(roles)
        )

    def __len__(self) -> int:
        return sum(len(numbers) for numbers, _ in self.drives.values())

    def only(self, roles: int) -> dict[str, Numbers]:
        """Map drives to the numbers of the frames that are read in one of these roles."""
        chosen = {drive: numbers[(held & roles) > 0] for drive, (numbers, held) in self.drives.items()}
        return {drive: numbers for drive, numbers in chosen.items() if len(numbers)}

    def digest(self) -> str:
        """Return the sha256 of the targets, by which a list is known whatever its name, order and cameras.

        It is that of lines "<drive> <number>", each once, sorted as bytes, each ended by a line feed.
        """
        lines = [f"{drive} {n}\n" for drive, numbers in self.only(TARGET).items() for n in numbers.tolist()]
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


@dataclass(frozen=True)
class FrameList:
    """A list of frames that items come from."""

    name: str  # `<split>/<mode>`, or that of its file; "" without a file
    digest: str  # of its frames, `Frames.digest`
    items: int


@dataclass(frozen=True)
class Overlap:
    """What evaluated frames have in common with those of a training; numbers of distinct frames."""

    frames: int = 0  # evaluated
    drives: int = 0  # evaluated
    exact: int = 0  # read in training, by either camera, as target or support
    other_camera: int = 0  # of these: a target there, but only the picture of the other camera
    as_support: int = 0  # of these: never a target, only beside one
    near: int = 0  # `exact`, or with a frame of the training at most `NEAR` frames away
    shared_drives: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the numbers by name."""
        return dict(vars(self))


def compare(evaluated: Frames, trained: Frames, near: int = NEAR) -> Overlap:
    """Count what the targets of `evaluated` have in common with all frames of `trained`."""
    targets = evaluated.only(TARGET)
    counts = {"exact": 0, "other_camera": 0, "as_support": 0, "near": 0}
    shared = targets.keys() & trained.drives.keys()
    for drive in shared:
        numbers, (theirs, roles) = targets[drive], trained.drives[drive]
        own, held = evaluated.drives[drive]
        cameras = held[np.searchsorted(own, numbers)] & TARGET
        places = np.minimum(np.searchsorted(theirs, numbers), len(theirs) - 1)
        there = theirs[places] == numbers
        found = np.where(there, roles[places], 0)
        counts["exact"] += int(there.sum())
        counts["as_support"] += int((there & ((found & TARGET) == 0)).sum())
        counts["other_camera"] += int(((found & TARGET > 0) & ((found & cameras) == 0)).sum())
        first, behind = np.searchsorted(theirs, numbers - near), np.searchsorted(theirs, numbers + near, "right")
        counts["near"] += int((behind > first).sum())
    return Overlap(sum(map(len, targets.values())), len(targets), **counts, shared_drives=len(shared))


def to_ranges(numbers: Numbers) -> str:
    """Write sorted numbers as ranges: `3,5-9`."""
    if not len(numbers):
        return ""
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    firsts, lasts = numbers[np.r_[0, breaks + 1]].tolist(), numbers[np.r_[breaks, len(numbers) - 1]].tolist()
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(firsts, lasts, strict=True))


def from_ranges(text: str) -> Numbers:
    """Read what `to_ranges` wrote. Raises ValueError for other text, and for more numbers than any recording has."""
    parts = [part.split("-") for part in text.split(",")] if text else []
    if any(len(part) > 2 or not all(p.isdecimal() and len(p) <= 18 for p in part) for part in parts):
        raise ValueError(f"no ranges of numbers: {text[:50]!r}")
    ends = [(int(part[0]), int(part[-1])) for part in parts]
    if any(b < a for a, b in ends) or sum(b - a for a, b in ends) > _MOST:
        raise ValueError(f"odd ranges of numbers: {text[:50]!r}")
    return np.concatenate([np.arange(a, b + 1, dtype=np.int64) for a, b in ends] or [np.empty(0, np.int64)])


def fingerprint(source: Any) -> int:
    """Hash a picture, a path or a stream, to a number of 64 bits. Raises OSError.

    It is of the length of the file and of eight pieces of 4 KB, evenly spaced; of all bytes where there are fewer. So
    pictures that were renamed, moved or copied are known again for a fiftieth of what decoding them costs, and frames
    of a camera that stands still stay apart; those that were encoded again are other pictures.
    """
    if isinstance(source, str | Path):
        with open_file(source) as file:
            return _hash(file)
    return _hash(source)


def fingerprints(sources: Iterable[Any]) -> Numbers:
    """Hash pictures; sorted, each once. Those that cannot be read are left out, as `check` reports them."""
    found = set()
    for source in sources:
        with suppress(OSError, DataError):
            found.add(fingerprint(source))
    return np.array(sorted(found), np.int64)


def _hash(file: Any) -> int:
    size = file.seek(0, io.SEEK_END)
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=8)
    whole = size <= _PIECES * _PIECE
    for i in range(1 if whole else _PIECES):
        file.seek(i * (size - _PIECE) // (_PIECES - 1) if i else 0)
        digest.update(file.read() if whole else file.read(_PIECE))
    return int.from_bytes(digest.digest(), "little", signed=True)
