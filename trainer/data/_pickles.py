"""Read pickled numbers and arrays without running anything: no name in a pickle is ever imported or called.

Where a pickle asks for NumPy's constructors it is given recorders of ours, and arrays are built from what they
recorded; every other name is refused. numpy.lib.format does the same for files; earlier databases hold pickles.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.data.base import DataError

_NUMBERS = re.compile(r"[<>=|]?([biufc]\d{1,2}|\?)")
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def read_pickle(content: bytes, place: str) -> Any:
    """Read arrays of numbers, numbers, strings and lists, tuples, dicts of them. Raises DataError naming `place`.

    Arrays of objects are read when the objects are of these kinds.
    """
    try:
        return _Builder().build(_Reader(io.BytesIO(content)).load())
    except _Refused as error:
        raise DataError(
            f"{place}: refused. The pickle {error}; arrays of numbers and plain values are read, nothing is run. "
            "Do not use this file unless you know where it comes from"
        ) from error
    except Exception as error:  # a broken pickle fails in any way
        raise DataError(
            f"{place} is not a readable pickle ({type(error).__name__}: {error}). Copy it again"
        ) from error


class _Refused(Exception):
    """The pickle asks for something that is not read."""


class _Maker:
    """What a pickle calls instead of a function. Made anew for every pickle, so that none can alter the next."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)


class _Kind:
    """A dtype of numbers or objects as a pickle describes it."""

    __slots__ = ("code",)

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        if not isinstance(code, str) or not (_NUMBERS.fullmatch(code) or code in ("O", "O8", "|O")):
            raise _Refused(f"holds an array of {code!r}")
        self.code = code.lstrip("<>=|")

    def __setstate__(self, state: Any) -> None:
        order, parts = state[1], state[2:5]
        if order not in ("<", ">", "=", "|") or any(part is not None for part in parts):
            raise _Refused("holds an array of records")
        self.code = order + self.code


class _Array:
    """An array as a pickle describes it."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, self.data = state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        maker = _MAKERS.get((module.replace("numpy.core", "numpy._core"), name))
        if maker is None:
            raise _Refused(f"asks for {module}.{name}")
        return _Maker(maker)

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"refers to {pid!r} outside of itself")


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", data))
    return array


def _scalar(kind: Any, data: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, None, kind, False, data))
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"asks for text in {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _no_array(*args: Any) -> Any:
    raise _Refused("calls numpy.ndarray")


_MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _no_array,  # named as the type of an array, never called
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,  # how protocols below 3 say b""
}


class _Builder:
    """Turn what was recorded into arrays and plain values; what occurs twice is built once."""

    def __init__(self) -> None:
        self._built: dict[int, Any] = {}

    def build(self, value: Any) -> Any:
        if type(value) in _PLAIN:
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
        if isinstance(value, _Array):
            return self._array(value)
        raise _Refused(f"holds a {type(value).__name__}")

    def _array(self, array: _Array) -> Any:
        if not isinstance(array.kind, _Kind):
            raise _Refused("holds an array of no type")
        shape = () if array.shape is None else array.shape
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise _Refused(f"holds an array of shape {shape!r}")
        order: Literal["F", "C"] = "F" if array.fortran else "C"
        if array.kind.code.endswith(("O", "O8")):
            return self._objects(array.data, shape)
        if not isinstance(array.data, (bytes, bytearray)):
            raise _Refused("holds an array without data")
        flat: NDArray[Any] = np.frombuffer(array.data, np.dtype(array.kind.code))
        made = flat.reshape(shape, order=order)
        return made.item() if array.shape is None else made.copy(order="K")

    def _objects(self, entries: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        if not isinstance(entries, list) or len(entries) != math.prod(shape):
            raise _Refused(f"holds an array of objects of shape {shape!r} without them")
        objects = np.empty(len(entries), object)
        for i, entry in enumerate(entries):
            objects[i] = self.build(entry)
        return objects.reshape(shape)
