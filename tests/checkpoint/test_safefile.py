"""A file gives back what was written, bit for bit, or says that it cannot."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file

from tests.faults.damage import flipped
from trainer.checkpoint import safefile
from trainer.checkpoint.safefile import DamagedFile
from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite


def contents() -> dict[str, torch.Tensor]:
    """A few hundred bytes of every kind: empty, 0-d, 16 bit, integers, bools."""
    generator = torch.Generator().manual_seed(0)
    return {
        "networks.depth.weight": torch.randn(3, 5, generator=generator),
        "networks.depth.half": torch.randn(7, generator=generator).bfloat16(),
        "networks.depth.num_batches_tracked": torch.tensor(12),
        "networks.depth.flags": torch.tensor([True, False, True]),
        "optim.step": torch.tensor(3.0),
        "a.empty": torch.zeros(0, 4, dtype=torch.float64),
        "z.empty": torch.zeros(0),
    }


METADATA = {"hparams": '{"lr": 0.0001, "name": "Zürich"}', "step": "3", "note": "two\n\tlines"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    safefile.write(path, contents(), METADATA)
    return path


def assert_equal(read: dict[str, torch.Tensor], written: dict[str, torch.Tensor]) -> None:
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert torch.equal(read[name], tensor), name


def test_what_is_read_is_what_was_written(path: Path) -> None:
    tensors, metadata = safefile.read(path)
    assert_equal(tensors, contents())
    assert {k: metadata[k] for k in METADATA} == METADATA
    assert metadata["format_version"] == "3"
    assert safefile.read_metadata(path) == metadata


def test_the_library_of_safetensors_opens_it(path: Path) -> None:
    assert_equal(load_file(path), contents())
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == safefile.read_metadata(path)


@pytest.mark.parametrize("dtype", safefile.NAMES, ids=str)
def test_every_dtype_survives(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([0, 1, 2, 100]).to(dtype)
    safefile.write(tmp_path / "x", {"t": tensor, "scalar": tensor[2]}, {})
    tensors = safefile.read(tmp_path / "x")[0]
    raw = {name: read.reshape(-1).view(torch.uint8) for name, read in tensors.items()}
    assert_equal(raw, {"t": tensor.view(torch.uint8), "scalar": tensor[2:3].view(torch.uint8)})
    if dtype.itemsize > 1 or dtype in (torch.uint8, torch.int8, torch.bool):
        assert load_file(tmp_path / "x")["t"].dtype == dtype


def test_transposed_sliced_and_tied_tensors_are_stored_by_value(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    views = {"base": base, "tied": base, "transposed": base.T, "slice": base[1:, ::2]}
    safefile.write(tmp_path / "x", views, {})
    tensors = safefile.read(tmp_path / "x")[0]
    assert_equal(tensors, {k: v.detach() for k, v in views.items()})
    tensors["base"][0, 0] = -1  # each name has memory of its own
    assert tensors["tied"][0, 0] == 0
    assert not tensors["base"].requires_grad


def test_the_bytes_are_a_function_of_the_content(path: Path) -> None:
    """The order of the dictionaries does not show; the library's own writer orders metadata by hash."""
    again = path.with_name("again")
    safefile.write(again, dict(reversed(contents().items())), dict(reversed(METADATA.items())))
    assert again.read_bytes() == path.read_bytes()


def test_equal_tensors_have_an_equal_checksum_whatever_the_metadata(tmp_path: Path) -> None:
    sums = []
    for note, factor in (("a", 1.0), ("b", 1.0), ("b", 2.0)):
        safefile.write(tmp_path / "x", {"t": torch.ones(3) * factor}, {"note": note})
        sums.append(safefile.read_metadata(tmp_path / "x")["checksum"])
    assert sums[0] == sums[1] != sums[2]


