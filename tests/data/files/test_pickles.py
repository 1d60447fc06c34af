"""Pickles of arrays and plain values are read; nothing in a pickle is ever run, whatever it asks for."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.files import pickles
from trainer.data.files.pickles import read_pickle
from trainer.runtime.errors import DataError


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_names_survive(protocol: int) -> None:
    for value in (
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([[1, 2]], dtype=">i2"),
        np.zeros((0, 4), np.float32),
        np.array([True]),
        np.arange(50_000),
    ):
        read = read_pickle(pickle.dumps(value, protocol), "here")
        np.testing.assert_array_equal(read, value)
        assert (read.dtype, read.shape, read.flags.writeable) == (value.dtype, value.shape, True)
        assert read.flags.f_contiguous == value.flags.f_contiguous
    assert read_pickle(pickle.dumps(np.float64(2.5), protocol), "here") == 2.5
    for plain in (["0000000001", "0000000002"], 4, "text"):
        assert read_pickle(pickle.dumps(plain, protocol), "here") == plain


def array_of(*arrays: np.ndarray) -> np.ndarray:
    objects = np.empty(len(arrays), object)
    objects[:] = arrays
    return objects


def test_arrays_of_arrays_of_different_size_survive() -> None:
    read = read_pickle(pickle.dumps(array_of(np.ones((2, 3)), np.zeros((4, 1))), 4), "here")
    assert read.dtype == object
    assert [entry.shape for entry in read] == [(2, 3), (4, 1)]


def test_arrays_of_a_stream_are_in_memory_once(tmp_path: Path) -> None:
    maps = [np.full((300, 400), i, np.float32) for i in range(20)]
    path, num_bytes = tmp_path / "maps.pkl", sum(entry.nbytes for entry in maps)
    path.write_bytes(pickle.dumps(array_of(*maps[:-1], maps[-1][:9]), 4))
    with path.open("rb") as stream:
        tracemalloc.start()
        read = read_pickle(stream, "here", path.stat().st_size)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert [int(entry[0, 0]) for entry in read] == list(range(20))
    assert peak < 1.3 * num_bytes


class Harmless:
    pass


def doubled(times: int) -> bytes:
    """A tuple of two references to the same tuple, and so on: `hash` and `repr` of it take for ever."""
    return b"\x80\x04)" + b"".join(b"\x94h%ch%c\x86" % (i, i) for i in range(times)) + b"\x94"


MANY = "takes more memory or time"
TEXT = b"\x80\x04\x8d" + (1 << 20).to_bytes(8, "little") + b"x" * (1 << 20) + b"\x94"  # memoised
AGAIN = b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86R"
ARRAY = b"cnumpy.core.numeric\n_frombuffer\n(h\x00cnumpy\ndtype\n\x8c\x02u1\x85RJ\x00\x00\x10\x00\x85\x8c\x01CtR"
BYTES = b"\x80\x04B" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20) + b"\x94"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Harmless()), "asks for .*Harmless"),
        (pickle.dumps(print), "asks for builtins.print"),
        (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system"),
        (b"cnumpy\nndarray\n((I2\ntS'f4'\ntR.", "not callable"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "holds an array of 'V8'"),
        (pickle.dumps(np.zeros(2, [("a", "f4")])), "holds an array of"),
        (pickle.dumps({1, 2}), "holds a set"),
        (pickle.dumps({"a": 1}), "holds a dict"),
        (pickle.dumps([["a"]]), "holds a list"),
        (b"Pabc\n.", "not a readable pickle"),
        (b"(ios\nsystem\n.", "asks for os.system"),
        (b"(cos\nsystem\nS'true'\no.", "asks for os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", "asks for os.system"),
        (b"cnumpy\ndtype\n(S'f4'\ntR}S'__setstate__'\ncos\nsystem\nsb.", "asks for os.system"),
        (b"cnumpy\ndtype\n(S'f4'\ntR.", "holds a Kind"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(NNNtR.", "holds a Array without data"),
        (pickle.dumps(np.arange(3))[:-20], "not a readable pickle"),
        (b"Nr\xff\xff\xff\x7f.", MANY),  # 64 GB for one place
        (b"\x80\x04\x96" + b"\xff" * 5 + b"\x00\x00\x00a.", MANY),  # a terabyte of bytes
        (b"\x80\x04" + b"]" * 5000 + b"a" * 4999 + b".", "holds a list"),
        (doubled(60) + b"}h\x3cNs.", MANY),
        (TEXT + b"(" + 20_000 * AGAIN + b"l.", MANY),
        (BYTES + b"(" + 20_000 * ARRAY + b"l.", "unpacks to more memory"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_within_limits(content: bytes, message: str, monkeypatch) -> None:
    """A few bytes could take all memory or hours; the next pickle is read as if nothing had been."""
    monkeypatch.setattr(pickles, "_SECONDS", 1)
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"^here.*{message}"):
        read_pickle(content, "here")
    assert tracemalloc.get_traced_memory()[1] < (1 << 20) + 10 * len(content)
    tracemalloc.stop()
    assert read_pickle(pickle.dumps(np.arange(3)), "here").tolist() == [0, 1, 2]


def test_a_stream_that_ends_too_early_keeps_nobody_waiting(monkeypatch) -> None:
    monkeypatch.setattr(pickles, "_WAITING", 0.05)
    content = pickle.dumps(np.arange(3))
    with pytest.raises(DataError, match=MANY):  # the process still waits for the rest
        read_pickle(io.BytesIO(content), "here", len(content) + 1)
    monkeypatch.undo()
    assert read_pickle(content, "here").tolist() == [0, 1, 2]


@settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_damaged_pickle_is_an_array_or_an_error(place: int, noise: bytes) -> None:
    content = bytearray(pickle.dumps(array_of(np.ones((2, 3)), np.zeros(4)), 4))
    place %= len(content)
    content[place : place + len(noise)] = noise
    with suppress(DataError):
        read_pickle(bytes(content), "here")


def test_a_fork_has_a_process_of_its_own() -> None:
    read_pickle(pickle.dumps(np.arange(3)), "here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks of threads
        pid = os.fork()
    if not pid:
        os._exit(0 if read_pickle(pickle.dumps(np.arange(4)), "here").tolist() == [0, 1, 2, 3] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert read_pickle(pickle.dumps(np.arange(3)), "here").tolist() == [0, 1, 2]
