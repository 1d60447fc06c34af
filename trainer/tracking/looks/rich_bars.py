"""The look of a terminal: live bars for run, epoch and validation, drawn by rich."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from trainer.runtime.errors import printable
from trainer.tracking.looks import display
from trainer.tracking.looks.display import Info, Seconds, Shown


class Rich(Shown):
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
        fields = {} if info is None else {"info": "  ".join(display.words(info))}
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


def _rich_bars(console: Any, budget: Seconds, clock: Seconds) -> Any:
    """Build the bars with their columns: name, bar, count, steps per second, time left within the budget, info."""
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(display.pace(task.speed) if task.speed else "", style="cyan")

    class Left(TimeRemainingColumn):
        def render(self, task: Any) -> Text:
            left = budget()
            if task.description == "validation" or left >= (task.time_remaining or 0.0):
                return super().render(task)
            return Text(display.hms(left), style="progress.remaining")

    columns = (
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}", markup=False),
        Rate(),
        Left(elapsed_when_finished=True),
        TextColumn("{task.fields[info]}", markup=False),
    )
    return Progress(*columns, console=console, get_time=clock)
