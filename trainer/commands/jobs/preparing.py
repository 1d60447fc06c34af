"""What the jobs of `prepare` share: work spread over all cores with a progress bar, and options of KITTI."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def add_kitti_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --root and --depth-root."""
    add = parser.add_argument
    add(
        "--root", metavar="DIR", help="folder that is, or contains, kitti_raw_sync; default: the usual places"
    )
    add("--depth-root", metavar="DIR", help="annotated depth; default: in or beside the raw folder")


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --splits and --splits-dir."""
    add = parser.add_argument
    add("--splits", nargs="+", metavar="NAME", help="only these splits; default: all that are there")
    add(
        "--splits-dir",
        type=Path,
        metavar="DIR",
        help="folder of splits; default: in or beside the raw folder",
    )


def add_jobs_argument(parser: argparse.ArgumentParser) -> None:
    """Add --jobs."""
    parser.add_argument(
        "--jobs", type=_positive, default=num_cores(), metavar="N", help="processes (default: one per core)"
    )


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes: 1 or more")
    return int(text)


def store(path: Path, content: bytes | memoryview) -> None:
    """Write a file in one step, with the folders above it. Raises CannotWrite."""
    from trainer.runtime.files import make_folder, replacing

    make_folder(path.parent)
    with replacing(path) as staged, open(staged, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def clean_stale_under(folders: Iterable[Path]) -> None:
    """Delete what a run that was killed left unfinished in these folders."""
    from trainer.runtime.files import clean_stale

    for folder in set(folders):
        clean_stale(folder)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int,
    setup: Callable[..., None] | None = None,
    setup_args: tuple[Any, ...] = (),
    unit: str = "file",
    done: int = 0,
) -> Iterator[Result]:
    """Yield `work(task)` of every task in order, computed by `jobs` processes, under a progress bar.

    `setup(*setup_args)` runs once per process. `work` and `setup` are module-level functions; `done` tasks of an
    earlier run count as finished. An error of a task ends it all. Raises UserError when a process is killed.
    """
    from tqdm import tqdm

    bar: dict[str, Any] = {"total": done + len(tasks), "initial": done, "unit": unit, "disable": None}
    if jobs <= 1 or len(tasks) <= 1:
        if setup:
            setup(*setup_args)
        yield from tqdm(map(work, tasks), **bar)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    from trainer.runtime.errors import UserError

    # Forked copies of a process with threads (torch, OpenCV) can hang.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    jobs = min(jobs, len(tasks))
    chunk = max(1, min(16, len(tasks) // (4 * jobs)))
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(setup, setup_args))
    try:
        yield from tqdm(pool.map(work, tasks, chunksize=chunk), **bar)
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {jobs} processes was killed, most likely for want of memory. Give a lower --jobs; the same"
            " command continues"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(setup: Callable[..., None] | None, setup_args: tuple[Any, ...]) -> None:
    """Set a process up; it ends with the one that started it, which may be killed without a word.

    Ctrl-C reaches all of them, and only the first speaks: files are whole or absent, so the others may just leave.
    """
    import signal
    import threading

    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if setup:
        setup(*setup_args)


def _leave_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def print_problems(problems: Sequence[str], what: str, one: str = "", shown: int = 20) -> None:
    """Count problems, `what` or `one` of them, and name the first ones; nothing for none."""
    if not problems:
        return
    print(f"{len(problems)} {(one if len(problems) == 1 else '') or what}:")
    for problem in problems[:shown]:
        print(f"  {problem}")
    if len(problems) > shown:
        print(f"  ... and {len(problems) - shown} more")
