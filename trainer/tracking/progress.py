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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Literal, TextIO, get_args

from models_zoo.registry import did_you_mean
from trainer.runtime.errors import UserError, printable
from trainer.runtime.silence import Silence

PACE_STEPS, PACE_SECONDS = 10, 60  # of a start, whichever comes first, before the time of its end is estimated
# Steps, time and numbers of train_dev within 80 columns: without the percentage and the time gone by.
BAR_FORMAT = "{desc} {n_fmt}/{total_fmt} |{bar}| {remaining} left {rate_fmt}{postfix}"
SHORT = {"waiting for data": "data"}
STEP_SECONDS = 10  # between lines of steps, where there is no terminal; a step that takes longer has its line
BEAT_SECONDS = 60  # of silence there, after which a line says what goes on
LINE_SECONDS = 60  # between the lines of `counting`, where there is no terminal

Kind = Literal["auto", "rich", "tqdm", "plain"]
Info = Mapping[str, float | str]
Seconds = Callable[[], float]


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
    bar = _bar(job, total, done, stream, unit) if is_main and _is_terminal(stream) else None

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


class Progress:
    """Display of a run; this one, of processes other than the main one, shows nothing.

    As a context manager it gives the terminal back on leaving, after an error too.

    Steps are optimizer steps. `info` is shown beside the bar, {"loss": 0.12, "data": "3 %"}, numbers with four digits;
    None keeps the previous one.
    """

    def epoch(self, epoch: int, done: int = 0) -> None:
        """Begin epoch `epoch`, counted from 0, with `done` steps already taken (after a resume)."""

    def advance(self, info: Info | None = None) -> None:
        """Count one training step, or one batch after `validation`."""

    def validation(self, total: int) -> None:
        """Begin a validation of `total` batches, which ends with `end_epoch` or the next `epoch`."""

    def end_epoch(self, info: Info | None = None) -> None:
        """End the epoch and show its result."""

    def message(self, text: str) -> None:
        """Print a text without tearing the bar."""

    def summary(self, rows: Mapping[str, str], title: str = "") -> None:
        """Print a small table of names and values."""

    def close(self) -> None:
        """Stop drawing. Messages still work; a second call does nothing."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


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


class _Shown(Progress):
    """The position in the run, and the texts that all visible looks print."""

    def __init__(self, total_epochs: int, steps_per_epoch: int, budget: Seconds, stream: TextIO, clock: Seconds):
        self._epochs, self._steps, self._budget = total_epochs, steps_per_epoch, budget
        self._stream, self._clock = stream, clock
        self._epoch = self._step = 0
        self._began = clock()
        self._validating = False
        self._taken = 0  # steps of this start
        self._first_at: float | None = None  # when the first of them was done

    def epoch(self, epoch: int, done: int = 0) -> None:
        self._epoch, self._step = epoch, done
        self._began = self._clock()
        self._validating = False

    def validation(self, total: int) -> None:
        self._validating = True

    def end_epoch(self, info: Info | None = None) -> None:
        took = f"done in {_hms(self._clock() - self._began)}"
        self.message("  ".join([self._where(), took, *_words(info)]))

    def summary(self, rows: Mapping[str, str], title: str = "") -> None:
        width = max(map(len, rows), default=0)
        lines = [f"{name:<{width}}  {value}" for name, value in rows.items()]
        self.message("\n".join([title, *lines] if title else lines))

    def _count(self) -> None:
        """Count a training step. Once the first ones are done, say when training will end at their pace."""
        self._step += 1
        self._taken += 1
        now, steps = self._clock(), self._taken - 1  # the first one waits for workers and warms up
        if steps == 0:
            self._first_at = now
        elif self._first_at is not None and (
            steps >= PACE_STEPS or (steps > 1 and now - self._first_at >= PACE_SECONDS)
        ):
            pace, budget = (now - self._first_at) / steps, self._budget()
            left = self._steps_left() * pace
            self._first_at = None
            if left > budget:
                epoch = self._epoch + math.ceil((self._step + budget / pace) / self._steps)
                where = f"at this pace in epoch {epoch} of {self._epochs}"
                self.message(f"trainer.max_minutes ends training in {_hms(budget)}, {_at(budget)}, {where} or earlier")
            elif left >= 60:
                self.message(f"at this pace training ends in {_hms(left)}, {_at(left)}; validations come on top")

    def _left(self, rate: float) -> str:
        """Write the time that training still takes, at `rate` steps per second."""
        return f"{_hms(min(self._steps_left() / rate, self._budget()))} left"

    def _steps_left(self) -> int:
        return (self._epochs - self._epoch) * self._steps - self._step

    def _where(self) -> str:
        return f"epoch {self._epoch + 1}/{self._epochs}"


class Plain(_Shown):
    """Lines without carriage returns: a step every `STEP_SECONDS`, with the latest `info` and the pace since the last.

    The first `info` of a start is shown at once. Where nothing is printed for `BEAT_SECONDS`, a line says what goes on.
    """

    def __init__(self, total_epochs: int, steps_per_epoch: int, budget: Seconds, stream: TextIO, clock: Seconds):
        super().__init__(total_epochs, steps_per_epoch, budget, stream, clock)
        self._info: Info = {}
        self._due = clock() + STEP_SECONDS  # when the next line of a step is printed
        self._part_began, self._batches, self._batch = clock(), 0, 0  # of the step or validation in progress
        self._silence = Silence(self.message, BEAT_SECONDS, repeat=True, clock=clock)

    def epoch(self, epoch: int, done: int = 0) -> None:
        super().epoch(epoch, done)
        self._printed, self._printed_at = done, self._began
        self._part_began = self._began
        self._silence.doing(self._going_on, keep=True)

    def advance(self, info: Info | None = None) -> None:
        if self._validating:
            self._batch += 1
            return
        self._count()
        now, is_first = self._clock(), info is not None and not self._info
        self._part_began, self._info = now, self._info if info is None else info
        if now < self._due and not is_first:
            return
        rate = (self._step - self._printed) / max(now - self._printed_at, 1e-9)
        self._printed, self._printed_at, self._due = self._step, now, now + STEP_SECONDS
        pace = [_pace(rate), self._left(rate)] if self._taken > 1 else []  # the first warms up
        self.message("  ".join([self._where(), f"step {self._step}/{self._steps}", *_words(self._info), *pace]))

    def validation(self, total: int) -> None:
        super().validation(total)
        self._batches, self._batch = total, 0
        self.message(f"{self._where()}  validating on {total} batches")

    def end_epoch(self, info: Info | None = None) -> None:
        super().end_epoch(info)
        self._validating, self._part_began = False, self._clock()

    def message(self, text: str) -> None:
        self._silence.heard()
        print(printable(text, keep="\n\t"), file=self._stream, flush=True)

    def close(self) -> None:
        self._silence.doing(None)

    def _going_on(self) -> str:
        """Say what is in progress."""
        if self._validating:
            return f"{self._where()}  validation, {self._batch} of {self._batches} batches done"
        what = f"step {self._step + 1}/{self._steps}" if self._step < self._steps else "saving and drawing"
        return f"{self._where()}  {what}, for {_hms(self._clock() - self._part_began)} so far"


class Tqdm(_Shown):
    """One bar, redrawn only inside `advance`: nothing runs beside the loop or touches stdin and stdout."""

    _bar: Any = None

    def epoch(self, epoch: int, done: int = 0) -> None:
        super().epoch(epoch, done)
        self._open(self._where(), self._steps, done)

    def advance(self, info: Info | None = None) -> None:
        if info is not None:
            words = _words({SHORT.get(name, name): value for name, value in info.items()})
            self._bar.set_postfix_str(" ".join(words), refresh=False)
        self._bar.update()
        if not self._validating:
            self._count()

    def validation(self, total: int) -> None:
        super().validation(total)
        self._open(f"{self._where()} validation", total)

    def end_epoch(self, info: Info | None = None) -> None:
        self.close()
        super().end_epoch(info)

    def message(self, text: str) -> None:
        import tqdm

        tqdm.tqdm.write(printable(text, keep="\n\t"), file=self._stream)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open(self, description: str, total: int, done: int = 0) -> None:
        self.close()
        self._bar = _bar(description, total, done, self._stream, bar_format=BAR_FORMAT)


class Rich(_Shown):
    """Live bars for run, epoch and validation; prints from elsewhere appear above them."""

    def __init__(self, total_epochs: int, steps_per_epoch: int, budget: Seconds, stream: TextIO, clock: Seconds):
        from rich.console import Console

        super().__init__(total_epochs, steps_per_epoch, budget, stream, clock)
        self._console = Console(file=stream)
        self._bars = _rich_bars(self._console, budget, clock)
        self._run: Any = None  # bar of the whole run, counted in steps
        self._part: Any = None  # bar of the epoch
        self._check: Any = None  # bar of the validation, while it lasts

    def epoch(self, epoch: int, done: int = 0) -> None:
        super().epoch(epoch, done)
        self._end_validation()
        made = epoch * self._steps + done
        if self._run is None:  # steps of an earlier start must not count as speed
            total = self._epochs * self._steps
            self._run = self._bars.add_task("run", total=total, completed=made, count=self._where(), info="")
            self._part = self._bars.add_task("epoch", total=self._steps, completed=done, count="", info="")
            self._bars.start()
        else:
            self._bars.update(self._run, completed=made, count=self._where())
            self._bars.reset(self._part, total=self._steps, completed=done)
        self._bars.update(self._part, count=f"{self._step}/{self._steps}")

    def advance(self, info: Info | None = None) -> None:
        fields = {} if info is None else {"info": "  ".join(_words(info))}
        if self._check is not None:
            self._bars.update(self._check, advance=1, **fields)
            return
        self._count()
        self._bars.update(self._run, advance=1)
        self._bars.update(self._part, advance=1, count=f"{self._step}/{self._steps}", **fields)

    def validation(self, total: int) -> None:
        super().validation(total)
        self._end_validation()
        self._check = self._bars.add_task("validation", total=total, count=f"{total} batches", info="")

    def end_epoch(self, info: Info | None = None) -> None:
        self._end_validation()
        super().end_epoch(info)

    def message(self, text: str) -> None:
        self._console.print(printable(text, keep="\n\t"), markup=False, highlight=False, soft_wrap=True)

    def summary(self, rows: Mapping[str, str], title: str = "") -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, show_header=False, title_justify="left")
        for name, value in rows.items():
            table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
        self._console.print(table)

    def close(self) -> None:
        self._end_validation()
        self._bars.stop()

    def _end_validation(self) -> None:
        if self._check is not None:
            self._bars.remove_task(self._check)
            self._check = None


def _is_terminal(stream: TextIO) -> bool:
    """Return whether bars can be drawn: on a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _bar(description: str, total: int | None, done: int, stream: TextIO, unit: str = "it", **options: Any) -> Any:
    """Open a tqdm bar, redrawn in `update` alone and removed by `close`."""
    import tqdm

    class Bar(tqdm.tqdm):
        monitor_interval = 0  # tqdm's monitor thread would draw while a debugger waits for input

    # Some containers report a width of 0, and a terminal may have been closed.
    known = stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
    shape: dict[str, Any] = {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}
    return Bar(total=total, initial=done, desc=description, file=stream, leave=False, unit=unit, **shape, **options)


