"""Clips, the numbered pictures of one moving camera: list files, choose items, find missing frames. Decodes nothing."""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from trainer.data.files.splits import read_rows, shown

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MAX_BLOCK = 50  # frames of a block of the validation rule


class Clip(NamedTuple):
    """Pictures of one camera in order: number -> path. The next frame is `step` numbers later.

    `counted`: file names gave no numbers, so gaps cannot be seen.
    """

    name: str
    frames: Mapping[int, str]
    step: int = 1
    counted: bool = False


class Line(NamedTuple):
    """One item: a frame of a clip, or the problem of a split line."""

    place: str  # "<split file>:<line>", or "" without a split file
    clip: str
    number: int
    problem: str = ""


def list_clip(folder: Path, name: str, step: int | None = None, suffixes: Sequence[str] = PICTURES) -> Clip:
    """List the pictures of a folder, in natural order (frame2 before frame10).

    Numbers are those at the end of the file names, and `step` defaults to the commonest difference of two successive
    ones. Without such numbers, or a common difference, frames are counted from 0. Of files that differ in their suffix
    only, the first of `suffixes` is taken; hidden files are skipped.
    """
    with os.scandir(folder) as entries:
        found = [e.name for e in entries if _suffix(e.name) in suffixes and not e.name.startswith(".")]
    found.sort(key=lambda name: suffixes.index(_suffix(name)), reverse=True)
    return clip_of(name, folder, {os.path.splitext(name)[0]: name for name in found}.values(), step)


def clip_of(name: str, folder: Path, files: Iterable[str], step: int | None = None) -> Clip:
    """Put the pictures of a folder in order and number them, as `list_clip`; `files` differ in more than endings."""
    names = sorted(files, key=natural)
    numbers = _numbers([os.path.splitext(n)[0] for n in names])
    if numbers is not None and step is None:
        step = _usual_step(numbers)
    if numbers is None or step is None:
        return Clip(name, {i: f"{folder}/{n}" for i, n in enumerate(names)}, counted=True)
    return Clip(name, {number: f"{folder}/{n}" for number, n in zip(numbers, names, strict=True)}, step)


def gaps(clip: Clip) -> int:
    """Count the gaps between the frames."""
    return sum(later - earlier != clip.step for earlier, later in pairwise(sorted(clip.frames)))


def choose_frames(clip: Clip, offsets: Sequence[int], mode: str, val_every: int, factor: int = 1) -> list[int]:
    """Choose the targets of a mode: frames that have all their neighbours, `factor` times `offsets` frames away.

    Frames are cut into blocks of equal length, at most 50; every `val_every`-th block is for val and test. Training
    skips the frames next to such a block: no picture is read by both, unless supports of validation (of factor 1) reach
    further than those of training. `val_every` 0: all frames in all modes.
    """
    reach = (1 + factor) * max(map(abs, offsets), default=0)
    distances = distances_to_held_out(clip, val_every)
    numbers = [n for n, distance in distances.items() if (distance > reach if mode == "train" else distance == 0)]
    numbers = numbers if val_every else sorted(clip.frames)
    return [n for n in numbers if all(n + factor * offset * clip.step in clip.frames for offset in offsets)]


def distances_to_held_out(clip: Clip, val_every: int) -> dict[int, float]:
    """Map each frame, in order, to how many frames away the nearest one is that is held out for val and test."""
    numbers = sorted(clip.frames)
    block = max(1, min(MAX_BLOCK, len(numbers) // val_every)) if val_every else 0
    held_out = [i for i in range(len(numbers)) if val_every and i // block % val_every == val_every - 1]
    distances = {}
    for i, number in enumerate(numbers):
        place = bisect_left(held_out, i)
        distances[number] = min((abs(i - held) for held in held_out[max(0, place - 1) : place + 1]), default=math.inf)
    return distances


def read_lines(path: Path, parse: Callable[[str], tuple[str, int] | None], expected: str) -> list[Line]:
    """Read a split file, one item per line; `parse` returns clip and number, or None. UserError when it is missing."""
    lines = []
    for i, row in read_rows(path, expected):
        found = parse(row)
        problem = f"{path}:{i}: {shown(row)}: expected {expected}" if found is None else ""
        lines.append(Line(f"{path}:{i}", *(found or ("", 0)), problem))
    return lines


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def natural(name: str) -> list[tuple[int, str]]:
    """Order names by the numbers in them: frame2 before frame10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _numbers(stems: Sequence[str]) -> list[int] | None:
    """Return the numbers at the end of names with a common beginning; None without, or when one occurs twice."""
    found = [re.fullmatch(r"(.*?)(\d+)", stem.lower()) for stem in stems]
    numbers = [int(match[2]) for match in found if match]
    if len(set(numbers)) < len(stems) or len({match[1] for match in found if match}) != 1:
        return None
    return numbers


def _usual_step(numbers: Iterable[int]) -> int | None:
    """Return the difference of at least half of the neighbours; None without one, as for time stamps."""
    ordered = sorted(numbers)
    steps = Counter(b - a for a, b in pairwise(ordered))
    if not steps:
        return 1
    (step, count), *_ = steps.most_common(1)
    return step if 2 * count >= len(ordered) - 1 else None
