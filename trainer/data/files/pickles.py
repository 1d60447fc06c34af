"""Read pickled numbers and arrays without running anything: no name in a pickle is ever imported or called.

Databases of earlier code and NumPy files of objects hold pickles. Python's unpickler carries out the opcodes that such
values need, and finds stand-ins for the functions of NumPy: with the real ones a pickle can write anywhere in memory.
It is the unpickler written in Python. The one written in C allocates a table of any size for one opcode and hashes
nested keys for hours before a subclass is asked; in a child process with limits of memory and time that would cost
36 ms for a LiDAR scan that takes 0.4 ms here, and streams would be read twice.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.data.base import DataError

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_LONGEST = 256  # characters or bytes that a pickle may use more than once
_NUMBERS = re.compile(r"[<>=|]?([biufc]\d{1,2}|\?)")
_OBJECTS = ("O", "O8", "|O")


class Refused(Exception):
    """The pickle asks for something that is not read."""


def read_pickle(source: bytes | IO[bytes], place: str) -> Any:
    """Read arrays of numbers, numbers, strings and lists, tuples, dicts of them. Raises DataError naming `place`.

    Arrays of objects are read when the objects are of these kinds. From a stream, nothing is in memory twice.
    """
    try:
        return _checked(_Reader(io.BytesIO(source) if isinstance(source, bytes) else source).load())
    except Refused as error:
        raise DataError(
            f"{place}: refused. The pickle {error}; arrays of numbers and plain values are read, nothing is run. "
            "Do not use this file unless you know where it comes from"
        ) from error
    except Exception as error:  # a broken pickle fails in any way
        raise DataError(f"{place} is not a readable pickle ({type(error).__name__}: {error}). Copy it again") from error


def _checked(value: Any) -> Any:
    """Return plain values and arrays as they are; refuse functions and dtypes that a pickle leaves behind."""
    if isinstance(value, (list, tuple)):
        for entry in value:
            _checked(entry)
    elif isinstance(value, dict):
        _checked(list(value.values()))
    elif not isinstance(value, (*_PLAIN, np.ndarray)):
        raise Refused(f"holds a {type(value).__name__}")
    return value


def _shown(value: Any) -> str:
    """A short text: what a file holds may be endless, or control the terminal."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


class _Kind:
    """A dtype of numbers or objects as a pickle describes it."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        if not isinstance(code, str) or not (_NUMBERS.fullmatch(code) or code in _OBJECTS):
            raise Refused(f"holds an array of {_shown(code)}")
        self.code = code.lstrip("<>=|")

    def set_state(self, state: Any) -> None:
        order, parts = state[1], state[2:5]
        if order not in ("<", ">", "=", "|") or any(part is not None for part in parts):
            raise Refused("holds an array of records")
        self.code = order + self.code


class _Unbuilt:
    """An array before its state is read."""

    place: int | None = None  # in the memo


def _array(shape: Any, kind: Any, is_fortran: Any, data: Any) -> NDArray[Any]:
    if not isinstance(kind, _Kind):
        raise Refused("holds an array of no type")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused("holds an array without a shape")
    if kind.code.endswith(("O", "O8")):
        if not isinstance(data, list) or len(data) != math.prod(shape):
            raise Refused("holds an array of objects without them")
        objects = np.empty(len(data), object)
        for i, entry in enumerate(data):
            objects[i] = _checked(entry)
        return objects.reshape(shape)
    if not isinstance(data, bytes):
        raise Refused("holds an array without data")
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    return np.frombuffer(bytearray(data), np.dtype(kind.code)).reshape(shape, order=order)


class _Memo(dict[int, Any]):
    """Values that a pickle may use again: text, numbers, dtypes, arrays.

    A few bytes of lists of the same list, or of arrays from the same bytes, would fill any memory.
    """

    def __setitem__(self, place: int, value: Any) -> None:
        if isinstance(value, _Unbuilt):
            value.place = place
        is_long = isinstance(value, (str, bytes)) and len(value) > _LONGEST
        once = is_long or isinstance(value, (list, tuple, dict))
        super().__setitem__(place, _Once(type(value).__name__) if once else value)

    def __getitem__(self, place: int) -> Any:
        value = super().__getitem__(place)
        if isinstance(value, (_Once, _Unbuilt)):
            raise Refused(f"uses the same {value} again")
        return value


class _Once(str):
    """The type of a value that is not kept for another use."""


class _Reader(pickle._Unpickler):
    """Python's unpickler with the opcodes of numbers, arrays and plain values, protocols 0 to 5."""

    stack: list[Any]
    memo: dict[int, Any]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(self, stream: IO[bytes]):
        super().__init__(stream, encoding="latin1")
        self.memo = _Memo()

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a function of NumPy; refuse all others."""
        found = _STAND_INS.get((module.replace("numpy.core", "numpy._core"), name))
        if found is None:
            raise Refused(f"asks for {_shown(f'{module}.{name}')[1:-1]}")
        return found

    def build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, _Kind):
            made.set_state(state)
        elif isinstance(made, _Unbuilt):
            _, *parts = state
            self.stack[-1] = _array(*parts)
            if made.place is not None:
                self.memo[made.place] = self.stack[-1]
        else:
            raise Refused("gives a state to what has none")

    def make_bytes(self) -> None:
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))  # not a bytearray of any size

    def make_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.fill(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.fill([key, value])

    def set_items(self) -> None:
        self.fill(self.pop_mark())

    def fill(self, items: list[Any]) -> None:
        keys = items[::2]
        if not isinstance(self.stack[-1], dict) or not all(type(key) in _PLAIN for key in keys):
            raise Refused("holds a dict whose keys are no plain values")
        self.stack[-1].update(zip(keys, items[1::2], strict=True))


def _refusing(name: str) -> Callable[[Any], None]:
    def refuse(reader: Any) -> None:
        raise Refused(f"uses {name}")

    return refuse


_STEPS: dict[str, Callable[[Any], None]] = {
    "BUILD": _Reader.build, "BYTEARRAY8": _Reader.make_bytes, "DICT": _Reader.make_dict,
    "SETITEM": _Reader.set_item, "SETITEMS": _Reader.set_items,
} | {name: _refusing(name) for name in (
    "POP", "POP_MARK", "DUP", "EMPTY_SET", "ADDITEMS", "FROZENSET", "NEXT_BUFFER", "READONLY_BUFFER",
    "PERSID", "BINPERSID", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4",
)}  # fmt: skip
_CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
_Reader.dispatch = {**pickle._Unpickler.dispatch, **{_CODES[name]: step for name, step in _STEPS.items()}}


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"asks for text in {_shown(encoding)}")
    return text.encode("latin1")


def _no_array(*args: Any) -> Any:
    raise Refused("calls numpy.ndarray")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy._core.multiarray", "_reconstruct"): lambda subtype, shape, typecode: _Unbuilt(),
    ("numpy._core.multiarray", "scalar"): lambda kind, data: _array((), kind, False, data).item(),
    ("numpy._core.numeric", "_frombuffer"): lambda data, kind, shape, order: _array(shape, kind, order == "F", data),
    ("numpy", "ndarray"): _no_array,  # named as the type of an array, never called
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",  # how protocols below 3 say b""
}
