"""The process that unpickles for `pickles`: a script that holds nothing but Python's own library, within limits.

A request is a line of JSON (length of the pickle, bytes of memory, seconds of the processor) and the pickle. The reply
is a line of JSON and the bytes of the arrays that it describes. No name in a pickle is imported: of the functions
of NumPy, with which a pickle could write anywhere in memory, it finds stand-ins that only keep what they are given.
"""

import io
import json
import os
import pickle
import re
import sys
import time

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

_CODE = re.compile(r"[<>=|]?([biufc]\d{1,2}|\?|O8?)")


class Refused(Exception):
    """The pickle asks for something that is not read."""


class Kind:
    """Stands in for `numpy.dtype`."""

    def __init__(self, code, align=False, copy=True):
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise Refused(f"holds an array of {_shown(code)}")
        self.code = code.lstrip("<>=|")

    def __setstate__(self, state):
        if state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise Refused("holds an array of records")
        self.code = state[1] + self.code


class Array:
    """Stands in for an array, or a number of NumPy."""

    data = None

    def __setstate__(self, state):
        _, self.shape, self.kind, self.is_fortran, self.data = state

    @classmethod
    def of(cls, *state):
        array = cls()
        array.__setstate__((1, *state))
        return array


_STAND_INS = {
    ("numpy._core.multiarray", "_reconstruct"): lambda subtype, shape, code: Array(),
    ("numpy._core.multiarray", "scalar"): lambda kind, data: Array.of((), kind, False, data),
    ("numpy._core.numeric", "_frombuffer"): lambda data, kind, shape, order: Array.of(shape, kind, order == "F", data),
    ("numpy", "ndarray"): "ndarray",  # the type of an array, never called
    ("numpy", "dtype"): Kind,
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),  # how protocols below 3 say bytes
    ("__builtin__", "bytes"): lambda: b"",
}


class Unpickler(pickle.Unpickler):
    """Finds the names in `_STAND_INS` and no others."""

    def find_class(self, module, name):
        """Return a stand-in, or refuse."""
        found = _STAND_INS.get((module.replace("numpy.core", "numpy._core"), name))
        if found is None:
            raise Refused(f"asks for {_shown(f'{module}.{name}')[1:-1]}")
        return found


class Part(io.RawIOBase):
    """The next bytes of a stream, so many and no more."""

    def __init__(self, stream, length):
        self.stream, self.left = stream, length

    def readable(self):
        return True

    def readinto(self, buffer):
        count = self.stream.readinto(memoryview(buffer)[: self.left])
        self.left -= count
        return count


def _shown(value):
    """A short text: what a file holds may be endless, or control the terminal."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


def _described(value, contents, within=False):
    """Describe an array or plain value in JSON; the bytes of arrays go to `contents`. Raises Refused for all else."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    code = value.kind.code if isinstance(value, Array) and isinstance(value.data, (bytes, bytearray, list)) else ""
    if type(value) is list and not within:  # names of entries
        return {"shape": None, "entries": [_described(entry, contents, True) for entry in value]}
    if "O" in code and not within and isinstance(value.data, list):
        return {"shape": value.shape, "entries": [_described(entry, contents, True) for entry in value.data]}
    if not code or "O" in code or isinstance(value.data, list):
        raise Refused(f"holds a {type(value).__name__}" + " without data" * isinstance(value, Array))
    contents.append(value.data)
    return {"shape": value.shape, "code": code, "is_fortran": bool(value.is_fortran)}


def _read(stream, memory: int) -> "list[bytes]":
    """Read a pickle. Returns the lines and bytes of the reply."""
    contents: list[bytes] = []
    try:
        value = _described(Unpickler(stream, encoding="latin1").load(), contents)
        head = json.dumps({"value": value, "bytes": [len(content) for content in contents]}).encode()
        if len(head) + sum(map(len, contents)) < memory:
            return [head + b"\n", *contents]
        reply = {"refused": "unpacks to more memory than such values need"}
    except Refused as error:
        reply = {"refused": str(error)}
    except MemoryError:  # it may have hit anywhere, the count of bytes included
        os._exit(1)
    except Exception as error:  # a broken pickle fails in any way
        reply = {"broken": f"{type(error).__name__}: {error}"[:200]}
    return [json.dumps(reply).encode() + b"\n"]


def main():
    """Answer requests until the input ends."""
    source, out = sys.stdin.buffer, sys.stdout.buffer
    for line in iter(source.readline, b""):
        length, memory, seconds = json.loads(line)
        if resource:
            for limit, value in (
                (resource.RLIMIT_AS, memory),
                (resource.RLIMIT_CPU, int(time.process_time() + seconds)),
            ):
                resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
        part = Part(source, length)
        reply = _read(io.BufferedReader(part), memory)
        while part.left and source.read(min(part.left, 1 << 16)):  # behind the end of the pickle, or of reading it
            pass
        out.writelines(reply)
        out.flush()


if __name__ == "__main__":
    main()
