"""One command at a time in a process of its own: its output goes to a log, signals to stop are passed on to it."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, BinaryIO

from trainer.runtime import files
from trainer.runtime.rundir import RunDir
from trainer.runtime.signals import StopSignals

LEFTOVERS_SECONDS = 60.0  # that what a launcher leaves behind may take to save


class Children:
    """Run commands one after the other. While it is entered, the signals that stop a training stop the running one.

    Each gets a session of its own, so that Ctrl-C in a terminal reaches it once, through here.
    """

    handled = StopSignals.handled

    def __init__(self) -> None:
        self.received: int | None = None  # the first signal
        self._process: subprocess.Popen[bytes] | None = None
        self._run: RunDir | None = None
        self._started = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Children:
        self._previous = {s: signal.signal(s, self._note) for s in self.handled}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def run(self, command: Sequence[str], log: Path, run: RunDir | None = None) -> int:
        """Run a command to its end and append what it says to `log`. Returns its exit code, 127 if it cannot start.

        Args:
            run: the folder that the command trains in; its `state.json` tells which process to ask to stop, for
                launchers of a single process pass nothing on.

        Raises CannotWrite when there can be no log.
        """
        with _appending(log) as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            self._run, self._started = run, time.time()
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
                )
            except OSError as error:
                file.write(f"{command[0]}: cannot be started: {error.strerror}\n".encode())
                return 127
            if self.received is not None:  # it came between the start and the line above
                self._pass_on(self.received)
            code = self._process.wait()
            if self.received is not None:
                _end_leftovers(self._process.pid)
            self._process = None
        return code

    def wait(self, seconds: float) -> None:
        """Wait, but not for long once a signal has come."""
        end = time.monotonic() + seconds
        while self.received is None and time.monotonic() < end:
            time.sleep(0.1)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum
        self._pass_on(signum)

    def _pass_on(self, signum: int) -> None:
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self._trainer() or self._process.pid, signum)

    def _trainer(self) -> int | None:
        """The process that says of itself, since the command began, that it trains here."""
        state = self._run.read_state() if self._run is not None else None
        if (
            self._run is None
            or state is None
            or (state.state, state.host) != ("running", socket.gethostname())
        ):
            return None
        return state.pid if self._run.state_path.stat().st_mtime >= self._started else None


def _appending(log: Path) -> BinaryIO:
    files.make_folder(log.parent)
    try:
        return open(log, "ab")
    except OSError as error:
        raise files.CannotWrite(files.why_not(log, error)) from error


def _end_leftovers(group: int) -> None:
    """Ask what is left of a command that ended to end, too, and wait for it: a launcher may die before its child."""
    deadline = time.monotonic() + LEFTOVERS_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            time.sleep(0.1)
            os.killpg(group, 0)


def last_words(log: Path) -> str:
    """The last line that says something; of a mistake of the user, the one that begins with `error`."""
    with suppress(OSError):
        tail = log.read_bytes()[-4000:].decode(errors="replace").rpartition("\n$ ")[2]
        lines = [line.strip() for line in tail.splitlines()[1:] if line.strip()]
        told = [line for line in lines if line.startswith("error")]
        return (told or lines or [""])[-1]
    return ""
