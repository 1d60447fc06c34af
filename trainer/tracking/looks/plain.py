"""The look of a log: whole lines, regular in time, and one about what goes on where it would be silent."""

from __future__ import annotations

from typing import TextIO

from trainer.runtime.errors import printable
from trainer.runtime.silence import Silence
from trainer.tracking.looks import display
from trainer.tracking.looks.display import Info, Seconds, Shown

STEP_SECONDS = 10  # between lines of steps, where there is no terminal; a step that takes longer has its line
BEAT_SECONDS = 60  # of silence there, after which a line says what goes on


class Plain(Shown):
    """Lines without carriage returns: a step every `STEP_SECONDS`, with the latest `info` and the pace since the last.

    The first `info` of a start is shown at once. Where nothing is printed for `BEAT_SECONDS`, a line says what goes on.
    """

    def __init__(self, total_epochs: int, steps_per_epoch: int, budget: Seconds, stream: TextIO, clock: Seconds):
        super().__init__(total_epochs, steps_per_epoch, budget, stream, clock)
        self._info: Info = {}
        self._due = clock() + STEP_SECONDS  # when the next line of a step is printed
        self._printed, self._printed_at = 0, clock()  # the step of the latest line
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
        pace = [display.pace(rate), self._left(rate)] if self._taken > 1 else []  # the first warms up
        self.message("  ".join([self._where(), f"step {self._step}/{self._steps}", *display.words(self._info), *pace]))

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
        return f"{self._where()}  {what}, for {display.hms(self._clock() - self._part_began)} so far"
