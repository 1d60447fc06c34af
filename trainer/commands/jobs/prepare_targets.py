"""`prepare targets`: the ground truth of a split in one file, as evaluation tools of earlier code read it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.commands.jobs.preparing import (
    add_jobs_argument,
    add_kitti_arguments,
    clean_stale_under,
    print_problems,
    spread,
    store,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.data.kitti_raw.targets import Source, Target

_TYPES = ("kitti", "syns_patches")


def add_parser(jobs: Any) -> None:
    """Describe the command line."""
    parser = jobs.add_parser(
        "targets",
        help="ground truth of a split in one file",
        description="Write depth maps and intrinsics of a split into <split folder>/targets_<mode>.npz. KITTI:"
        " annotated depth, but for the split eigen metres ahead of the LiDAR, as published numbers have it; K is"
        " that of the rectified pictures. Nothing is written while an item lacks its truth."
        " The same command continues.",
        epilog="Example: prepare targets --root data/kitti_raw_sync --split eigen_benchmark",
    )
    add_kitti_arguments(parser)
    add = parser.add_argument
    add("--type", choices=_TYPES, default="kitti", help="data set (default kitti, files or databases)")
    add("--split", metavar="NAME", help="of KITTI; required there")
    add(
        "--splits-dir",
        type=Path,
        metavar="DIR",
        help="folder of splits; default: in or beside the raw folder",
    )
    add("--mode", choices=("train", "val", "test"), default="test", help="part of the split (default test)")
    add(
        "--source",
        choices=("annotated", "lidar", "lidar-forward"),
        help="annotated depth; LiDAR, metres along the optical axis; LiDAR, metres ahead of it. Default: by split",
    )
    add("--out", type=Path, metavar="NPZ", help="default: targets_<mode>.npz beside the split file")
    add("--padded", action="store_true", help="pad maps of different size, so that the file holds no pickle")
    add("--overwrite", action="store_true", help="write an existing file anew")
    add_jobs_argument(parser)
    parser.set_defaults(run=run)


class Order(NamedTuple):
    """What a process needs to make targets."""

    type: str
    root: str | None
    depth_root: str | None
    split_file: Path
    mode: str
    source: Source
    parts: Path


class Outcome(NamedTuple):
    """What became of an item."""

    problem: str = ""  # why it has no target
    note: str = ""


def run(
    root: str | None, depth_root: str | None, type: str, split: str | None, splits_dir: Path | None, mode: str,
    source: Source | None, out: Path | None, padded: bool, overwrite: bool, jobs: int,
) -> int:  # fmt: skip
    """Make the target of each item, then one file of them; return 1 when items lack theirs."""
    import numpy as np

    from trainer.data.kitti_raw.targets import (
        assemble,
        kitti_truth,
        name_of_part,
        read_part,
        to_bytes,
        usual_source,
    )
    from trainer.runtime.errors import UserError

    split_file = _split_file(type, root, split, splits_dir, mode)
    out = out or split_file.with_name(f"targets_{mode}.npz")
    if out.suffix != ".npz":
        raise UserError(f"--out {out} must end in .npz")
    if out.exists() and not overwrite:
        print(f"{out} is there already; --overwrite writes it anew")
        return 0
    source = source or usual_source(split or "")
    # Parts of another choice must not be taken for these.
    parts = out.with_name(f".{out.stem}.{source}.parts")
    order = Order(type, root, depth_root, split_file, mode, source, parts)
    _open(order)
    paths = [parts / f"{i}.npz" for i in range(_count())]
    clean_stale_under([parts])
    # The split may have been changed since a run that was stopped.
    missing = [i for i, path in enumerate(paths) if overwrite or name_of_part(str(path)) != _name(i)]
    done = len(paths) - len(missing)
    outcomes = list(spread(_make, missing, jobs, _open, (order,), unit="item", done=done))
    notes = dict.fromkeys(outcome.note for outcome in outcomes if outcome.note)  # both cameras share a scan
    print_problems(
        list(notes), "LiDAR scans have points that are left out", "LiDAR scan has points that are left out"
    )
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    if problems:
        print_problems(problems, f"of {len(paths)} items have no target; {out} is not written")
        return 1
    targets = [read_part(str(path)) for path in paths]
    truth = {"truth": np.array(kitti_truth(source))} if type == "kitti" else {}
    store(out, to_bytes(assemble(targets, padded) | truth))
    shutil.rmtree(parts)
    valid = sum(int((target.depth > 0).sum()) for target in targets)
    print(
        f"{out}: {len(targets)} depth maps ({source if type == 'kitti' else type}), {valid} pixels with depth"
    )
    return 0


def _split_file(type: str, root: str | None, split: str | None, splits_dir: Path | None, mode: str) -> Path:
    from trainer.runtime.errors import UserError

    if type != "kitti":
        return Path(_dataset(type, root, mode).root) / "splits" / f"{mode}_files.txt"
    from trainer.data.files.splits import choose_splits
    from trainer.data.kitti_raw.places import open_recordings

    if split is None:
        raise UserError("--split is required for KITTI, e.g. --split eigen_benchmark")
    chosen = {
        entry_mode: path
        for _, entry_mode, path in choose_splits(open_recordings(root)[0], [split], splits_dir)
    }
    if mode not in chosen:
        raise UserError(f"split {split} has no {mode}_files.txt; it has {', '.join(sorted(chosen))}")
    return chosen[mode]


def _dataset(type: str, root: str | None, mode: str) -> Any:
    from trainer.data import DATASETS

    return DATASETS.create(type, root=root, mode=mode, use_depth=True)


_order: Order  # of a process of `spread`
_targets: Callable[[int], Target]
_name: Callable[[int], str]
_count: Callable[[], int]


def _open(order: Order) -> None:
    """Open the data in this process."""
    global _order, _targets, _name, _count
    _order = order
    if order.type != "kitti":
        from trainer.data.kitti_raw.targets import dataset_target

        dataset = _dataset(order.type, order.root, order.mode)
        _targets, _name, _count = (lambda i: dataset_target(dataset, i)), dataset.describe, dataset.__len__
        return
    from trainer.data.base import DataError
    from trainer.data.kitti_raw.files import read_split
    from trainer.data.kitti_raw.places import open_recordings
    from trainer.data.kitti_raw.targets import kitti_target

    lines = read_split(order.split_file)
    recordings = open_recordings(order.root, order.depth_root)[1]

    def target(index: int) -> Target:
        frame = lines[index].frame
        if frame is None:
            raise DataError(lines[index].problem)
        return kitti_target(frame, recordings, order.source)

    def name(index: int) -> str:
        frame = lines[index].frame
        return "" if frame is None else frame.stem

    _targets, _name, _count = target, name, lines.__len__


def _make(index: int) -> Outcome:
    """Store the target of an item."""
    from trainer.data.base import DataError
    from trainer.data.kitti_raw.targets import part_bytes

    try:
        target = _targets(index)
    except (DataError, OSError) as error:
        return Outcome(problem=str(error))
    store(_order.parts / f"{index}.npz", part_bytes(target))
    return Outcome(note=target.note)
