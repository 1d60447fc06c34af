"""`monodepth prepare hints`: depth hints of KITTI's stereo pairs (arXiv:1909.09051), one NumPy file per picture."""

from __future__ import annotations

import os
import shlex
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from trainer.commands.jobs.preparing import clean_stale_under, print_problems, spread, store
from trainer.data.files.arrays import array_bytes
from trainer.data.files.pictures import read_image
from trainer.data.files.splits import choose_splits
from trainer.data.kitti_raw import hints
from trainer.data.kitti_raw.files import Frame, Recordings, read_split
from trainer.data.kitti_raw.places import open_recordings
from trainer.runtime.errors import DataError
from trainer.runtime.files import make_folder, require_space
from trainer.runtime.optional import require


class Outcome(NamedTuple):
    """The result for one picture."""

    problem: str = ""
    covered: float = 0.0  # share of the pixels that have a hint
    is_new: bool = False


def run(root: str | None, out: Path | None, splits: list[str] | None, splits_dir: Path | None, jobs: int) -> int:
    """Make the hints that are missing or that readers refuse; return 1 when pictures are broken or lack a partner."""
    require("cv2", "hints", hints.PURPOSE)
    raw, recordings = open_recordings(root)
    out = out or raw / "depth_hints"
    frames, bad_lines = _choose(raw, recordings, splits, splits_dir)
    clean_stale_under(_path(out, frame).parent for frame in frames)
    num_bytes = 4 * hints.SIZE[0] * hints.SIZE[1] + 128
    num_missing = sum(not _is_long_enough(_path(out, frame), num_bytes) for frame in frames)
    make_folder(out)
    require_space(out, num_missing * num_bytes, "depth hints")
    tasks = [(frame, num_bytes) for frame in frames]
    outcomes = list(spread(_match, tasks, jobs, partial(_open, root, out), unit="picture"))
    made = [outcome.covered for outcome in outcomes if outcome.is_new]
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    there = len(frames) - len(problems)
    print(f"{out}: {there} of {len(frames)} pictures have depth hints, {len(made)} of them new")
    if made:
        print(f"the new ones cover {sum(made) / len(made):.0%} of their pixels")
    print_problems(problems, "pictures have none", "picture has none")
    print_problems(bad_lines, "lines of the splits name no picture", "line of the splits names no picture")
    print(
        f"train on them: monodepth train -c benchmark/depth_hints_MS --set {shlex.quote(f'dataset.hints_root={out}')}"
    )
    return int(bool(problems or bad_lines))


def _choose(
    raw: Path, recordings: Recordings, splits: list[str] | None, splits_dir: Path | None
) -> tuple[list[Frame], list[str]]:
    """Return the targets of the splits and their bad lines; without names, every picture."""
    if splits is None and splits_dir is None:
        return list(recordings.frames()), []
    lines = [line for _, _, path in choose_splits(raw, splits, splits_dir) for line in read_split(path)]
    frames = sorted({line.frame for line in lines if line.frame is not None})
    return frames, [line.problem for line in lines if line.frame is None]


def _path(out: Path, frame: Frame) -> Path:
    return out / f"{frame.stem}.npy"


def _is_long_enough(path: Path, num_bytes: int) -> bool:
    return os.path.isfile(path) and path.stat().st_size >= num_bytes


def _is_sound(path: Path) -> bool:
    try:
        hints.read_hints(path, hints.SIZE)  # refuses NaN, for example
    except DataError:
        return False
    return True


_recordings: Recordings  # of a process of `spread`
_out: Path


def _open(root: str | None, out: Path) -> None:
    global _recordings, _out
    require("cv2", "hints", hints.PURPOSE).setNumThreads(1)  # there is a process per core
    _recordings, _out = open_recordings(root)[1], out


def _match(task: tuple[Frame, int]) -> Outcome:
    frame, num_bytes = task
    if _is_long_enough(path := _path(_out, frame), num_bytes) and _is_sound(path):
        return Outcome()
    pair = []
    for picture in (frame, frame.support(0)):
        place = _recordings.image(picture)
        if place is None:
            return Outcome(f"{frame.stem}: {picture.stem} is missing")
        pair.append(place)
    try:
        target, partner = (read_image(cast("str", _recordings.open(place)), hints.SIZE) for place in pair)
    except DataError as error:
        return Outcome(f"{frame.stem}: {error}")
    depth = hints.depth_hints(target, partner, right=frame.camera == 3)
    store(path, array_bytes(depth))
    return Outcome(covered=float((depth > 0).mean()), is_new=True)
