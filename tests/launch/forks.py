"""Processes that run on while a test looks at them, as forks: of `subprocess.Popen` they have what tests use.

A launcher among them starts its trainers as forks, too, where it would start Python anew; all else of it is as ever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.world import ACCELERATE, FORKS, ROOT, enter_script

LAUNCH = """
import sys
from accelerate.commands.launch import main
from torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler import SubprocessHandler
from tests.launch.forks import start_trainer
SubprocessHandler._popen = start_trainer
sys.exit(main())
"""


class Forked:
    """`python args...`, the leader of a session of its own, whose output is appended to a file."""

    def __init__(self, args: Sequence[str | Path], env: dict[str, str], output: Path | str, context: Any = FORKS):
        words = tuple(map(str, args))
        if words[:3] == ACCELERATE[:3]:
            words = ("-c", LAUNCH, *words[3:])
        self._output = Path(output)
        self._process = context.Process(target=_lead, args=(words, env, str(output)))
        self._process.start()
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a fork", timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        self.wait(timeout)
        return self._output.read_text(), None

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start_trainer(_: object, args: Sequence[str], env: dict[str, str]) -> Forked:
    """Start the trainer `python -u args...` as a child of the fork that is its launcher."""
    return Forked(args[2:], env, "/proc/self/fd/1", multiprocessing.get_context("fork"))


def _lead(args: tuple[str, ...], env: dict[str, str], output: str) -> None:
    os.setsid()
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # a launcher handles them
        signal.signal(signum, signal.SIG_DFL)
    try:
        enter_script(args, str(ROOT), env, output, output)
    except Exception:
        sys.excepthook(*sys.exc_info())  # torch's, which names the process
        sys.exit(1)
