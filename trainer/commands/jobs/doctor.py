"""`monodepth doctor`: run the checks of `checkup` in a process of their own, within limits of time, and report.

A check that hangs or crashes costs its own result alone: a new process runs the others. Nothing here imports torch.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer import __version__

# The checks in their order, and the seconds that each may take. The first one to need it waits for torch, which takes
# long on a slow network disk.
LIMITS = {
    "software": 60.0,
    "extras": 60.0,
    "machine": 30.0,
    "disks": 30.0,
    "devices": 180.0,
    "compiler": 120.0,
    "processes": 180.0,
    "training step": 120.0,
    "checkpoint": 60.0,
}
REPORT = "paste this report into a bug report"
GB = 1e9
_NAME_COLUMN = 18


@dataclass(frozen=True)
class Problem:
    """What does not work, and what to do about it."""

    what: str
    fix: str


Findings = Iterator[tuple[str, str] | Problem]  # what a check yields: facts by name, and what does not work


@dataclass
class Result:
    """The outcome of one check."""

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    seconds: float = 0.0


Lines = queue.Queue[str | None]  # None = the end


def run(args: argparse.Namespace) -> int:
    """Run all checks and print their results; return 1 when something does not work."""
    results: dict[str, Result] = {}
    for name, result in examine(LIMITS):
        results[name] = result
        if not args.json:
            print("\n".join([name, *(f"  {key:<{_NAME_COLUMN}}{value}" for key, value in result.facts.items())]))
            sys.stdout.flush()
    problems = [(name, problem) for name, result in results.items() for problem in result.problems]
    if args.json:
        checks = {name: asdict(result) for name, result in results.items()}
        print(json.dumps({"version": __version__, "ok": not problems, "checks": checks}, indent=1))
    elif problems:
        print(f"\nnot well: {len(problems)}")
        for name, problem in problems:
            print(f"  {name}: {problem.what}\n    fix: {problem.fix}")
    else:
        print("\nall is well")
    return int(bool(problems))


def examine(limits: dict[str, float]) -> Iterator[tuple[str, Result]]:
    """Run the checks that `limits` names, each within so many seconds; yield each with its result, in order."""
    left = list(limits)
    while left:
        with _checkup(left) as (process, lines):
            while left:
                name = left.pop(0)
                result, began = Result(), time.monotonic()
                fault = _listen(lines, result, limits[name])
                if fault is None:
                    code = process.wait(5)
                    fault = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                if fault:
                    result.problems.append(Problem(f"the check {fault}", REPORT))
                result.seconds = round(time.monotonic() - began, 3)
                yield name, result
                if fault:
                    break


def _listen(lines: Lines, result: Result, seconds: float) -> str | None:
    """Fill `result` until its check is over. Returns what is wrong with the check: "" = nothing, None = it has died."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            line = lines.get(timeout=max(deadline - time.monotonic(), 0.0))
        except queue.Empty:
            return f"gave no answer within {seconds:g} s"
        if line is None:
            return None
        match json.loads(line):
            case {"key": key, "value": value}:
                result.facts[key] = anonymous(value)
            case {"what": what, "fix": fix}:
                result.problems.append(Problem(anonymous(what), anonymous(fix)))
            case _:
                return ""


@contextmanager
def _checkup(names: list[str]) -> Iterator[tuple[subprocess.Popen[str], Lines]]:
    """Start a process that runs the checks `names`; yield it and what it says. It and its own are killed at the end."""
    code = f"import sys; sys.path[:] = {sys.path!r}\nfrom trainer.commands.jobs.checkup import main\nmain({names!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    lines: Lines = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        yield process, lines
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # one that waits for a dead disk cannot be killed
            process.wait(5)


def anonymous(text: str) -> str:
    """Shorten the home folder to ~, and take out the names of user and host."""
    text = re.sub(rf"{re.escape(str(Path.home()))}(?![\w.-])", "~", text) if len(str(Path.home())) > 1 else text
    with suppress(OSError, KeyError):  # a user without a name
        text = re.sub(rf"(?<=/){re.escape(getpass.getuser())}(?![\w.-])", "USER", text)
    return re.sub(rf"(?<![\w.-]){re.escape(socket.gethostname())}(?![\w-])", "HOST", text)
