"""Find and end every process of one run, however it was started and whoever its parent is now."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

VARIABLE = "FAULTS_TOKEN"  # children inherit the environment, sessions and groups of their own do not hide them


def environments(token: str) -> dict[int, dict[str, str]]:
    """The environment of each living process of a run, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        variables = _environment(folder)
        if variables.get(VARIABLE) == token:
            found[int(folder.name)] = variables
    return found


def kill(pid: int) -> None:
    """SIGKILL to one process; one that is gone already is fine."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_all(token: str) -> None:
    """SIGKILL to every process of a run, the caller last if it is one of them. Returns when they have let go of all."""
    own = os.getpid()
    while others := environments(token).keys() - {own}:
        for pid in others:
            kill(pid)
        while any(map(_holds_files, others)):
            time.sleep(0.005)
    if os.environ.get(VARIABLE) == token:
        kill(own)


def _holds_files(pid: int) -> bool:
    """Whether a killed process still has files open, and with them locks: its memory goes first."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _environment(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, or somebody else's
        return {}
    pairs = (line.decode(errors="replace").partition("=") for line in lines if line)
    return {name: value for name, _, value in pairs}
