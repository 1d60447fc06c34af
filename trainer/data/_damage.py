"""Which files of a recording are cut short, judged by their ends and sizes: pictures, LiDAR scans, NumPy arrays.

The ends of 90,000 pictures, as many as the largest split of KITTI needs, take 3.4 s where the system has them in its
cache (two cores). A disk with a moving head may need minutes, so the search ends in time and says how far it came.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence

from trainer.data._arrays import array_problem
from trainer.data._endings import find_cut_short
from trainer.data._kitti_calib import scan_problem

_SECONDS = 60.0
_BATCH = 4096
_PNG_END, _JPEG_END = b"IEND\xaeB`\x82", b"\xff\xd9"  # see `_endings`
_JPEG_REST = 16  # two bytes may be anywhere by chance


def find_damaged(
    places: Iterable[str], judge: Callable[[Sequence[str]], list[str]] | None = None
) -> tuple[list[str], int]:
    """List what is empty or cut short, one line each, and count the places that there was no time for.

    `judge` does so for some places at a time; None = files. Damage inside of a file is not seen, nor are missing ones
    told.
    """
    wanted, problems, end = list(places), list[str](), time.monotonic() + _SECONDS
    for first in range(0, len(wanted), _BATCH):
        if time.monotonic() > end:
            return problems, len(wanted) - first
        problems += (judge or _problems)(wanted[first : first + _BATCH])
    return problems, 0


def is_whole(tail: bytes) -> bool:
    """Tell from its last bytes whether a PNG or JPEG picture ends as one."""
    return _PNG_END in tail or _JPEG_END in tail[-_JPEG_REST:]


def _problems(paths: Sequence[str]) -> list[str]:
    others = [(path, _OTHERS.get(os.path.splitext(path)[1])) for path in paths]
    found = find_cut_short(path for path, judge in others if judge is None)
    return found + [problem for path, judge in others if judge and (problem := judge(path))]


def _scan(path: str) -> str:
    try:
        return scan_problem(path, os.path.getsize(path))
    except OSError:
        return ""  # told as missing


def _array(path: str) -> str:
    return array_problem(path, "Copy or make it again") if os.path.isfile(path) else ""


_OTHERS: dict[str, Callable[[str], str]] = {".bin": _scan, ".npy": _array}
