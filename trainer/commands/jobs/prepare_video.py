"""`monodepth prepare video`: films as folders of frames for dataset.type=folder, and what may go wrong with them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from trainer.commands.jobs.preparing import Lost, apart, print_problems
from trainer.data.clips.films import decode, find_done, finished
from trainer.data.clips.sources import Source, choose_workers, find_films, named_counts
from trainer.data.clips.survey import Survey, report_all, too_few
from trainer.data.files.splits import counted
from trainer.runtime.errors import UserError, first_lines
from trainer.runtime.files import CannotWrite, write_text
from trainer.runtime.locks import locked
from trainer.runtime.optional import require
from trainer.tracking.progress import counting

PAGE = "survey.html"


class Task(NamedTuple):
    """A film for a process."""

    source: Source
    out: Path | None  # None: only look at it
    every: int


def run(videos: list[Path], out: Path, every: int, report_only: bool, workers: int | None) -> int:
    """Decode what is missing, print a report for each film; return 1 when there are warnings or films left out."""
    require("av", "video", "Decoding videos")
    require("cv2", "hints", "Looking through videos")
    sources, others = find_films(videos, out)
    if others:
        print(f"not taken for films: {named_counts(others)}")
    with nullcontext() if report_only else locked(out, "choose another --out"):
        surveys, left_out = _all(sources, None if report_only else out, every, workers)
        if not surveys:
            raise UserError("\n".join(["no film is left:", *first_lines(left_out)]) if left_out[1:] else left_out[0])
        if not report_only:
            _write_page(out, left_out)
    alone = len(sources) == 1
    if not alone:
        print("\n  ".join(["in all", *report_all(surveys)]))
    print_problems(left_out, "films are left out", "film is left out")
    if not report_only:
        print(f"with pictures: {out / PAGE}")
    gaps = [survey.frame_gap for survey in surveys if survey.kept]
    if gaps and not report_only:
        print(f"the camera is unknown: add dataset.fov=<degrees>, or write {out}/K.txt (fx fy cx cy)")
        settings = [f"dataset.path={out}", f"dataset.frame_gap={max(gaps)}"]
        name = _run_name(videos[0].stem if len(videos) == 1 else out.absolute().name)
        print(f"train on them: monodepth train -c real/folder -n {name} --set {shlex.join(settings)}")
    return int(bool(left_out or too_few(surveys)) or any(survey.warnings(alone) for survey in surveys))


def _all(
    sources: Sequence[Source], out: Path | None, every: int, workers: int | None
) -> tuple[list[Survey], list[str]]:
    """Decode films and print their reports, in their order; returns the surveys, and why others are left out."""
    known = {place: found for place, source in enumerate(sources) if (found := _known(source, out, every))}
    done = sum(isinstance(found, Survey) for found in known.values())
    if done and len(sources) > 1:
        print(f"{done} of {counted(len(sources), 'film')} were looked at before")
    missing = [place for place in range(len(sources)) if place not in known]
    outcomes = _outcomes([Task(sources[place], out, every) for place in missing], workers)
    results: dict[int, Survey | str] = {}
    shown = 0
    for place, result in chain(known.items(), ((missing[number], outcome) for number, outcome in outcomes)):
        results[place] = result
        while shown in results:
            _show(sources[shown], results[shown], len(sources) == 1)
            shown += 1
    surveys = [result for _, result in sorted(results.items()) if isinstance(result, Survey)]
    return surveys, [text for _, text in sorted(results.items()) if isinstance(text, str)]


def _known(source: Source, out: Path | None, every: int) -> Survey | str | None:
    """Return the survey of a film that is done, or why it cannot be; else None."""
    try:
        return find_done(source, out, every) if out else None
    except UserError as error:
        return str(error)


def _outcomes(tasks: Sequence[Task], workers: int | None) -> Iterator[tuple[int, Survey | str]]:
    """Decode films; yield the place of each and its survey, or why it is left out."""
    if len(tasks) <= 1:
        for task in tasks:
            with counting(task.source.path.name, None, unit="frame") as count:
                result = survey_or_reason(task, count)
            yield 0, result
        return
    number, reason = (workers, "") if workers else choose_workers(len(tasks))
    if reason:
        print(f"{counted(number, 'worker')}, for {reason}; --workers chooses")
    with counting("read", None, unit="frame") as count:
        for place, found in apart(survey_or_reason, tasks, number, count):
            yield place, f"{tasks[place].source.path}: {found.reason}" if isinstance(found, Lost) else found


def survey_or_reason(task: Task, tick: Callable[[], None]) -> Survey | str:
    """Decode a film; returns its survey, or why it is left out. Raises CannotWrite, which is no fault of a film."""
    try:
        return decode(*task, tick)
    except CannotWrite:
        raise
    except UserError as error:
        return str(error)


def _show(source: Source, result: Survey | str, alone: bool) -> None:
    if isinstance(result, Survey):
        lines = [*result.report(), *(f"warning: {text}" for text in result.warnings(alone))]
        print("\n  ".join([str(source.path), *lines]), flush=True)


def _write_page(out: Path, left_out: Sequence[str]) -> None:
    from trainer.tables.report.films import make_page

    write_text(out / PAGE, make_page(out, finished(out), left_out))


def _run_name(text: str) -> str:
    """Name a run after a film or a folder, so that those of two films do not meet in one folder."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.-")[:50] or "film"  # 200 bytes in any alphabet
