"""Read pickled numbers and arrays without running anything: no name in a pickle is ever imported or called.

Earlier databases hold pickles. Their few opcodes are carried out by `_pickle_machine`, not by `pickle`, whose reader
can be made to take all memory or to hash for hours. Arrays are built here from what was recorded.
"""

from __future__ import annotations

import io
import math
from typing import IO, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from trainer.data._pickle_machine import PLAIN, Kind, Machine, RecordedArray, Refused
from trainer.data.base import DataError

_LARGE = 1 << 12  # bytes of an array that are not copied


def read_pickle(source: bytes | IO[bytes], place: str) -> Any:
    """Read arrays of numbers, numbers, strings and lists, tuples, dicts of them. Raises DataError naming `place`.

    Arrays of objects are read when the objects are of these kinds. From a stream, nothing is in memory twice.
    """
    try:
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        return _Builder().build(Machine().run(cast("IO[bytes]", _Writeable(stream))))
    except Refused as error:
        raise DataError(
            f"{place}: refused. The pickle {error}; arrays of numbers and plain values are read, nothing is run. "
            "Do not use this file unless you know where it comes from"
        ) from error
    except Exception as error:  # a broken pickle fails in any way
        raise DataError(
            f"{place} is not a readable pickle ({type(error).__name__}: {error}). Copy it again"
        ) from error


class _Writeable:
    """A stream for `pickletools` that gives what is large as a bytearray, the memory of a writeable array."""

    def __init__(self, stream: IO[bytes]):
        self.readline, self.tell = stream.readline, stream.tell
        self._read = stream.read

    def read(self, size: int) -> bytes | bytearray:
        content = self._read(size)  # not `bytearray(size)`: a pickle may claim any size
        return content if len(content) < _LARGE else bytearray(content)


class _Builder:
    """Turn what was recorded into arrays and plain values; what occurs twice is built once."""

    def __init__(self) -> None:
        self._built: dict[int, Any] = {}

    def build(self, value: Any) -> Any:
        if type(value) in PLAIN:
            return value
        if id(value) not in self._built:
            self._built[id(value)] = self._make(value)
        return self._built[id(value)]

    def _make(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)([self.build(entry) for entry in value])
        if isinstance(value, dict):
            return {self.build(key): self.build(entry) for key, entry in value.items()}
        if isinstance(value, bytearray):
            return bytes(value)
        if isinstance(value, RecordedArray):
            return self._array(value)
        raise Refused(f"holds a {type(value).__name__}")

    def _array(self, array: RecordedArray) -> Any:
        if not isinstance(array.kind, Kind):
            raise Refused("holds an array of no type")
        shape = () if array.shape is None else array.shape
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise Refused("holds an array without a shape")
        order: Literal["F", "C"] = "F" if array.fortran else "C"
        if array.kind.code.endswith(("O", "O8")):
            return self._objects(array.data, shape)
        if not isinstance(array.data, (bytes, bytearray)):
            raise Refused("holds an array without data")
        data = array.data if isinstance(array.data, bytearray) else bytearray(array.data)
        flat: NDArray[Any] = np.frombuffer(data, np.dtype(array.kind.code))
        made = flat.reshape(shape, order=order)
        return made.item() if array.shape is None else made

    def _objects(self, entries: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        if not isinstance(entries, list) or len(entries) != math.prod(shape):
            raise Refused("holds an array of objects without them")
        objects = np.empty(len(entries), object)
        for i, entry in enumerate(entries):
            objects[i] = self.build(entry)
        return objects.reshape(shape)
