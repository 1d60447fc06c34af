"""`prepare hints`: depth hints of KITTI's stereo pairs (arXiv:1909.09051), one NumPy file per picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from trainer.commands.jobs.preparing import (
    add_jobs_argument,
    add_split_arguments,
    clean_stale_under,
    print_problems,
    spread,
    store,
)

if TYPE_CHECKING:
    from trainer.data.kitti_raw.files import Frame, Recordings


def add_parser(jobs: Any) -> None:
    """Describe the command line."""
    parser = jobs.add_parser(
        "hints",
        help="depth hints by stereo matching",
        description="Match the stereo pairs of KITTI with twelve settings of semi-global matching and keep, per"
        " pixel, what rebuilds the picture best (arXiv:1909.09051). 1.3 MB per picture. The same command continues.",
        epilog="Example: prepare hints --root data/kitti_raw_sync --splits eigen_zhou",
    )
    add = parser.add_argument
    add(
        "--root", metavar="DIR", help="folder that is, or contains, kitti_raw_sync; default: the usual places"
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="default: depth_hints in the raw folder, where they are looked for",
    )
    add_split_arguments(parser)
    add_jobs_argument(parser)
    parser.set_defaults(run=run)


class Outcome(NamedTuple):
    """What became of a picture."""

    problem: str = ""
    covered: float = 0.0  # share of the pixels that have a hint
    is_new: bool = False


def run(
    root: str | None, out: Path | None, splits: list[str] | None, splits_dir: Path | None, jobs: int
) -> int:
    """Make the hints that are missing or that readers refuse; return 1 when pictures are broken or lack a partner."""
    from trainer.data.kitti_raw.hints import PURPOSE, SIZE
    from trainer.data.kitti_raw.places import open_recordings
    from trainer.runtime.files import make_folder, require_space
    from trainer.runtime.optional import require

    require("cv2", "hints", PURPOSE)
    raw, recordings = open_recordings(root)
    out = out or raw / "depth_hints"
    frames, bad_lines = _choose(raw, recordings, splits, splits_dir)
    clean_stale_under(out / _path(frame).parent for frame in frames)
    num_bytes = 4 * SIZE[0] * SIZE[1] + 128
    num_missing = sum(not _is_long_enough(out / _path(frame), num_bytes) for frame in frames)
    make_folder(out)
    require_space(out, num_missing * num_bytes, "depth hints")
    tasks = [(frame, num_bytes) for frame in frames]
    outcomes = list(spread(_match, tasks, jobs, _open, (root, out), unit="picture"))
    made = [outcome for outcome in outcomes if outcome.is_new]
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    print(
        f"{out}: {len(frames) - len(problems)} of {len(frames)} pictures have depth hints, {len(made)} of them new"
    )
    if made:
        print(
            f"the new ones cover {sum(outcome.covered for outcome in made) / len(made):.0%} of their pixels"
        )
    print_problems(problems, "pictures have none", "picture has none")
    print_problems(bad_lines, "lines of the splits name no picture", "line of the splits names no picture")
    print(f"train on them with dataset.use_hints=true dataset.hints_root={out}")
    return int(bool(problems or bad_lines))


def _choose(
    raw: Path, recordings: Recordings, splits: list[str] | None, splits_dir: Path | None
) -> tuple[list[Frame], list[str]]:
    """The targets of the splits, and their bad lines; without names, every picture that is there."""
    from trainer.data.files.splits import choose_splits
    from trainer.data.kitti_raw.files import read_split

    if splits is None and splits_dir is None:
        return list(recordings.frames()), []
    lines = [line for _, _, path in choose_splits(raw, splits, splits_dir) for line in read_split(path)]
    frames = sorted({line.frame for line in lines if line.frame is not None})
    return frames, [line.problem for line in lines if line.frame is None]


def _is_long_enough(path: Path, num_bytes: int) -> bool:
    """Tell whether hints are there, and not cut short as by an interrupted copy."""
    return path.is_file() and path.stat().st_size >= num_bytes


def _is_sound(path: Path) -> bool:
    """Tell whether readers take the hints; they refuse NaN."""
    from trainer.data.base import DataError
    from trainer.data.kitti_raw.hints import SIZE, read_hints

    try:
        read_hints(path, SIZE)
    except DataError:
        return False
    return True


def _path(frame: Frame) -> Path:
    return Path(f"{frame.stem}.npy")


_recordings: Recordings  # of a process of `spread`
_out: Path


def _open(root: str | None, out: Path) -> None:
    global _recordings, _out
    import cv2

    from trainer.data.kitti_raw.places import open_recordings

    cv2.setNumThreads(1)  # there is a process per core
    _recordings, _out = open_recordings(root)[1], out


def _match(task: tuple[Frame, int]) -> Outcome:
    import numpy as np

    from trainer.data.base import DataError, read_image
    from trainer.data.kitti_raw.hints import SIZE, depth_hints

    frame, num_bytes = task
    if _is_long_enough(path := _out / _path(frame), num_bytes) and _is_sound(path):
        return Outcome()
    try:
        places = [_recordings.image(frame), _recordings.image(frame.support(0))]
        for place, picture in zip(places, (frame, frame.support(0)), strict=True):
            if place is None:
                return Outcome(f"{frame.stem}: {picture.stem} is missing")
        target, partner = (
            read_image(cast("str", _recordings.open(place)), SIZE) for place in places if place is not None
        )
    except DataError as error:
        return Outcome(f"{frame.stem}: {error}")
    hints = depth_hints(target, partner, right=frame.camera == 3)
    buffer = io.BytesIO()
    np.save(buffer, hints)
    store(path, buffer.getbuffer())
    return Outcome(covered=float((hints > 0).mean()), is_new=True)
