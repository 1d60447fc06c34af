"""Progress displays: how far a run is, in three looks behind one interface, and how far any other job is.

- `rich`: live bars on a terminal, for training.
- `tqdm`: a bar on stderr without threads or captured streams, so that `breakpoint()` works in the loop.
- `plain`: whole lines, for log files; the other two fall back to it without a terminal.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TextIO, get_args

from models_zoo.registry import did_you_mean
from trainer.runtime.errors import UserError
from trainer.tracking.looks.display import Progress, Seconds
from trainer.tracking.looks.plain import Plain
from trainer.tracking.looks.rich_bars import Rich
from trainer.tracking.looks.tqdm_bar import Tqdm, open_bar

LINE_SECONDS = 60  # between the lines of `counting`, where there is no terminal

Kind = Literal["auto", "rich", "tqdm", "plain"]


@contextmanager
def counting(
    job: str,
    total: int | None,
    *,
    done: int = 0,
    unit: str = "item",
    is_main: bool = True,
    stream: TextIO | None = None,
    clock: Seconds = time.monotonic,
) -> Iterator[Callable[..., None]]:
    """Show how many items a job has done: a bar on a terminal, elsewhere a line a minute.

        with counting("depth", len(dataset), is_main=rank == 0) as count:
            for item in my_share:
                count(world)  # as many on each process; a plain `count()` counts one

    Args:
        total: number of items, None if unknown. done: items of an earlier start.
        is_main: False shows nothing.
        stream: stderr by default. clock: seconds.
    """
    stream, shown = stream or sys.stderr, clock()
    bar = open_bar(job, total, done, stream, unit) if is_main and _is_terminal(stream) else None

    def count(n: int = 1) -> None:
        nonlocal done, shown
        n = n if total is None else min(n, total - done)
        done += n
        if bar is not None:
            bar.update(n)
        elif is_main and clock() - shown >= LINE_SECONDS:
            shown = clock()
            of = "" if total is None else f" of {total}"
            print(f"{job}: {done}{of} {unit}s", file=stream, flush=True)

    try:
        yield count
    finally:
        if bar is not None:
            bar.close()


def make_progress(
    kind: Kind,
    *,
    is_main: bool,
    total_epochs: int,
    steps_per_epoch: int,
    budget: Seconds = lambda: math.inf,
    stream: TextIO | None = None,
    clock: Seconds = time.monotonic,
) -> Progress:
    """Build the progress display called `kind`; "auto" is rich. Raises UserError for an unknown kind.

    `stream` is stdout by default, stderr for tqdm. Without a terminal that can move its cursor every kind is plain, and
    off the main process it is silent. `clock` gives seconds, and `budget` those that the training may still take.
    """
    if kind not in get_args(Kind):
        raise UserError(f"progress: {kind!r} is not a kind. {did_you_mean(kind, get_args(Kind))}")
    if not is_main:
        return Progress()
    look: Callable[..., Progress] = {"auto": Rich, "rich": Rich, "tqdm": Tqdm, "plain": Plain}[kind]
    stream = stream or (sys.stderr if look is Tqdm else sys.stdout)
    if not _is_terminal(stream):
        look = Plain
    return look(total_epochs, steps_per_epoch, budget, stream, clock)


def _is_terminal(stream: TextIO) -> bool:
    """Return whether bars can be drawn: on a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
