"""Read pickled numbers and arrays without running anything: no name in a pickle is ever imported or called.

Earlier databases hold pickles. Their few opcodes are carried out by `_pickle_machine`, not by `pickle`, whose reader
can be made to take all memory or to hash for hours. Arrays are built here from what was recorded.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

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


_NUMBERS = re.compile(r"[<>=|]?([biufc]\d{1,2}|\?)")
PLAIN = (type(None), bool, int, float, complex, str, bytes)


class Refused(Exception):
    """The pickle asks for something that is not read."""


class _Maker(NamedTuple):
    """What a pickle calls instead of a function."""

    make: Callable[..., Any]


def _shown(value: Any) -> str:
    """A short text: what a file holds may be endless, or control the terminal."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


class Kind:
    """A dtype of numbers or objects as a pickle describes it."""

    __slots__ = ("code",)

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        if not isinstance(code, str) or not (_NUMBERS.fullmatch(code) or code in ("O", "O8", "|O")):
            raise Refused(f"holds an array of {_shown(code)}")
        self.code = code.lstrip("<>=|")

    def set_state(self, state: Any) -> None:
        order, parts = state[1], state[2:5]
        if order not in ("<", ">", "=", "|") or any(part is not None for part in parts):
            raise Refused("holds an array of records")
        self.code = order + self.code


class RecordedArray:
    """An array as a pickle describes it."""

    __slots__ = ("data", "fortran", "kind", "shape")

    def set_state(self, state: Any) -> None:
        _, self.shape, self.kind, self.fortran, self.data = state


class Machine:
    """The opcodes (`pickletools`) that numbers, arrays and plain values are pickled with, protocols 0 to 5."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: IO[bytes]) -> Any:
        """Carry out the opcodes and give what is left; a broken pickle fails in any way."""
        for opcode, arg, _ in pickletools.genops(stream):
            name = opcode.name
            if name in _LITERALS:
                self.stack.append(arg)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _STEPS:
                _STEPS[name](self, arg)
            else:
                raise Refused(f"uses {name}")
        return self.stack.pop()

    def mark(self, arg: Any) -> None:
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def last(self, number: int) -> list[Any]:
        values = self.stack[-number:]
        del self.stack[-number:]
        return values

    def remember(self, place: Any) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def recall(self, place: Any) -> None:
        self.stack.append(self.memo[place])

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise Refused("appends to what is no list")
        self.stack[-1].extend(values)

    def update(self, flat: list[Any]) -> None:
        keys = flat[::2]
        if not isinstance(self.stack[-1], dict) or not all(type(key) in PLAIN for key in keys):
            raise Refused("holds a dict whose keys are no plain values")
        self.stack[-1].update(zip(keys, flat[1::2], strict=True))

    def make_dict(self, arg: Any) -> None:
        flat = self.since_mark()
        self.stack.append({})
        self.update(flat)

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("asks for what has no name")
        make = _MAKERS.get((module.replace("numpy.core", "numpy._core"), name))
        if make is None:
            raise Refused(f"asks for {_shown(f'{module}.{name}')[1:-1]}")
        self.stack.append(_Maker(make))

    def reduce(self, arg: Any) -> None:
        maker, args = self.last(2)
        if not isinstance(maker, _Maker) or not isinstance(args, tuple):
            raise Refused("calls what is no function")
        self.stack.append(maker.make(*args))

    def build(self, arg: Any) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (Kind, RecordedArray)):
            raise Refused("gives a state to what has none")
        self.stack[-1].set_state(state)


_LITERALS = frozenset([
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
])  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_STEPS: dict[str, Callable[[Machine, Any], Any]] = {
    "PROTO": lambda machine, arg: None,
    "FRAME": lambda machine, arg: None,
    "STOP": lambda machine, arg: None,
    "MARK": Machine.mark,
    "EMPTY_LIST": lambda machine, arg: machine.stack.append([]),
    "LIST": lambda machine, arg: machine.stack.append(machine.since_mark()),
    "APPEND": lambda machine, arg: machine.extend(machine.last(1)),
    "APPENDS": lambda machine, arg: machine.extend(machine.since_mark()),
    "TUPLE": lambda machine, arg: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, arg: machine.stack.append(tuple(machine.last(1))),
    "TUPLE2": lambda machine, arg: machine.stack.append(tuple(machine.last(2))),
    "TUPLE3": lambda machine, arg: machine.stack.append(tuple(machine.last(3))),
    "EMPTY_DICT": lambda machine, arg: machine.stack.append({}),
    "DICT": Machine.make_dict,
    "SETITEM": lambda machine, arg: machine.update(machine.last(2)),
    "SETITEMS": lambda machine, arg: machine.update(machine.since_mark()),
    "PUT": Machine.remember,
    "BINPUT": Machine.remember,
    "LONG_BINPUT": Machine.remember,
    "MEMOIZE": Machine.remember,
    "GET": Machine.recall,
    "BINGET": Machine.recall,
    "LONG_BINGET": Machine.recall,
    "GLOBAL": lambda machine, arg: machine.find(*arg.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, arg: machine.find(*machine.last(2)),
    "REDUCE": Machine.reduce,
    "BUILD": Machine.build,
}


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> RecordedArray:
    return RecordedArray()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> RecordedArray:
    array = RecordedArray()
    array.set_state((1, shape, kind, order == "F", data))
    return array


def _scalar(kind: Any, data: Any) -> RecordedArray:
    array = RecordedArray()
    array.set_state((1, None, kind, False, data))
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"asks for text in {_shown(encoding)}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _no_array(*args: Any) -> Any:
    raise Refused("calls numpy.ndarray")


_MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _no_array,  # named as the type of an array, never called
    ("numpy", "dtype"): Kind,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,  # how protocols below 3 say b""
}
