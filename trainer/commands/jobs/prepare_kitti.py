"""`prepare kitti check`: what KITTI's splits need, how much of it is there, which files are broken."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.commands.jobs.preparing import (
    add_jobs_argument,
    add_kitti_arguments,
    add_split_arguments,
    print_problems,
    spread,
)

if TYPE_CHECKING:
    from trainer.data.kitti_raw.check import Part, SplitReport
    from trainer.data.kitti_raw.files import Recordings

_SHOWN = 5  # missing pictures of a split that are named one by one


def add_parser(jobs: Any) -> None:
    """Describe the command line."""
    kitti = jobs.add_parser("kitti", help="look over KITTI", description="Look over KITTI.")
    check = kitti.add_subparsers(dest="what", required=True, metavar="WHAT").add_parser(
        "check",
        help="what is there, what is missing, per split",
        description="Say per split how many items have target, supports, LiDAR, annotated depth and depth hints,"
        " which drives are absent, and with --deep which files are broken. Exit code 0: all items can be loaded.",
        epilog="Example: prepare kitti check --root data/kitti_raw_sync --splits eigen_zhou --deep",
    )
    add_kitti_arguments(check)
    add_split_arguments(check)
    add_jobs_argument(check)
    add = check.add_argument
    add("--hints-root", metavar="DIR", help="depth hints; default: in or beside the raw folder")
    add("--supp-idxs", type=int, nargs="*", default=[-1, 1, 0], metavar="N", help="supports (default -1 1 0)")
    add("--deep", action="store_true", help="read every file to its end")
    check.set_defaults(run=run)


def run(
    what: str,
    root: str | None,
    depth_root: str | None,
    hints_root: str | None,
    splits: list[str] | None,
    splits_dir: Path | None,
    supp_idxs: list[int],
    deep: bool,
    jobs: int,
) -> int:
    """Count, print, read; return 1 when an item cannot be loaded or a file is broken."""
    from trainer.data.files.splits import choose_splits
    from trainer.data.kitti_raw.check import check_split
    from trainer.data.kitti_raw.files import read_split
    from trainer.data.kitti_raw.places import open_recordings

    raw, recordings = open_recordings(root, depth_root, hints_root)
    chosen = choose_splits(raw, splits, splits_dir)
    print(f"KITTI recordings in {raw}")
    reports = {
        (split, mode): check_split(read_split(path), supp_idxs, recordings, mode)
        for split, mode, path in chosen
    }
    parts = sorted(set().union(*(report.parts for report in reports.values())))
    print(_table(reports, supp_idxs))
    lacking = _print_missing(reports, supp_idxs, raw)
    broken = sorted(set().union(*(report.broken for report in reports.values())))
    broken += _calibration_problems(parts, recordings)
    if deep:
        origin = (root, depth_root, hints_root)
        broken += [problem for problem in spread(_read, parts, jobs, _open, origin) if problem]
    print_problems(broken, "broken files or databases", "broken file or database")
    complete = sum(report.num_complete for report in reports.values())
    print(f"{complete} of {sum(report.num_items for report in reports.values())} items are complete")
    if not broken:
        print(
            f"{len(parts)} files read to their end, none broken" if deep else "files not read (--deep does)"
        )
    return int(bool(lacking or broken))


def _table(reports: dict[tuple[str, str], SplitReport], offsets: list[int]) -> str:
    """One row per split and mode: bad lines, complete items, and how many items have what."""
    from trainer.data.kitti_raw.check import PUBLISHED, columns

    head = ["split", "mode", "lines", "published", "bad lines", "complete", *columns(offsets)]
    rows = [head]
    for (split, mode), report in reports.items():
        lines = report.num_items + len(report.bad_lines)
        counts = [report.num_complete, *(report.there[column] for column in columns(offsets))]
        published = PUBLISHED.get((split, mode), "-")
        rows.append([split, mode, *map(str, [lines, published, len(report.bad_lines), *counts])])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _print_missing(reports: dict[tuple[str, str], SplitReport], offsets: list[int], raw: Path) -> int:
    """Name absent dates and drives, bad lines, missing pictures; return how many keep items from being loaded."""
    from trainer.data.files.splits import counted
    from trainer.data.kitti_raw.check import needed, other_data

    absent: Counter[str] = Counter()
    for report in reports.values():
        absent += report.absent_drives
    places: Counter[str] = Counter()  # a date of which there is nothing stands for its drives
    for drive, num_items in absent.items():
        date = drive.partition("/")[0]
        places[drive if (raw / date).is_dir() else f"{date} (all of it)"] += num_items
    largest_first = sorted(places.items(), key=lambda entry: (-entry[1], entry[0]))
    told = [f"{place}: {counted(n, 'item')}" for place, n in largest_first]
    print_problems(told, "dates or drives are absent", "date or drive is absent")
    count = len(places)
    for (split, mode), report in reports.items():
        if other := other_data(report):
            print(f"{split} {mode} names {other}: they are no raw items")
            continue
        where = f"{split} {mode}"
        print_problems(report.bad_lines, f"bad lines in {where}", f"bad line in {where}", _SHOWN)
        count += len(report.bad_lines)
        for column in needed(offsets, mode):
            names = [s for s in report.missing.get(column, []) if s.rpartition("/image")[0] not in absent]
            what = column if column == "target" else f"support {column}"
            print_problems(
                names, f"items of {where} lack their {what}", f"item of {where} lacks its {what}", _SHOWN
            )
            count += len(names)
    return count


def _calibration_problems(parts: list[Part], recordings: Recordings) -> list[str]:
    """Read the calibration of every date that has a LiDAR scan in use."""
    dates = sorted({_date(part.place) for part in parts if part.kind == "scan"})
    return [problem for date in dates if (problem := _calibration_problem(date, recordings))]


def _calibration_problem(date: str, recordings: Recordings) -> str:
    from trainer.data.base import DataError

    try:
        recordings.read_calibration(date)
    except DataError as error:
        return str(error)
    return ""


def _date(place: str) -> str:
    """Date of `.../<date>/<drive>/velodyne_points/data/<frame>`."""
    return place.split("/")[-5]


_recordings: Recordings  # of a process of `spread`


def _open(*origin: str | None) -> None:
    global _recordings
    from trainer.data.kitti_raw.places import open_recordings

    _recordings = open_recordings(*origin)[1]


def _read(part: Part) -> str:
    from trainer.data.kitti_raw.check import read_part

    return read_part(part, _recordings)
