"""What tests of progress displays share: a clock, a terminal, and a run of two epochs."""

from __future__ import annotations

import os
import pty
import threading
from typing import TextIO

from trainer.tracking.looks.display import Progress
from trainer.tracking.progress import make_progress


class Clock:
    """A clock that only moves when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal:
    """A pseudo terminal: `stream` is written to, `text()` closes it and says what arrived."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w")
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 4096):
                self._seen += data
        except OSError:  # EIO: the writing end was closed
            pass

    def text(self) -> str:
        self.stream.close()
        self._reader.join()
        return self._seen.decode()

    def close(self) -> None:
        self.text()
        os.close(self._master)


def make(
    kind: str, stream: TextIO, clock: Clock, epochs: int = 2, steps: int = 4, is_main: bool = True, **more: object
) -> Progress:
    sizes = {"total_epochs": epochs, "steps_per_epoch": steps}
    return make_progress(kind, is_main=is_main, stream=stream, clock=clock, **sizes, **more)  # type: ignore[arg-type]


def train(kind: str, stream: TextIO, is_main: bool = True) -> None:
    """Two epochs of four steps, one second each; info every two steps; three batches of validation."""
    clock = Clock()
    with (progress := make(kind, stream, clock, is_main=is_main)):
        for epoch in range(2):
            progress.epoch(epoch)
            for step in range(1, 5):
                clock.now += 1
                progress.advance({"loss": 0.123456, "data": "3 %"} if step % 2 == 0 else None)
            progress.validation(total=3)
            for _ in range(3):
                clock.now += 10
                progress.advance()
            progress.end_epoch({"AbsRel": 11.5})
        progress.message("[1/2] a note")
    progress.summary({"best AbsRel": "11.5 % (epoch 1)", "files": "models/a/042"}, title="Finished")
