"""Silence of a command: say what it is doing before somebody takes it for a hang."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

PATIENCE = 3.0  # seconds of silence at a start; what comes before Python reaches this file adds half a second


class Silence:
    """Call `say` with what is being done, once nothing was heard for `patience` seconds, or (`repeat`) each time.

    `look` is what a timer calls.
    """

    def __init__(
        self,
        say: Callable[[str], object],
        patience: float = PATIENCE,
        *,
        repeat: bool = False,
        clock: Callable[[], float] = time.monotonic,  # seconds
    ):
        self._say, self._patience, self._repeat, self._clock = say, patience, repeat, clock
        self._what: Callable[[], str] | None = None
        self._keep = False
        self._heard = clock()
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def doing(self, what: Callable[[], str] | None, keep: bool = False) -> None:
        """Note what is done up to the first output or, with `keep`, the next call; None = nothing."""
        with self._lock:
            self._what, self._keep = what, keep
            if what is not None and self._timer is None:
                self._arm(self._left())

    def heard(self) -> None:
        """Note that something was printed: silence begins anew."""
        self._heard = self._clock()
        if not self._keep:
            self._what = None

    def look(self) -> None:
        """Speak if it has been silent for too long, and look again later."""
        with self._lock:
            self._timer, what = None, self._what
            if what is None:
                return
            is_due = self._left() <= 0
            if is_due:
                self._heard = self._clock()
                self._what = what if self._repeat else None
            if self._what is not None:
                self._arm(self._left())
        if is_due:
            self._say(what())

    def _left(self) -> float:
        return self._heard + self._patience - self._clock()

    def _arm(self, seconds: float) -> None:
        self._timer = threading.Timer(max(seconds, 0.0), self.look)
        self._timer.daemon = True
        self._timer.start()


def busy_machine() -> str:
    """Return a remark when more threads want to run than this machine has cores, averaged over a minute; else "".

    The load covers the whole machine, also what runs outside a container. At a start it is that of other processes.
    """
    cores = os.cpu_count() or 1
    with suppress(AttributeError, OSError):  # Linux, macOS
        load = os.getloadavg()[0]
        if load > cores:
            return f"; other processes keep this machine busy: load {load:.1f} on {cores} core{'s' * (cores > 1)}"
    return ""