def test_the_checksum_is_that_of_names_and_bytes_and_of_format_2_a_sha256(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, content = {"t": torch.ones(3)}, b'[["t","F32",[3]]]' + 3 * b"\0\0\x80\x3f"
    for version, checksum in ((2, hashlib.sha256(content).hexdigest()), (3, f"{zlib.crc32(content):08x}")):
        monkeypatch.setattr(safefile, "FORMAT_VERSION", version)
        path = tmp_path / f"{version}.safetensors"
        safefile.write(path, tensors, {})
        monkeypatch.undo()
        read, metadata = safefile.read(path)
        assert_equal(read, tensors)
        assert metadata["checksum"] == checksum
        path.write_bytes(path.read_bytes()[:-1] + b"\x3e")
        with pytest.raises(DamagedFile, match="at least one bit is wrong"):
            safefile.read(path)


def test_a_single_flipped_bit_anywhere_is_noticed(path: Path) -> None:
    """A bit of every byte, one at a time: length, header, padding, every tensor."""
    good = path.read_bytes()
    data = 8 + int.from_bytes(good[:8], "little")
    assert len(good) - data == 8 + 15 * 4 + 4 + 7 * 2 + 3  # all tensors are there
    for bit in range(0, 8 * len(good), 7):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(DamagedFile, match=r"x\.safetensors: "):
            safefile.read(path)
        if bit < 8 * data:
            with pytest.raises(DamagedFile):
                safefile.read_metadata(path)
    path.write_bytes(good)
    safefile.read(path)


@pytest.mark.parametrize("percent", [*range(0, 100, 10), 99.9])
def test_missing_and_added_bytes_are_noticed(path: Path, percent: float) -> None:
    good = path.read_bytes()
    path.write_bytes(good[: int(len(good) * percent / 100)])
    with pytest.raises(DamagedFile, match="truncated" if percent else "the file is empty"):
        safefile.read(path)
    with pytest.raises(DamagedFile):
        safefile.read_metadata(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(DamagedFile, match="too long"):
        safefile.read(path)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"t": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "has the shape"),
        ({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "cannot take the bytes 0 to 4"),
        ({"t": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, "F33"),
        ({"t": 3}, "not that of a safetensors file"),
        ([], "not that of a safetensors file"),
        ({"__metadata__": {"a": 1}}, "metadata that is not text"),
        ({"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "carries no checksum"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, header: object, reason: str) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + b"\0\0\0\0")
    with pytest.raises(DamagedFile, match=reason):
        safefile.read(tmp_path / "x")


@pytest.mark.parametrize("length", [0x0280, 0x0480], ids=hex)
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path, length: int) -> None:
    """Lengths are written low byte first, and 80 02 and 80 04 are also how pickles begin."""
    path = tmp_path / "x.safetensors"
    for padding in range(0, length, 8):  # headers are padded to a multiple of 8
        safefile.write(path, {"a": torch.zeros(1)}, {"note": "x" * padding})
        if int.from_bytes(path.read_bytes()[:8], "little") == length:
            break
    assert path.read_bytes()[1] in (2, 4)
    assert safefile.read(path)[1]["note"] == "x" * padding


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_named_as_such_and_never_opened(tmp_path: Path, zipped: bool) -> None:
    torch.save({"state_dict": {}}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(DamagedFile, match=r"pickled PyTorch file.*monodepth convert"):
        safefile.read(tmp_path / "x.ckpt")


def test_a_text_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("net:\n  depth:\n    enc_name: resnet18\n")
    with pytest.raises(DamagedFile, match="not a safetensors file"):
        safefile.read(tmp_path / "x.yaml")


def test_a_missing_file_and_a_folder_are_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file.*holds: x\.safetensors"):
        safefile.read(path.with_name("y.safetensors"))
    with pytest.raises(UserError, match=r"no such file\. Check the path"):
        safefile.read(path.parent / "nowhere" / "y.safetensors")
    with pytest.raises(UserError, match="is a folder"):
        safefile.read(path.parent)


def test_a_newer_format_is_not_guessed_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(safefile, "FORMAT_VERSION", 4)
        safefile.write(path, contents(), METADATA)
    with pytest.raises(UserError, match="has format 4, this trainer reads up to 3"):
        safefile.read(path)


def test_what_cannot_be_stored_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="__metadata__"):
        safefile.write(tmp_path / "x", {"__metadata__": torch.ones(1)}, {})
    with pytest.raises(TypeError, match=r"'c'.*complex128"):
        safefile.write(tmp_path / "x", {"c": torch.ones(1, dtype=torch.complex128)}, {})
    with pytest.raises(TypeError, match=r"'s'.*sparse"):
        safefile.write(tmp_path / "x", {"s": torch.eye(2).to_sparse()}, {})
    with pytest.raises(TypeError, match="'epoch' must be text, not int: 3"):
        safefile.write(tmp_path / "x", {}, {"epoch": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="'note' has control characters"):
        safefile.write(tmp_path / "x", {}, {"note": "\x1f"})
    assert list(tmp_path.iterdir()) == []


def test_a_header_that_others_could_not_read_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safefile, "MAX_HEADER", 200)
    with pytest.raises(ValueError, match="shorten the metadata"):
        safefile.write(path, {}, {"hparams": "x" * 300})


def test_the_file_replaced_can_be_kept(path: Path) -> None:
    previous = path.with_name("previous")
    for value in (1.0, 2.0):
        safefile.write(path, {"t": torch.tensor(value)}, {}, keep_previous=previous)
    assert safefile.read(path)[0]["t"] == 2
    assert safefile.read(previous)[0]["t"] == 1


@pytest.mark.parametrize("where", ["length", "header", "tensor", "end", "lost", "added"])
def test_a_disk_that_forgets_is_noticed_when_writing(path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """What reaches the disk is read back before the old file is given up."""
    real = os.fsync

    def flip(descriptor: int) -> None:
        if (size := os.fstat(descriptor).st_size) > 100:
            start = {"length": 0, "header": 20, "tensor": size - 300, "end": size - 2, "added": size}
            if where == "lost":
                os.ftruncate(descriptor, size - 8)
            else:
                os.pwrite(descriptor, b"\xff\xff", start[where])
        real(descriptor)

    good = path.read_bytes()
    monkeypatch.setattr(os, "fsync", flip)
    with pytest.raises(CannotWrite, match=r"read back differs from what was written.*is untouched"):
        safefile.write(path, {"t": torch.zeros(100)}, {})
    assert path.read_bytes() == good
    assert list(path.parent.iterdir()) == [path]


def test_each_wrong_bit_is_found_when_reading_back(tmp_path: Path) -> None:
    """Pieces of many lengths in turn: the rest of a longer one must not stand in for a shorter one."""
    pieces = [bytes([i]) * length for i, length in enumerate((9, 64, 1, 64, 30, 0, 64, 7))]
    good, path = b"".join(pieces), tmp_path / "x"
    path.write_bytes(good)
    safefile._verify(path, pieces)
    for i in range(len(good)):
        path.write_bytes(flipped(good, i, i % 8))
        with pytest.raises(OSError, match="differs"):
            safefile._verify(path, pieces)
    for wrong in (good[:-1], good[:-7], good[:40], b"", good + b"\0", good[9:], pieces[1] + pieces[0] + good[73:]):
        path.write_bytes(wrong)
        with pytest.raises(OSError, match="differs"):
            safefile._verify(path, pieces)


def test_each_byte_is_hashed_once_and_the_header_comes_last(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its checksum is known a file says nothing that could be taken for one."""
    hashed, half_written = [], []
    new_checksum = safefile._Header.new_checksum

    class Counting:
        def __init__(self, header: safefile._Header):
            self.real = new_checksum(header)

        def update(self, piece: memoryview) -> None:
            hashed.append(len(piece))
            self.real.update(piece)

        def hexdigest(self) -> str:
            half_written.extend(staged.read_bytes() for staged in path.parent.glob(".*.tmp-*"))
            return self.real.hexdigest()

    monkeypatch.setattr(safefile._Header, "new_checksum", lambda header: Counting(header))
    monkeypatch.setattr(safefile, "PIECE", 64)  # several pieces for a tensor, the last one shorter
    tensors = {"a": torch.arange(100.0), "b": torch.ones(3)}
    safefile.write(path, tensors, METADATA)
    monkeypatch.undo()
    assert_equal(safefile.read(path)[0], tensors)
    assert sum(hashed) == 103 * 4
    good = path.read_bytes()
    path.write_bytes(half_written[0].ljust(len(good), b"\0"))
    with pytest.raises(DamagedFile):
        safefile.read(path)
