"""The display of a run: what every look is asked, the position in the run, and the texts that all looks print."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TextIO

PACE_STEPS, PACE_SECONDS = 10, 60  # of a start, whichever comes first, before the time of its end is estimated

Info = Mapping[str, float | str]
Seconds = Callable[[], float]


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


class Shown(Progress):
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
        took = f"done in {hms(self._clock() - self._began)}"
        self.message("  ".join([self._where(), took, *words(info)]))

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
                self.message(f"trainer.max_minutes ends training in {hms(budget)}, {_at(budget)}, {where} or earlier")
            elif left >= 60:
                self.message(f"at this pace training ends in {hms(left)}, {_at(left)}; validations come on top")

    def _left(self, rate: float) -> str:
        """Write the time that training still takes, at `rate` steps per second."""
        return f"{hms(min(self._steps_left() / rate, self._budget()))} left"

    def _steps_left(self) -> int:
        return (self._epochs - self._epoch) * self._steps - self._step

    def _where(self) -> str:
        return f"epoch {self._epoch + 1}/{self._epochs}"


def words(info: Info | None) -> list[str]:
    """Turn {"loss": 0.123456, "data": "3 %"} into ["loss 0.1235", "data 3 %"]."""
    items = (info or {}).items()
    return [f"{name} {value}" if isinstance(value, str) else f"{name} {value:.4g}" for name, value in items]


def pace(rate: float) -> str:
    """Write steps per second, or seconds per step for less than one."""
    return f"{rate:.3g} it/s" if rate >= 1 else f"{1 / rate:.3g} s/it"


def _at(seconds: float) -> str:
    """Write the time of day after so many seconds, with the date unless it is today's."""
    now, then = datetime.now(), datetime.now() + timedelta(seconds=seconds)
    return then.strftime("at %H:%M" if then.date() == now.date() else "on %Y-%m-%d at %H:%M")


def hms(seconds: float) -> str:
    """Write a duration as 0:05, 12:34 or 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
