"""Read pickled arrays of earlier code without running anything: another process unpickles, within limits.

Its memory and time are limited (POSIX) by the length of the pickle: a few bytes of a pickle can ask for any memory, or
for hours. It knows nothing of NumPy and finds no name in a pickle (`sandbox`). What comes back are descriptions
and bytes of arrays. The process is started once, in 40 ms.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Lock, Timer
from typing import IO, Any

import numpy as np

from trainer.runtime.errors import DataError

_SCRIPT = Path(__file__).with_name("sandbox.py")
_MEMORY, _PER_BYTE = 96 << 20, 8  # Python itself, and numbers as Python has them
_SECONDS, _BYTES_PER_SECOND = 2, 10e6  # of the processor
_WAITING = 30  # times as long by the clock: the disk may be slow, or the machine busy
_CHUNK = 1 << 20


def read_pickle(source: bytes | IO[bytes], place: str, num_bytes: int | None = None) -> Any:
    """Read an array of numbers, an array or list of such arrays, numbers and texts, or one of them. Raises DataError.

    Messages name `place`. A stream is read from where it stands, `num_bytes` long, and is never in memory as a whole.
    """
    try:
        reply, contents = _child(os.getpid()).ask(source, len(source) if isinstance(source, bytes) else num_bytes or 0)
        value = _made(reply["value"], iter(contents)) if "value" in reply else None
    except Exception as error:  # what describes no array fails in any way
        raise DataError(f"{place} is not a readable pickle ({error}). Copy it again") from error
    if "refused" in reply:
        raise DataError(
            f"{place}: refused. The pickle {reply['refused']}; arrays of numbers and texts are read, nothing is run. "
            "Do not use this file unless you know where it comes from"
        )
    if "broken" in reply:
        raise DataError(f"{place} is not a readable pickle ({reply['broken']}). Copy it again")
    return value


def _made(value: Any, contents: Iterator[bytearray]) -> Any:
    """Make the array that a reply describes; other values stay as they are."""
    if not isinstance(value, dict):
        return value
    if "entries" in value:
        objects = np.empty(len(value["entries"]), object)
        for i, entry in enumerate(value["entries"]):
            objects[i] = _made(entry, contents)
        return objects.tolist() if value["shape"] is None else objects.reshape(value["shape"])
    array = np.frombuffer(next(contents), np.dtype(value["code"]))
    return array.reshape(value["shape"], order="F" if value["is_fortran"] else "C")


class _Child:
    """The process that unpickles."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", str(_SCRIPT)]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        # A session of its own: Ctrl-C is for the run, which may read items until it has saved.
        self._process: Any = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, start_new_session=True)
        self._lock = Lock()
        self._owner = os.getpid()
        atexit.register(self._end)

    def ask(self, source: bytes | IO[bytes], length: int) -> tuple[dict[str, Any], list[bytearray]]:
        """Have a pickle read. Returns the reply and the bytes of the arrays that it describes."""
        memory, seconds = _MEMORY + _PER_BYTE * length, _SECONDS + int(length / _BYTES_PER_SECOND)
        with self._lock:
            clock = Timer(_WAITING * seconds, self._process.kill)
            try:
                clock.start()
                self._process.stdin.write(json.dumps([length, memory, seconds]).encode() + b"\n")
                self._send(source, length)
                reply = json.loads(self._process.stdout.readline(memory))
                return reply, [self._exactly(num_bytes) for num_bytes in reply.get("bytes", ())]
            except BaseException as error:  # half a reply is worth nothing
                self._end()
                _child.cache_clear()
                if isinstance(error, (BrokenPipeError, EOFError, ValueError)):  # it was stopped
                    return {"refused": "takes more memory or time than such values need"}, []
                raise
            finally:
                clock.cancel()

    def _send(self, source: bytes | IO[bytes], length: int) -> None:
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        while length and (chunk := stream.read(min(length, _CHUNK))):
            length -= self._process.stdin.write(chunk)
        self._process.stdin.flush()

    def _exactly(self, num_bytes: int) -> bytearray:
        content = bytearray(num_bytes)
        if self._process.stdout.readinto(content) != num_bytes:
            raise EOFError
        return content

    def _end(self) -> None:
        if self._owner == os.getpid():  # not a fork of it
            atexit.unregister(self._end)
            self._process.kill()
            self._process.communicate()


@cache
def _child(owner: int) -> _Child:
    """The process of this process."""
    return _Child()
