"""Find files that are cut short by their ends and sizes: pictures, LiDAR scans, NumPy arrays.

The ends of 90,000 pictures, as many as the largest split of KITTI needs, take seconds from the cache of the system. A
hard disk may need minutes, so the search ends after one and counts what is left. Of the processes that a launcher
starts on a machine, only the first searches.

A search that found nothing is not repeated while all files have the names, sizes and times that they had, of the last
change to content and to the i-node: asking for these takes a fifteenth of the time. What remembers it is an empty file
in the user's cache folder, called by a hash of them all, so a file that was added, removed, replaced or written to has
another one. Damage that is found is never remembered.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from zipfile import is_zipfile

from trainer.data.files.arrays import array_problem
from trainer.data.files.paths import cache_folder
from trainer.data.files.pictures import open_picture
from trainer.data.files.scans import scan_problem
from trainer.runtime.errors import DataError
from trainer.runtime.files import open_file

TAIL = 1024  # bytes that show whether a picture is whole
_SECONDS = 60.0
_BATCH, _PART = 4096, 64
_MANY = 1000  # files from which on it is worth remembering
_SEARCH = "1"  # its version: another one finds other damage
_THREADS = 16  # reading some bytes of a file is waiting, above all on a network disk
# The last chunk of a PNG (ISO/IEC 15948, sec. 11.2.5) and the end marker of a JPEG (ITU-T T.81, B.1.1.3).
_PNG_END, _JPEG_END = b"IEND\xaeB`\x82", b"\xff\xd9"
_JPEG_REST = 16  # two bytes may be anywhere by chance


def find_damaged(places: Iterable[str], judge: Callable[[str], str] | None = None) -> tuple[list[str], int]:
    """List what is empty or cut short, one line each, and count the places that there was no time for.

    `judge` says what is wrong with a place, or ""; None = files. Damage inside a file is not found, and missing files
    are not reported. Only pictures whose end looks wrong are decoded.
    """
    wanted = list(places) if is_first_of_machine() else []
    problems = list[str]()
    with ThreadPoolExecutor(_THREADS) as pool:
        record = _record(wanted, pool) if judge is None and len(wanted) >= _MANY else None
        if record and os.path.exists(record):
            return [], 0
        end = time.monotonic() + _SECONDS
        for first in range(0, len(wanted), _BATCH):
            if time.monotonic() > end:
                return problems, len(wanted) - first
            batch = wanted[first : first + _BATCH]
            found = map(judge, batch) if judge else chain.from_iterable(pool.map(_problems, _parts(batch)))
            problems += filter(None, found)
    if record and not problems:
        with suppress(OSError):  # it only saves time
            record.parent.mkdir(parents=True, exist_ok=True)
            record.touch()
    return problems, 0


def _record(paths: Sequence[str], pool: ThreadPoolExecutor) -> Path | None:
    """Return the file that exists when a search has found `paths` whole, as they are now; None without a home."""
    digest = hashlib.sha256(_SEARCH.encode())
    for states in pool.map(_states, _parts(paths)):
        digest.update(states.encode(errors="surrogateescape"))
    try:
        return cache_folder("whole_files") / digest.hexdigest()
    except RuntimeError:
        return None


def _states(paths: Sequence[str]) -> str:
    return "".join(map(_state, paths))


def _state(path: str) -> str:
    try:
        state = os.stat(path)
    except OSError:
        return f"{path}\0missing\n"
    return f"{path}\0{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\n"


def _problems(paths: Sequence[str]) -> list[str]:
    return [_file_problem(path) for path in paths]


def _parts(paths: Sequence[str]) -> list[Sequence[str]]:
    """Cut paths into what a thread does at a time: handing over single ones takes as long as looking."""
    return [paths[first : first + _PART] for first in range(0, len(paths), _PART)]


def is_first_of_machine() -> bool:
    """Tell whether this is the one process of a launcher on this machine that checks files."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("LOCAL_RANK", "0") == "0"


def is_whole(tail: bytes) -> bool:
    """Tell from its last bytes whether a PNG or JPEG picture is complete; zeros may follow."""
    return _PNG_END in tail or _JPEG_END in tail.rstrip(b"\0")[-_JPEG_REST:]


def _file_problem(path: str) -> str:
    try:
        size = os.path.getsize(path)
    except OSError:
        return ""  # reported as missing
    if not size:
        return f"{path} is empty. Copy it again"
    judge = _JUDGES.get(os.path.splitext(path)[1].lower())
    return judge(path, size) if judge else ""


def _picture(path: str, size: int) -> str:
    try:
        with open_file(path) as file:
            file.seek(max(0, size - TAIL))
            if is_whole(file.read()):
                return ""
        with open_picture(path, "picture", "Copy it again or remove its items") as picture:
            picture.load()  # some cameras write more behind the end
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be read ({error}). Copy it again or remove its items"
    return ""


_JUDGES: dict[str, Callable[[str, int], str]] = {
    ".png": _picture, ".jpg": _picture, ".jpeg": _picture, ".bin": scan_problem,
    ".npy": lambda path, size: array_problem(path, "Copy or make it again"),
    ".npz": lambda path, size: "" if is_zipfile(path) else f"{path} is no whole archive. Copy or make it again",
}  # fmt: skip
