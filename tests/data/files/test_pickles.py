"""Pickles of arrays and plain values are read; nothing in a pickle is ever run, whatever it asks for."""

from __future__ import annotations

import io
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.base import DataError
from trainer.data.files.pickles import read_pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([[1, 2]], dtype=">i2"),
        np.zeros((0, 4), np.float32),
        np.float64(2.5),
        {"a": [1, 2.5, None, True, (b"x", "y")], "b": {"c": np.array([True])}},
        ["0000000001", "0000000002"],
    ],
    ids=["array", "fortran", "big endian", "empty", "scalar", "nested", "keys"],
)
def test_arrays_and_plain_values_survive(value: Any, protocol: int) -> None:
    if protocol < 2 and isinstance(value, dict):
        pytest.skip("protocols 0 and 1 call copyreg for bool and bytes")
    read = read_pickle(pickle.dumps(value, protocol), "here")
    np.testing.assert_equal(read, value)
    if isinstance(value, np.ndarray):
        assert read.dtype == value.dtype
        assert read.flags.writeable


def array_of(*arrays: np.ndarray) -> np.ndarray:
    objects = np.empty(len(arrays), object)
    objects[:] = arrays
    return objects


def test_arrays_of_arrays_of_different_size_survive() -> None:
    read = read_pickle(pickle.dumps(array_of(np.ones((2, 3)), np.zeros((4, 1))), 4), "here")
    assert read.dtype == object
    assert [entry.shape for entry in read] == [(2, 3), (4, 1)]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_large_values_survive_as_what_they_are(protocol: int) -> None:
    value = {"array": np.arange(5000.0), "fortran": np.zeros((90, 80), order="F"), "text": "x" * 70_000}
    value["bytes"] = bytes(70_000) if protocol > 2 else b""  # protocol 2 says them as text
    read = read_pickle(io.BytesIO(pickle.dumps(value, protocol)), "here")
    np.testing.assert_equal(read, value)
    assert {key: type(entry) for key, entry in read.items()} == {key: type(v) for key, v in value.items()}
    assert read["array"].flags.writeable
    assert read["fortran"].flags.f_contiguous


def test_arrays_of_a_stream_are_in_memory_once(tmp_path: Path) -> None:
    maps = [np.full((300, 400), i, np.float32) for i in range(20)]
    path, num_bytes = tmp_path / "maps.pkl", sum(entry.nbytes for entry in maps)
    path.write_bytes(pickle.dumps(array_of(*maps[:-1], maps[-1][:9]), 4))
    with path.open("rb") as stream:
        tracemalloc.start()
        read = read_pickle(stream, "here")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert [int(entry[0, 0]) for entry in read] == list(range(20))
    assert peak < 1.3 * num_bytes


class Harmless:
    pass


def nested_objects(entry: bytes) -> bytes:
    """An array of objects, the first of which is something else, protocol 0."""
    array = np.empty(2, object)
    array[:] = [[1, "entry"], None]
    return pickle.dumps(array, 0).replace(b"Ventry", entry + b"\nVentry", 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Harmless()), "asks for .*Harmless"),
        (pickle.dumps(print), "asks for builtins.print"),
        (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system"),
        (b"cnumpy\nndarray\n((I2\ntS'f4'\ntR.", "calls numpy.ndarray"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "holds an array of 'V8'"),
        (pickle.dumps(np.zeros(2, [("a", "f4")])), "holds an array of"),
        (pickle.dumps({1, 2}), "uses EMPTY_SET"),
        (b"c_codecs\nencode\n(S'a'\nS'zip'\ntR.", "asks for text in 'zip'"),
        (b"Pabc\n.", "uses PERSID"),
        (b"(ios\nsystem\n.", "uses INST"),
        (b"(cos\nsystem\nS'true'\no.", "asks for os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "asks for os.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93)\x81.", "uses NEWOBJ"),
        (b"cnumpy\ndtype\n(S'f4'\ntR}S'__setstate__'\ncos\nsystem\nsb.", "asks for os.system"),
        (b"\x80\x04]}b.", "gives a state to what has none"),
        (b"\x80\x04\x8c\x01a)R.", "'str' object is not callable"),
        (b"\x82\x01.", "uses EXT1"),
        (nested_objects(b"cos\nsystem\n(S'true'\ntR"), "asks for os.system"),
    ],
)
def test_everything_else_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"^here.*{message}"):
        read_pickle(content, "here")


def doubled(times: int) -> bytes:
    """A tuple of two references to the same tuple, and so on: `hash` and `repr` of it take for ever."""
    return b"\x80\x04)" + b"".join(b"\x94h%ch%c\x86" % (i, i) for i in range(times)) + b"\x94"


TEXT = b"\x80\x04\x8d" + (1 << 20).to_bytes(8, "little") + b"x" * (1 << 20) + b"\x94"  # memoised
AGAIN = b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86R"
ARRAY = b"cnumpy.core.numeric\n_frombuffer\n(h\x00cnumpy\ndtype\n\x8c\x02u1\x85RK\x01\x85\x8c\x01CtR"
BYTES = b"\x80\x04B" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20) + b"\x94"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Nr\xff\xff\xff\x7f.", ""),  # read by `pickle`, 64 GB for one place
        (b"\x80\x04\x96" + b"\xff" * 5 + b"\x00\x00\x00a.", "is not a readable pickle"),  # a terabyte of bytes
        (b"\x80\x04" + b"]" * 5000 + b"a" * 4999 + b".", "is not a readable pickle"),
        (doubled(60) + b"}h\x3cNs.", "uses the same tuple again"),
        (b"\x80\x04]" + b"".join(b"\x94](h%ch%ce" % (i, i) for i in range(60)) + b".", "uses the same list again"),
        (TEXT + b"(" + 20_000 * AGAIN + b"l.", "uses the same str again"),
        (BYTES + b"(" + 20_000 * ARRAY + b"l.", "uses the same bytes again"),
    ],
    ids=["place", "length", "depth", "tuples", "lists", "texts", "arrays"],
)  # fmt: skip
def test_a_few_bytes_cannot_take_all_memory_or_time(content: bytes, message: str) -> None:
    tracemalloc.start()
    if message:
        with pytest.raises(DataError, match=rf"^here.*{message}"):
            read_pickle(content, "here")
    else:
        assert read_pickle(content, "here") is None
    assert tracemalloc.get_traced_memory()[1] < (1 << 20) + 10 * len(content)
    tracemalloc.stop()


def test_short_values_and_arrays_may_be_used_again() -> None:
    array = np.arange(3.0)
    one, other = read_pickle(pickle.dumps([array, array, "text", "text"], 4), "here")[:2]
    assert one is other
    assert one.tolist() == [0, 1, 2]


def test_a_pickle_cannot_alter_how_the_next_one_is_read() -> None:
    """Attributes cannot be set on the stand-ins for NumPy's functions."""
    tamper = b"\x80\x02cnumpy\ndtype\n(N}X\x05\x00\x00\x00_makeK\x01s\x86b."
    with pytest.raises(DataError):
        read_pickle(tamper, "here")
    assert read_pickle(pickle.dumps(np.arange(3)), "here").tolist() == [0, 1, 2]
