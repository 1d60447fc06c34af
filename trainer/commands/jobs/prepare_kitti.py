"""`monodepth prepare kitti check`: what KITTI's splits need, how much of it is there, which files are broken."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from trainer.commands.jobs.preparing import print_problems, spread
from trainer.data.files.splits import choose_splits, counted
from trainer.data.kitti_raw import check
from trainer.data.kitti_raw.files import Recordings, read_split
from trainer.data.kitti_raw.lists import identify, read_list
from trainer.data.kitti_raw.places import open_recordings
from trainer.runtime.errors import DataError, UserError

_SHOWN = 5  # problems of a split that are listed


def run(
    root: str | None, depth_root: str | None, hints_root: str | None, splits: list[str] | None,
    splits_dir: Path | None, supp_idxs: list[int], deep: bool, jobs: int,
) -> int:  # fmt: skip
    """Count, print, read; return 1 when an item cannot be loaded or a file is broken."""
    raw, recordings = open_recordings(root, depth_root, hints_root)
    chosen = choose_splits(raw, splits, splits_dir)
    print(f"KITTI recordings in {raw}")
    reports = {
        (split, mode): check.check_split(read_split(path), supp_idxs, recordings, mode) for split, mode, path in chosen
    }
    named = [told for split, mode, path in chosen if (told := _content(split, mode, path, recordings))]
    parts = sorted(set().union(*(report.parts for report in reports.values())))
    print(_table(reports, supp_idxs))
    print("".join(f"{line}\n" for line in named), end="")
    lacking = _print_missing(reports, supp_idxs, raw)
    broken = sorted(set().union(*(report.broken for report in reports.values())))
    # .../<date>/<drive>/velodyne_points/data/<frame>
    dates = sorted({part.place.split("/")[-5] for part in parts if part.kind == "scan"})
    broken += [problem for date in dates if (problem := _calibration_problem(date, recordings))]
    if deep:
        setup = partial(_open, root, depth_root, hints_root)
        broken += [problem for problem in spread(_read, parts, jobs, setup) if problem]
    print_problems(broken, "broken files or databases", "broken file or database")
    complete = sum(report.num_complete for report in reports.values())
    print(f"{complete} of {sum(report.num_items for report in reports.values())} items are complete")
    if not broken:
        print(f"{len(parts)} files read to their end, none broken" if deep else "files not read (--deep does)")
    return int(bool(lacking or broken))


def _table(reports: dict[tuple[str, str], check.SplitReport], offsets: list[int]) -> str:
    """Tabulate per split and mode: bad lines, complete items, and how many items have what."""
    head = ["split", "mode", "lines", "published", "bad lines", "complete", *check.columns(offsets)]
    rows = [head]
    for (split, mode), report in reports.items():
        lines = report.num_items + len(report.bad_lines)
        counts = [report.num_complete, *(report.there[column] for column in check.columns(offsets))]
        published = check.PUBLISHED.get((split, mode), "-")
        rows.append([split, mode, *map(str, [lines, published, len(report.bad_lines), *counts])])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _content(split: str, mode: str, path: Path, recordings: Recordings) -> str:
    """Say what a list is by its content, where its name does not; "" for rendered drives, and lists of other data."""
    try:
        entry, frames = read_list(str(path), None, ())
    except UserError:  # bad lines are reported elsewhere
        return ""
    return "" if recordings.origin else identify(entry.digest, f"{split}/{mode}", frames, tests=mode == "test")


def _print_missing(reports: dict[tuple[str, str], check.SplitReport], offsets: list[int], raw: Path) -> int:
    """Print absent dates and drives, bad lines, missing pictures; return how many of them block an item."""
    absent = sum((report.absent_drives for report in reports.values()), Counter[str]())
    places: Counter[str] = Counter()  # a date without files stands for its drives
    for drive, num_items in absent.items():
        date = drive.partition("/")[0]
        places[drive if (raw / date).is_dir() else f"{date} (all of it)"] += num_items
    largest_first = sorted(places.items(), key=lambda entry: (-entry[1], entry[0]))
    lines = [f"{place}: {counted(n, 'item')}" for place, n in largest_first]
    print_problems(lines, "dates or drives are absent", "date or drive is absent")
    count = len(places)
    for (split, mode), report in reports.items():
        where = f"{split} {mode}"
        if other := check.other_data(report):
            print(f"{where} names {other}: they are no raw items")
            continue
        print_problems(report.bad_lines, f"bad lines in {where}", f"bad line in {where}", _SHOWN)
        count += len(report.bad_lines)
        for column in check.needed(offsets, mode):
            names = [s for s in report.missing.get(column, []) if s.rpartition("/image")[0] not in absent]
            what = column if column == "target" else f"support {column}"
            several, one = f"items of {where} lack their {what}", f"item of {where} lacks its {what}"
            print_problems(names, several, one, _SHOWN)
            count += len(names)
    return count


def _calibration_problem(date: str, recordings: Recordings) -> str:
    try:
        recordings.read_calibration(date)
    except DataError as error:
        return str(error)
    return ""


_recordings: Recordings  # of a process of `spread`


def _open(*origin: str | None) -> None:
    global _recordings
    _recordings = open_recordings(*origin)[1]


def _read(part: check.Part) -> str:
    return check.read_part(part, _recordings)