def _rich_bars(console: Any, budget: Seconds, clock: Seconds) -> Any:
    """Build the bars with their columns: name, bar, count, steps per second, time left within the budget, info."""
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(_pace(task.speed) if task.speed else "", style="cyan")

    class Left(TimeRemainingColumn):
        def render(self, task: Any) -> Text:
            left = budget()
            if task.description == "validation" or left >= (task.time_remaining or 0.0):
                return super().render(task)
            return Text(_hms(left), style="progress.remaining")

    columns = (
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}", markup=False),
        Rate(),
        Left(elapsed_when_finished=True),
        TextColumn("{task.fields[info]}", markup=False),
    )
    return Progress(*columns, console=console, get_time=clock)


def _words(info: Info | None) -> list[str]:
    """Turn {"loss": 0.123456, "data": "3 %"} into ["loss 0.1235", "data 3 %"]."""
    items = (info or {}).items()
    return [f"{name} {value}" if isinstance(value, str) else f"{name} {value:.4g}" for name, value in items]


def _pace(rate: float) -> str:
    """Write steps per second, or seconds per step for less than one."""
    return f"{rate:.3g} it/s" if rate >= 1 else f"{1 / rate:.3g} s/it"


def _at(seconds: float) -> str:
    """Write the time of day after so many seconds, with the date unless it is today's."""
    now, then = datetime.now(), datetime.now() + timedelta(seconds=seconds)
    return then.strftime("at %H:%M" if then.date() == now.date() else "on %Y-%m-%d at %H:%M")


def _hms(seconds: float) -> str:
    """Write a duration as 0:05, 12:34 or 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
