"""Faults at exact moments inside a training process, which imports this file with `--plugins`.

Moments that the process meant reaches are appended to the file FAULTS_TRACE, one a line. The environment tells a fault:

    FAULTS_AT     the moment, before it takes place: `last:rename`
    FAULTS_SKIP   how often it passes first (0)
    FAULTS_TIMES  how often the fault happens after that (1)
    FAULTS_DO     a key of `DEEDS`, or the name of an error of the operating system: `ENOSPC`
    FAULTS_RANK   the process that it happens to (0)

Moments of a file `last`, `best`, `state` or `hparams`, in order: open, half (of its bytes are written), fsync, synced,
verify, rename, renamed; of `last` also unlink and link (of the one before), before rename. Others: plugin, lock,
locked, restore, step (an optimizer step was taken), signal (a stop signal arrived), state:<what it will say>.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.faults.processes import kill_all

STAGED = re.compile(r"\.(\w+)\.\w+\.tmp-.+")
HALF = 20  # the write of a staged file that is torn: header and some tensors before it

_trace = os.environ.get("FAULTS_TRACE")
_is_meant = os.environ.get("RANK", "0") == os.environ.get("FAULTS_RANK", "0")
_at = os.environ.get("FAULTS_AT", "")
_skip = int(os.environ.get("FAULTS_SKIP", "0"))
_times = int(os.environ.get("FAULTS_TIMES", "1"))
_seen = 0
_renamed: dict[str, str] = {}  # folder -> kind of file that was renamed in it and is not yet synced


def reach(moment: str, path: str = "") -> None:
    """Note a moment, and do what is to be done at it."""
    global _seen
    if _trace and _is_meant:
        descriptor = os.open(_trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, f"{moment}\n".encode())
        os.close(descriptor)
    if moment != _at or not _is_meant:
        return
    _seen += 1
    if _skip < _seen <= _skip + _times:
        do(os.environ["FAULTS_DO"], path)


def do(what: str, path: str) -> None:
    """Do what FAULTS_DO says. Raises OSError for the name of an error."""
    if what not in DEEDS:
        number = getattr(errno, what)
        raise OSError(number, os.strerror(number))
    DEEDS[what](path)


def _flip(path: str) -> None:
    """Turn one bit in the middle of a file."""
    with _open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


DEEDS: dict[str, Callable[[str], None]] = {
    "kill": lambda path: os.kill(os.getpid(), signal.SIGKILL),
    "kill all": lambda path: kill_all(os.environ["FAULTS_TOKEN"]),
    "term": lambda path: os.kill(os.getpid(), signal.SIGTERM),
    "term launcher": lambda path: os.kill(os.getppid(), signal.SIGTERM),
    "flip": _flip,
}


def _kind(path: Any) -> str:
    """Which file a path is the staged form of: last, best, ...; empty for other paths."""
    if not isinstance(path, (str, os.PathLike)):
        return ""
    match = STAGED.fullmatch(os.path.basename(os.fspath(path)))
    return match[1] if match else ""


class _Torn(io.BufferedWriter):
    """A staged file in whose middle a moment lies."""

    writes = 0

    def write(self, data: Any) -> int:
        self.writes += 1
        if self.writes != HALF:
            return super().write(data)
        data = memoryview(data).cast("B")
        done = super().write(data[: len(data) // 2])
        self.flush()
        reach(f"{_kind(self.raw.name)}:half", self.raw.name)
        return done + super().write(data[done:])


_open, _fsync, _signal = builtins.open, os.fsync, signal.signal


def _opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
    if mode == "wb" and _kind(file):
        return _Torn(io.FileIO(os.fspath(file), "w"))
    return _open(file, mode, *args, **kwargs)


def _syncing(descriptor: Any) -> None:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    path = os.readlink(f"/proc/self/fd/{number}")
    if kind := _kind(path):
        reach(f"{kind}:fsync", path)
    _fsync(number)
    if kind:
        reach(f"{kind}:synced", path)


def _on_open(path: Any, _: Any, flags: int) -> None:
    if kind := _kind(path):
        if flags & os.O_WRONLY or kind in ("last", "best"):
            reach(f"{kind}:{'open' if flags & os.O_WRONLY else 'verify'}", os.fspath(path))
    elif isinstance(path, (str, os.PathLike)):
        name = os.fspath(path)
        if kind := _renamed.pop(name, ""):
            reach(f"{kind}:renamed")
        elif name.endswith(("/last.safetensors", "/last.prev.safetensors")):
            reach("restore")


def _on_rename(source: Any, target: Any, *_: Any) -> None:
    if kind := _kind(source):
        if kind == "state":
            said = json.loads(Path(source).read_text())
            reach(f"state:{said['state']} {said['step']}")
            reach(f"state:{said['state']}")
        reach(f"{kind}:rename", os.fspath(source))
        _renamed[os.path.dirname(os.fspath(target))] = kind


def _on_remove(path: Any, *_: Any) -> None:
    if os.fspath(path).endswith("last.prev.safetensors"):
        reach("last:unlink")


def _on_link(source: Any, target: Any, *_: Any) -> None:
    if os.fspath(target).endswith("last.prev.safetensors"):
        reach("last:link")


EVENTS: dict[str, Callable[..., None]] = {
    "open": _on_open,
    "os.rename": _on_rename,
    "os.remove": _on_remove,
    "os.link": _on_link,
    "fcntl.flock": lambda *_: reach("lock"),
    "os.truncate": lambda *_: reach("locked"),
}


def _listen(event: str, args: tuple[Any, ...]) -> None:
    """Hear what Python is about to ask of the operating system; an error raised here takes its place."""
    if event in EVENTS:
        EVENTS[event](*args)


def _noting(number: Any, handler: Any) -> Any:
    """Set a signal handler that notes the moment first."""
    if number != signal.SIGTERM or not callable(handler):
        return _signal(number, handler)

    def noted(*args: Any) -> None:
        reach("signal")
        handler(*args)

    return _signal(number, noted)


if "FAULTS_TOKEN" in os.environ:
    reach("plugin")
    builtins.open, os.fsync, signal.signal = _opening, _syncing, _noting  # type: ignore[assignment]
    register_optimizer_step_post_hook(lambda *_: reach("step"))
    sys.addaudithook(_listen)
