"""NumPy files that are damaged or made by somebody else: named, never followed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from trainer.data.files.arrays import array_problem, read_array
from trainer.runtime.errors import DataError


def written(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


WHOLE = written(np.arange(12, dtype=np.float32).reshape(3, 4))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.eye(3)[:2]),
        np.zeros((0, 4)),
        np.float32(2),
        np.ones(3, ">i2"),
    ],
)
def test_what_is_written_is_read_from_memory_and_disk(array: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(written(array))
    for source in (io.BytesIO(written(array)), path, str(path)):
        read = read_array(source, "Fix")
        np.testing.assert_array_equal(read, array)
        assert read.dtype == array.dtype
        assert read.flags.writeable
    assert array_problem(str(path), "Fix") == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        WHOLE[:-1],
        WHOLE + b"x",
        WHOLE.replace(b"(3, 4)", b"(3, 9)"),
        WHOLE.replace(b"(3, 4), }        ", b"(99999999999, 4),}"),  # terabytes
        WHOLE.replace(b"(3, 4)", b"((3,4 "),  # np.load lets the error of the tokenizer through
        WHOLE.replace(b"(3, 4)", b"(03,4)"),  # and a SyntaxError
        WHOLE.replace(b"(3, 4)", b"(-3,4)"),
        WHOLE.replace(b"<f4", b"|O8"),
        b"PK\x03\x04" + WHOLE,
    ],
)  # fmt: skip
def test_everything_else_is_named_with_what_to_do(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{path} is not a readable array \(.*\)\. Fix it"):
        read_array(path, "Fix it")
    assert array_problem(str(path), "Fix it").startswith(f"{path} is not a readable array (")


def test_missing_files_are_called_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.npy is missing\. Fix it"):
        read_array(tmp_path / "a.npy", "Fix it")
