"""Find pictures that would be read wrongly by their headers: another size, a flag to turn them, 16 bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from trainer.data.files.damage import is_first_of_machine
from trainer.data.files.pictures import DEEP_MODES, open_picture
from trainer.runtime.errors import DataError

_THREADS = 16
_ORIENTATION, _UPRIGHT = 0x0112, 1  # tag of Exif 2.3, table 4


class Header(NamedTuple):
    """Header of one picture."""

    path: str
    size: tuple[int, int]  # (width, height)
    is_turned: bool
    mode: str


def find_odd_pictures(paths: Mapping[str, Iterable[str]], sizes: Mapping[str, tuple[int, int]]) -> list[str]:
    """List, per clip and kind, pictures that would be read wrongly; unreadable ones are left to `damage`.

    paths, sizes: clip -> its pictures, their (width, height), which intrinsics belong to.
    """
    if not is_first_of_machine():
        return []
    problems = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, own in paths.items():
            headers = [header for header in pool.map(_header, own) if header]
            problems += _odd(name, headers, sizes[name])
    return problems


def _odd(name: str, headers: Sequence[Header], size: tuple[int, int]) -> list[str]:
    width, height = size
    kinds = [
        (
            [header for header in headers if header.size != size],
            f"are not {width}x{height} as the first of the clip",
            "Intrinsics belong to one size: give them a folder of their own",
        ),
        (
            [header for header in headers if header.is_turned],
            "lie on a side or head: Exif asks to turn them",
            "Turn them for good: mogrify -auto-orient, or exiftran -a -i",
        ),
        (
            [header for header in headers if header.mode.startswith(DEEP_MODES)],
            "have more than 8 bits per pixel",
            "Write them as grey or colour of 8 bits",
        ),
    ]
    return [
        f"{name}: {len(odd)} of {len(headers)} pictures {what}, the first: {odd[0].path} "
        f"({odd[0].size[0]}x{odd[0].size[1]}, {odd[0].mode}). {fix}"
        for odd, what, fix in kinds
        if odd
    ]


def _header(path: str) -> Header | None:
    try:
        with open_picture(path) as picture:
            turned = "exif" in picture.info and picture.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT
            return Header(path, picture.size, turned, picture.mode)
    except DataError:
        return None
