"""What a command prints, and how it ends: neither a reader that left nor a full disk stops a training."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO, cast


class Outliving:
    """A text stream that drops what it cannot write, because nobody reads it any more or its disk is full."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, or nothing; return its length."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def outliving() -> Iterator[None]:
    """Let stdout and stderr drop what they cannot write, until the end of the process, whose exit code they leave."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Outliving(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            _silence_if_broken(stream)


def say(text: str) -> None:
    """Print lines to stderr in one piece: those of two processes do not mix, and a broken stderr changes nothing."""
    Outliving(sys.stderr).write(f"{text}\n")
    _silence_if_broken(sys.stderr)


def leave(code: int) -> NoReturn:
    """End a process of several at once, when everything is saved and closed.

    An ordinary return would free the DDP wrapper, and with it the last hold on the process group, whose destructor
    joins a thread that may be waiting for the interpreter: now and then a rank hung there for ever, its work done, and
    when it had failed, the others waited for it.
    """
    Outliving(sys.stdout).flush()
    Outliving(sys.stderr).flush()
    os._exit(code)


def _silence_if_broken(stream: TextIO) -> None:
    """Point a stream that cannot be written to at nothing: Python flushes it at its end and would exit with 120."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError, ValueError):  # one that is no file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
