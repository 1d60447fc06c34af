"""`monodepth prepare targets`: the ground truth of a split in one file, as evaluation tools of earlier code read it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.commands.jobs.preparing import clean_stale_under, print_problems, spread, store
from trainer.data import DATASETS
from trainer.data.files.arrays import archive_bytes
from trainer.data.files.splits import choose_splits
from trainer.data.kitti_raw import targets
from trainer.data.kitti_raw.files import read_split
from trainer.data.kitti_raw.places import open_recordings
from trainer.runtime.errors import DataError, UserError

INSTEAD = {  # what items lack -> what to do
    "annotated depth": "annotated depth is a download of its own: name its folder with --depth-root, or take the LiDAR"
    " scans with --source lidar",
    "LiDAR scan": "with annotated depth: --source annotated",
}


class Outcome(NamedTuple):
    """The result for one item."""

    problem: str = ""  # why it has no target
    note: str = ""


def run(
    root: str | None, depth_root: str | None, type: str, split: str | None, splits_dir: Path | None, mode: str,
    source: targets.Source | None, out: Path | None, padded: bool, overwrite: bool, jobs: int,
) -> int:  # fmt: skip
    """Make the target of each item, then one file of them; return 1 when items lack theirs."""
    split_file = _split_file(type, root, split, splits_dir, mode)
    out = out or split_file.with_name(f"targets_{mode}.npz")
    if out.suffix != ".npz":
        raise UserError(f"--out {out} must end in .npz")
    if os.path.exists(out) and not overwrite:
        print(f"{out} exists; --overwrite replaces it")
        return 0
    source = source or targets.usual_source(split or "")
    # Parts of another source must not be mistaken for these.
    parts = out.with_name(f".{out.stem}.{source}.parts")
    setup = partial(_open, type, root, depth_root, split_file, mode, source, parts)
    setup()
    paths = [parts / f"{i}.npz" for i in range(_count())]
    clean_stale_under([parts])
    # The split may have been changed since a run that was stopped.
    missing = [i for i, path in enumerate(paths) if overwrite or targets.name_of_part(str(path)) != _name(i)]
    done = len(paths) - len(missing)
    outcomes = list(spread(_make, missing, jobs, setup, unit="item", done=done))
    notes = dict.fromkeys(outcome.note for outcome in outcomes if outcome.note)  # both cameras share a scan
    left_out = "points that are left out"
    print_problems(list(notes), f"LiDAR scans have {left_out}", f"LiDAR scan has {left_out}")
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    if problems:
        print_problems(problems, f"of {len(paths)} items have no target; {out} is not written")
        if lack := next((what for what in INSTEAD if any(problem.endswith(f"no {what}") for problem in problems)), ""):
            print(INSTEAD[lack])
        return 1
    made = [targets.read_part(str(path)) for path in paths]
    truth = {"truth": np.array(targets.kitti_truth(source))} if type == "kitti" else {}
    store(out, archive_bytes(targets.assemble(made, padded) | truth))
    shutil.rmtree(parts)
    valid = sum(int((target.depth > 0).sum()) for target in made)
    print(f"{out}: {len(made)} depth maps ({source if type == 'kitti' else type}), {valid} pixels with depth")
    return 0


def _split_file(type: str, root: str | None, split: str | None, splits_dir: Path | None, mode: str) -> Path:
    if type != "kitti":
        return Path(_dataset(type, root, mode).root) / "splits" / f"{mode}_files.txt"
    if split is None:
        raise UserError("--split is required for KITTI, e.g. --split eigen_benchmark")
    chosen = {entry_mode: path for _, entry_mode, path in choose_splits(open_recordings(root)[0], [split], splits_dir)}
    if mode not in chosen:
        raise UserError(f"split {split} has no {mode}_files.txt; it has {', '.join(sorted(chosen))}")
    return chosen[mode]


def _dataset(type: str, root: str | None, mode: str) -> Any:
    return DATASETS.create(type, root=root, mode=mode, use_depth=True)


_parts: Path  # of a process of `spread`
_targets: Callable[[int], targets.Target]
_name: Callable[[int], str]
_count: Callable[[], int]


def _open(
    type: str, root: str | None, depth_root: str | None, split_file: Path, mode: str, source: targets.Source,
    parts: Path,
) -> None:  # fmt: skip
    global _parts, _targets, _name, _count
    _parts = parts
    if type != "kitti":
        dataset = _dataset(type, root, mode)
        _targets = lambda i: targets.dataset_target(dataset, i)  # noqa: E731
        _name, _count = dataset.describe, dataset.__len__
        return
    lines = read_split(split_file)
    recordings = open_recordings(root, depth_root)[1]

    def target(index: int) -> targets.Target:
        frame = lines[index].frame
        if frame is None:
            raise DataError(lines[index].problem)
        return targets.kitti_target(frame, recordings, source)

    def name(index: int) -> str:
        frame = lines[index].frame
        return "" if frame is None else frame.stem

    _targets, _name, _count = target, name, lines.__len__


def _make(index: int) -> Outcome:
    try:
        target = _targets(index)
    except (DataError, OSError) as error:
        return Outcome(problem=str(error))
    store(_parts / f"{index}.npz", targets.part_bytes(target))
    return Outcome(note=target.note)
