"""What the jobs of `prepare` share: the page, work spread over processes, whole files, lists of problems."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shlex
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from trainer.commands.cli import fill_in
from trainer.config import Config, load_config
from trainer.config.plugins import load_plugins, with_plugins
from trainer.data.files.paths import expanded
from trainer.runtime.errors import UserError
from trainer.runtime.files import clean_stale, make_folder, write_bytes
from trainer.tracking.progress import counting

Task = TypeVar("Task")
Result = TypeVar("Result")
Setup = Callable[[], None] | None


def open_page(args: argparse.Namespace) -> tuple[Config, list[str], list[str]]:
    """Read the page whose data set is prepared. Returns it, the parts that are asked for, the words that name it."""
    load_plugins(args.plugins)
    words = [*map(str, args.cfg_file), *(["-d", *map(str, args.cfg_default)] if args.cfg_default else [])]
    fill_in(args)
    cfg = load_config(args.cfg_file, args.cfg_default, args.set, training=False)
    return cfg, args.mode or ["train", *(["val"] if cfg.trainer.limit_val_batches else [])], words


def training(words: Sequence[str], settings: Sequence[str], plugins: Sequence[str]) -> str:
    """Return the command that trains on what was prepared."""
    return with_plugins(shlex.join(["monodepth", "train", "-c", *words, "--set", *settings]), plugins)


def store(path: Path, content: bytes | memoryview) -> None:
    """Write a file in one step, with the folders above it. Raises CannotWrite."""
    make_folder(path.parent)
    write_bytes(path, content)


def clean_stale_under(folders: Iterable[Path]) -> None:
    """Delete the unfinished files of a killed run in these folders."""
    for folder in set(folders):
        clean_stale(folder)


def spread(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int,
    setup: Setup = None,
    unit: str = "file",
    done: int = 0,
) -> Iterator[Result]:
    """Yield `work(task)` of every task in order, computed by `jobs` processes, and show the progress.

    `setup` runs once per process. `work` and `setup` must be picklable; `done` tasks of an earlier run count as
    finished. An error of a task ends everything. Raises UserError when a process is killed.
    """
    with counting("done", done + len(tasks), done=done, unit=unit) as count:
        for result in _results(work, tasks, jobs, setup):
            count()
            yield result


def _results(work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, setup: Setup) -> Iterator[Result]:
    if jobs <= 1 or len(tasks) <= 1:
        if setup:
            setup()
        yield from map(work, tasks)
        return
    context = _processes(work.__module__)
    jobs = min(jobs, len(tasks))
    chunk = max(1, min(16, len(tasks) // (4 * jobs)))
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(setup,))
    try:
        yield from pool.map(work, tasks, chunksize=chunk)
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {jobs} processes was killed, most likely for want of memory. Give a lower --jobs; the same"
            " command continues"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(setup: Setup) -> None:
    """Set a process up. It ends with its parent, which may be killed without notice.

    Ctrl-C reaches all processes, and only the parent reports it: files are whole or absent, so the others just leave.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if setup:
        setup()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Lost(NamedTuple):
    """What became of a task without a result."""

    reason: str


def apart(
    work: Callable[[Task, Callable[[], None]], Result],
    tasks: Sequence[Task],
    workers: int,
    tick: Callable[[int], None],
) -> Iterator[tuple[int, Result | Lost]]:
    """Compute `work(task, tick)` of every task in a process of its own, `workers` at a time.

    Yields the place of a task and its result, as they come. A process that crashes or is killed, and an unexpected
    error, cost this task alone; a UserError ends everything. What `tick` is called for there is told here, about once
    a second. `work` must be picklable.
    """
    context = _processes(work.__module__)
    waiting = deque(enumerate(tasks))
    running: dict[Any, tuple[int, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                place, task = waiting.popleft()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work_apart, args=(theirs, work, task), daemon=True)
                process.start()
                theirs.close()
                running[ours] = place, process
            ready: list[Any] = wait(list(running))
            for pipe in ready:
                place, process = running[pipe]
                message = _heard(pipe, process)
                if isinstance(message, int):
                    tick(message)
                    continue
                del running[pipe]
                process.join()
                if isinstance(message, UserError):
                    raise message
                yield place, message
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _heard(pipe: Any, process: Any) -> Any:
    """Return the next message of a process, Lost when it has died."""
    try:
        return pipe.recv()
    except EOFError:
        process.join()
        return Lost(_why_ended(process.exitcode))


def _work_apart(pipe: Any, work: Callable[[Task, Callable[[], None]], Any], task: Task) -> None:
    _begin(None)
    ticks, told = 0, time.monotonic()

    def tick() -> None:
        nonlocal ticks, told
        ticks += 1
        if time.monotonic() - told >= 1:
            pipe.send(ticks)
            ticks, told = 0, time.monotonic()

    try:
        result = work(task, tick)
    except UserError as error:
        result = error
    except Exception as error:  # of one task among many, and told as its result
        result = Lost(f"unexpected {type(error).__name__}: {error}. Alone, it shows where")
    pipe.send(ticks)
    pipe.send(result)


def _why_ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "its process was killed, most likely for want of memory. Give fewer --workers; the same command continues"
        )
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"its process crashed ({name}) while it was decoded. Convert it: ffmpeg -i FILM -c:v libx264 -crf 18 OUT"


def _processes(module: str) -> Any:
    """Return what starts processes that have `module` imported already."""
    # Forked copies of a process with threads (torch, OpenCV) can hang.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([module])  # imported once, not once per process
    return context


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Task], Result], tasks: Iterable[Task], count: int
) -> Iterator[Result]:
    """Yield `work(task)` of every task in order, with at most `count` of them begun or waiting ahead."""
    queue: deque[Future[Result]] = deque()
    for task in tasks:
        queue.append(pool.submit(work, task))
        if len(queue) > count:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def root_in(cfg: Config, key: str, what: str) -> Path:
    """Return the folder that `dataset.<key>` of the training names, which holds `what`. Raises UserError without it."""
    root = cfg.dataset_kwargs("train")[1].get(key)
    if root is None:
        raise UserError(f"--out is required: the folder for {what}, dataset.{key} of the training")
    return expanded(root)


def print_problems(problems: Sequence[str], what: str, one: str = "", shown: int = 20) -> None:
    """Print the number of problems, as `what` or `one` of them, and the first ones; nothing for none."""
    if not problems:
        return
    print(f"{len(problems)} {(one if len(problems) == 1 else '') or what}:")
    for problem in problems[:shown]:
        print(f"  {problem}")
    if len(problems) > shown:
        print(f"  ... and {len(problems) - shown} more")
