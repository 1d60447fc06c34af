"""One command in a process of its own: its output goes to a log, a request to stop is passed on to it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from trainer.runtime import files
from trainer.runtime.processes import TASKS
from trainer.runtime.signals import StopSignals

SAVING_SECONDS = 60.0  # after SIGTERM, for processes that a launcher leaves behind


def call(command: Sequence[str], log: Path, stop: StopSignals) -> int:
    """Run a command and append its output to `log`. Returns its exit code, 127 when it cannot be started.

    The command gets a session of its own. When a signal arrives here, all processes of that session receive SIGTERM: a
    launcher of one process passes nothing on, and one of several passes SIGTERM on, but dies of SIGUSR1.

    Raises CannotWrite when the log cannot be written.
    """
    own = {name: value for name, value in os.environ.items() if name not in TASKS}  # the command is alone in its folder
    env = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "240", **own}  # seconds for a step and a save; 30 by default
    with _appending(log) as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        try:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        except OSError as error:
            file.write(f"{command[0]}: cannot be started: {error.strerror}\n".encode())
            return 127
        try:
            return _ended(process, stop)
        except KeyboardInterrupt:  # the second one: whoever is impatient does not want to wait for a save
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            raise


def _ended(process: subprocess.Popen[bytes], stop: StopSignals) -> int:
    """Wait for the end of a command, having passed a request to stop on; return its exit code."""
    while process.poll() is None and stop.received is None:
        time.sleep(0.05)
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            deadline = time.monotonic() + SAVING_SECONDS
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)  # raises when all have ended
                time.sleep(0.05)
    return process.wait()


def _appending(log: Path) -> BinaryIO:
    files.make_folder(log.parent)
    try:
        return open(log, "ab")
    except OSError as error:
        raise files.CannotWrite(files.why_not(log, error)) from error


def last_words(log: Path) -> str:
    """The last line of the latest command in a log; of its errors if it printed any."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.rpartition("\n$ ")[2].splitlines()[1:] if line.strip()]
    errors = [line for line in lines if line.startswith(("error: ", "error ["))]  # not a launcher's "error_file: "
    return (errors or lines or [""])[-1]
