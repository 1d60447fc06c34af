"""The look of a debugger's terminal: one tqdm bar without threads or captured streams, also for other jobs."""

from __future__ import annotations

import os
from typing import Any, TextIO

from trainer.runtime.errors import printable
from trainer.tracking.looks import display
from trainer.tracking.looks.display import Info, Shown

# Steps, time and numbers of train_dev within 80 columns: without the percentage and the time gone by.
BAR_FORMAT = "{desc} {n_fmt}/{total_fmt} |{bar}| {remaining} left {rate_fmt}{postfix}"
SHORT = {"waiting for data": "data"}


class Tqdm(Shown):
    """One bar, redrawn only inside `advance`: nothing runs beside the loop or touches stdin and stdout."""

    _bar: Any = None

    def epoch(self, epoch: int, done: int = 0) -> None:
        super().epoch(epoch, done)
        self._open(self._where(), self._steps, done)

    def advance(self, info: Info | None = None) -> None:
        if info is not None:
            words = display.words({SHORT.get(name, name): value for name, value in info.items()})
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
        self._bar = open_bar(description, total, done, self._stream, bar_format=BAR_FORMAT)


def open_bar(description: str, total: int | None, done: int, stream: TextIO, unit: str = "it", **options: Any) -> Any:
    """Open a tqdm bar, redrawn in `update` alone and removed by `close`."""
    import tqdm

    class Bar(tqdm.tqdm):
        monitor_interval = 0  # tqdm's monitor thread would draw while a debugger waits for input

    # Some containers report a width of 0, and a terminal may have been closed.
    known = stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
    shape: dict[str, Any] = {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}
    return Bar(total=total, initial=done, desc=description, file=stream, leave=False, unit=unit, **shape, **options)
