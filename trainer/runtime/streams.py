"""The output of a command: it may break without harm to the work, and is never silent for long."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO, cast

from trainer.runtime.processes import is_first_process
from trainer.runtime.silence import Silence, busy_machine

NO_READER = (errno.EPIPE, errno.EIO, errno.ESHUTDOWN, errno.EBADF)  # a closed pipe or terminal


class Outliving:
    """A text stream that drops what it cannot write, because its reader has gone or its disk is full."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.is_broken = False
        self.refusals: list[OSError] = []  # those of the disk

    def write(self, text: str) -> int:
        """Write `text`, or nothing; return its length."""
        if "\x1b" not in text:  # a live bar says nothing new
            _silence.heard()
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        self._attempt(self._stream.flush)

    def _attempt(self, call: Callable[..., object], *args: str) -> None:
        try:
            call(*args)
        except OSError as error:
            self.is_broken = True
            if error.errno not in NO_READER:
                self.refusals.append(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def outliving() -> Iterator[list[OSError]]:
    """Let stdout and stderr drop what they cannot write in this block; yields what a disk refused of stdout.

    A block within another keeps its refusals to itself.
    """
    before = sys.stdout, sys.stderr
    out, err = (Outliving(s._stream if isinstance(s, Outliving) else s) for s in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out.refusals
    finally:
        out.flush()
        sys.stdout, sys.stderr = before
        for stream, outliver in zip(before, (out, err), strict=True):
            _silence_if_broken(stream, outliver.is_broken)


@contextmanager
def breaking_silence() -> Iterator[None]:
    """Say what is being done when nothing is printed for long. Commands import PyTorch first, which takes seconds."""
    _silence.heard()
    _told.clear()
    _told.add("busy")  # not to be told, unless `explain_slowness` is called
    doing("loading PyTorch")
    try:
        yield
    finally:
        doing(None)


def explain_slowness() -> None:
    """Let this command also say, once, that other processes keep the machine busy."""
    _told.discard("busy")


def doing(what: str | None, keep: bool = False) -> None:
    """Note what is done until the first output (`keep`: until the next call), to be said if that takes long."""
    text = f"{what} ..."
    _silence.doing((lambda: text) if what and is_first_process() else None, keep)


def _announce(text: str) -> None:
    """Say it once, and once why it takes long where that matters."""
    remark = "" if "busy" in _told else busy_machine()
    if text not in _told:
        say(text.replace(" ...", f"{remark} ..."))
        _told.update([text, *(["busy"] if remark else [])])


_told: set[str] = set()  # of this command
_silence = Silence(_announce)


def open_closed_streams() -> None:
    """Open /dev/null where a standard stream was closed (`train >&-`): the next file would get its number.

    What torch's C++ prints to number 2 would be written to a checkpoint then.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                nowhere = os.open(os.devnull, os.O_RDWR)
                if nowhere != number:
                    os.dup2(nowhere, number)
                    os.close(nowhere)
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115


def say(text: str) -> None:
    """Print lines to stderr in one piece, so that those of two processes do not mix; a broken stderr is ignored."""
    Outliving(sys.stderr).write(f"{text}\n")
    _silence_if_broken(sys.stderr)


def leave(code: int) -> NoReturn:
    """End one of several processes at once, when everything is saved and closed.

    An ordinary return frees the DDP wrapper and with it the process group, whose destructor joins a thread that may be
    waiting for the interpreter: now and then a rank hung there for ever, and the others waited for it.
    """
    Outliving(sys.stdout).flush()
    Outliving(sys.stderr).flush()
    os._exit(code)


def _silence_if_broken(stream: TextIO, is_broken: bool = False) -> None:
    """Point a stream that cannot be written at /dev/null: Python flushes it at exit and would return 120."""
    try:
        stream.flush()
    except OSError:
        is_broken = True
    if is_broken:
        with suppress(OSError, ValueError):  # not a file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
