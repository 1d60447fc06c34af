"""Find files that are cut short by their ends and sizes: pictures, LiDAR scans, NumPy arrays.

The ends of 90,000 pictures, as many as the largest split of KITTI needs, take 3.4 s from the cache of the system (two
cores). A hard disk may need minutes, so the search ends after one and counts what is left. Of the processes that a
launcher starts on a machine, only the first searches.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from trainer.data.files.arrays import array_problem
from trainer.data.files.pictures import open_picture
from trainer.data.files.scans import scan_problem
from trainer.runtime.errors import DataError
from trainer.runtime.files import open_file

TAIL = 1024  # bytes that show whether a picture is whole
_SECONDS = 60.0
_BATCH = 4096
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
    problems, end = list[str](), time.monotonic() + _SECONDS
    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(wanted), _BATCH):
            if time.monotonic() > end:
                return problems, len(wanted) - first
            batch = wanted[first : first + _BATCH]
            problems += filter(None, map(judge, batch) if judge else pool.map(_file_problem, batch))
    return problems, 0


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
}  # fmt: skip
