"""Stop signals: the first SIGTERM, SIGINT, SIGUSR1 or SIGHUP is noted and obeyed after the step; Ctrl-C is answered."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

PATIENCE = 3.0  # seconds after which a second signal ends the process
BETWEEN_KEYS = 0.3  # likewise, for a second Ctrl-C


class Preempted(Exception):
    """The run was asked to stop, has saved its state and leaves; `signum` gives the exit code 128 + signum."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def _stopping() -> tuple[signal.Signals, ...]:
    """Return the stop signals of this system, without a SIGHUP (closed terminal) that `nohup` ignores.

    Under an elastic launcher SIGHUP stays: the launcher passes it on, whatever `nohup` says, and then kills.
    """
    names = ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"]
    hangup = getattr(signal, "SIGHUP", None)
    if "TORCHELASTIC_RUN_ID" not in os.environ and hangup and signal.getsignal(hangup) == signal.SIG_IGN:
        names.remove("SIGHUP")
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


class StopSignals:
    """Catch stop signals while a run trains; one more than `PATIENCE` seconds after the first ends the process.

    Launchers and schedulers often deliver one request twice within moments. Enter it once the process group exists: a
    rank that ignores SIGTERM while it waits for others cannot be ended. A second Ctrl-C raises KeyboardInterrupt.

    Args:
        answer: printed to stderr at the first Ctrl-C, "" = nothing.
    """

    handled = _stopping()  # as the process was started

    def __init__(self, answer: str = "") -> None:
        self.answer = answer
        self.received: int | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._previous = {s: signal.signal(s, self._note) for s in self.handled}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._since = signum, now
            if signum == signal.SIGINT and self.answer:
                # In a thread: the signal may have interrupted a print, which cannot be entered twice.
                threading.Thread(target=self._tell, daemon=True).start()
        elif signum == signal.SIGINT == self.received and now - self._since > min(BETWEEN_KEYS, PATIENCE):
            raise KeyboardInterrupt
        elif now - self._since > PATIENCE:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)

    def _tell(self) -> None:
        """Print the answer below the ^C that the terminal shows; a progress display puts it above its bars."""
        with suppress(OSError, ValueError):
            print(f"{chr(10) if sys.stderr.isatty() else ''}{self.answer}", file=sys.stderr, flush=True)
