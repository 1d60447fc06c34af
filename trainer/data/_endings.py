"""Whether picture files are whole, judged by their last bytes: a copy that was cut short has no end mark."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

_THREADS = 16  # reading some bytes of a file is waiting, above all on a network disk
_TAIL = 1024
# The last chunk of a PNG (ISO/IEC 15948, sec. 11.2.5) and the end marker of a JPEG (ITU-T T.81, B.1.1.3).
_END_MARKS = {".png": b"IEND\xaeB`\x82", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}


def find_cut_short(paths: Iterable[str]) -> list[str]:
    """List the pictures that are empty or cut short, one line each, in the order of `paths`.

    Only files without an end mark are decoded. Damage inside of a file is not seen.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return [problem for problem in pool.map(_problem, paths) if problem]


def _problem(path: str) -> str:
    mark = _END_MARKS.get(os.path.splitext(path)[1].lower())
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            tail = file.read()
        if not size:
            return f"{path} is empty. Copy it again"
        if mark is None or mark in tail:
            return ""
        with Image.open(path) as picture:  # some cameras write more behind the end
            picture.load()
    except FileNotFoundError:
        return ""  # told as missing
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"{path} is cut short or damaged ({error}). Copy it again or remove its items"
    return ""
