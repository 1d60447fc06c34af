"""Split files: find them, read their lines, shorten long lists of problems."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from models_zoo.registry import did_you_mean
from trainer.runtime.errors import UserError
from trainer.runtime.files import read_file

_FOLDERS = ("splits", "../splits", "../kitti_splits")  # seen from the folder with the data
_LISTED = 20  # problems of one kind that a report names one by one


def find_split(data: Path, split: str, mode: str) -> Path:
    """Find `<split>/<mode>_files.txt` in a folder `splits` in or beside the data. Raises UserError, listing splits."""
    folders = _folders(data)
    for folder in folders:
        if os.path.isfile(path := folder / split / f"{mode}_files.txt"):
            return path
    there = [(name, kind) for name, kind, _ in list_splits(data)]
    known = {name for name, kind in there if kind == mode}
    has = ", ".join(f"{kind}_files.txt" for name, kind in there if name == split)
    hint = f"{did_you_mean(split, known)}. " if known else ""
    raise UserError(
        f"dataset.split {split!r} has no {mode}_files.txt{f', only {has}' if has else ''}. Looked in"
        f" {', '.join(map(str, folders))}. {hint}Or name a file with dataset.split_file"
    )


def list_splits(data: Path, folder: Path | None = None) -> list[tuple[str, str, Path]]:
    """List (split, mode, file) of every `<split>/<mode>_files.txt` in `folder`, or else in or beside the data."""
    found: dict[tuple[str, str], Path] = {}
    for place in filter(os.path.isdir, [folder] if folder else _folders(data)):
        for path in sorted(place.glob("*/*_files.txt")):
            found.setdefault((path.parent.name, path.name.removesuffix("_files.txt")), path)
    return [(split, mode, path) for (split, mode), path in found.items()]


def choose_splits(data: Path, names: Sequence[str] | None, folder: Path | None) -> list[tuple[str, str, Path]]:
    """List the split files (`list_splits`) of the splits called `names`, all for None. Raises UserError for none."""
    splits = list_splits(data, folder)
    known = {split for split, _, _ in splits}
    for name in names or ():
        if name not in known:
            raise UserError(f"--splits {name!r} is not there. {did_you_mean(name, known)}. Or give --splits-dir")
    if not splits:
        raise UserError(
            f"no <split>/<mode>_files.txt in {folder or f'splits in or beside {data}'}. Name the folder that holds the"
            " folders of the splits with --splits-dir"
        )
    return [entry for entry in splits if names is None or entry[0] in names]


def read_rows(
    path: Path, expected: str, what: str = "split file", key: str = "dataset.split_file"
) -> list[tuple[int, str]]:
    """Read the rows of a text file, blank ones left out, with their numbers from 1. UserError when there are none."""
    try:
        rows = read_file(path).decode("utf-8-sig").splitlines()  # Windows may write a mark first
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the {what} cannot be read ({error}). Check {key}") from error
    numbered = [(i, text) for i, row in enumerate(rows, 1) if (text := row.strip())]
    if odd := next((i for i, row in numbered if "\0" in row), None):
        raise UserError(f"{path}:{odd}: the {what} is no text: there is a NUL in it. Check {key}")
    if not numbered:
        raise UserError(f"{path}: the {what} has no lines. Expected one per item: {expected}")
    return numbered


def parse_frame(row: str) -> tuple[str, int] | None:
    """Parse `<clip> <frame>`; names of clips may have spaces."""
    match row.rsplit(maxsplit=1):
        case [clip, number] if is_number(number):
            return clip.strip(), int(number)
    return None


def is_number(text: str, digits: int = 18) -> bool:
    """Tell whether text is a whole number of so many digits at most; thousands are none that Python would read."""
    return text.isdecimal() and len(text) <= digits


def shown(row: str) -> str:
    """The row of a split file for a message, shortened, control characters escaped."""
    return repr(row if len(row) <= 80 else f"{row[:80]}...")


def capped(messages: list[str], what: str) -> list[str]:
    """Keep the first 20 messages and count the others."""
    more = len(messages) - _LISTED
    return messages[:_LISTED] + ([f"... and {more} more {what}"] if more > 0 else [])


def counted(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun: `1 gap`, `2 gaps`; `many` is an irregular plural."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def _folders(data: Path) -> list[Path]:
    return [Path(os.path.normpath(data / folder)) for folder in _FOLDERS]
