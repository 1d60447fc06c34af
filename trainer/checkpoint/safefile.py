"""Write and read one safetensors file, verified both times: tensors and text, nothing about training.

The format (https://huggingface.co/docs/safetensors) is 8 bytes header length, a JSON header, the data. The library
writes metadata in random order, so equal content would give different files, and does not notice a flipped bit in the
data; here two checksums cover everything.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models_zoo.weights import looks_pickled
from trainer.runtime.errors import UserError
from trainer.runtime.files import open_file, replacing

FORMAT_VERSION = 3  # 1 had numbers of the validation in per cent (`schema.upgraded`)
CHECKSUM = "checksum"  # CRC-32 of the tensors: names, types, shapes, bytes; sha256, four times as slow, in 1 and 2
HEADER_CHECKSUM = "header_checksum"  # sha256 of all other metadata, and names, types, shapes
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
MAX_NUMBERS = 1 << 48  # in a tensor, zeros in its shape counted as ones; torch fails beyond 2**63 bytes
PIECE = 1 << 20  # bytes hashed, written or compared at a time, so that Ctrl-C works; no other size was faster

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

ADVICE = "Use a copy, an older checkpoint, or train again"
# JSON spells these \u001f or \u001F, so that a flipped bit could go unnoticed.
_NEAR = 3  # runs that a message names
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f]")


class DamagedFile(UserError):
    """A file that was changed or cut after writing; the message names it and what is wrong."""


class _Crc32:
    """CRC-32, used like the hashes of hashlib. ZIP archives, and so `torch.save`, are protected by the same."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | memoryview) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


@dataclass(frozen=True)
class _Header:
    tensors: list[tuple[str, str, list[int]]]  # name, dtype name, shape, in the order of the data
    metadata: dict[str, str]

    def to_bytes(self) -> bytes:
        """Serialise with sorted keys, padded so that the data starts at a multiple of 8 bytes."""
        entries: dict[str, Any] = {"__metadata__": dict(sorted(self.metadata.items()))}
        start = 0
        for name, dtype, shape in self.tensors:
            stop = start + _num_bytes(dtype, shape)
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
            start = stop
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        if len(text) > MAX_HEADER:
            raise ValueError(f"the header takes {len(text)} bytes, more than {MAX_HEADER}: shorten the metadata")
        return len(text).to_bytes(8, "little") + text

    def new_checksum(self) -> Any:
        """Begin the checksum of the tensors; the bytes of the data come next, to `update`."""
        start = hashlib.sha256() if self.metadata["format_version"] in ("1", "2") else _Crc32()
        start.update(json.dumps(self.tensors, separators=(",", ":")).encode())
        return start

    def header_checksum(self) -> str:
        """Hash all but this checksum itself."""
        rest = {k: v for k, v in self.metadata.items() if k != HEADER_CHECKSUM}
        return hashlib.sha256(json.dumps([self.tensors, rest], sort_keys=True).encode()).hexdigest()


def write(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, keep_previous: Path | None = None
) -> str:
    """Write `tensors` and `metadata` to `path`, replacing it only when the new file is complete and verified.

    Tensors may be on any device, share storage (each name gets its own bytes) and be non-contiguous. Equal content
    gives equal bytes. Adds `checksum`, `header_checksum` and `format_version` to the metadata, and returns the second:
    no other file has it.

    Args:
        keep_previous: new name of the file now at `path`, replacing any of that name.

    Raises:
        CannotWrite: disk full, read-only, ...; `path` is untouched then.
        TypeError, ValueError: a type that safetensors lacks, metadata that is not text, a reserved name.
    """
    _check(tensors, metadata)
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # keeps all of them aligned
    data = {name: tensors[name].detach().cpu().contiguous() for name in order}
    specs = [(name, NAMES[tensor.dtype], list(tensor.shape)) for name, tensor in data.items()]
    header = _Header(specs, {**metadata, "format_version": str(FORMAT_VERSION)})
    checksum = header.new_checksum()
    # Until the data are written; as long as the right ones, and no checksums of anything.
    header.metadata.update({CHECKSUM: "0" * len(checksum.hexdigest()), HEADER_CHECKSUM: "0" * 64})
    head = header.to_bytes()
    pieces = [piece for tensor in data.values() for piece in _pieces(tensor)]
    with replacing(path, keep_previous) as staged:
        with open(staged, "wb") as file:
            file.write(head)
            for piece in pieces:
                file.write(piece)
                checksum.update(piece)
            header.metadata[CHECKSUM] = checksum.hexdigest()
            header.metadata[HEADER_CHECKSUM] = header.header_checksum()
            head = header.to_bytes()
            file.seek(0)
            file.write(head)
            file.flush()
            os.fsync(file.fileno())
        _verify(staged, [head, *pieces])
    return header.metadata[HEADER_CHECKSUM]


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read and verify a file. Returns CPU tensors, each with memory of its own, and the metadata.

    Raises DamagedFile when a single bit differs from what was written, UserError when the file is missing.
    """
    with _opened(path) as file:
        header = _read_header(path, file)
        checksum, tensors = header.new_checksum(), {}
        for name, dtype, shape in header.tensors:
            tensors[name] = torch.empty(shape, dtype=DTYPES[dtype])
            for piece in _pieces(tensors[name]):
                file.readinto(piece)
                checksum.update(piece)
    if checksum.hexdigest() != header.metadata[CHECKSUM]:
        raise DamagedFile(f"{path}: the tensors do not match their checksum: at least one bit is wrong. {ADVICE}")
    return tensors, header.metadata


def read_metadata(path: Path) -> dict[str, str]:
    """Read and verify the header alone, which is fast. Raises like `read`, but not for wrong bits in tensors."""
    with _opened(path) as file:
        return _read_header(path, file).metadata


def _check(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    if "__metadata__" in tensors:
        raise ValueError("'__metadata__' cannot be the name of a tensor: safetensors reserves it")
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES or tensor.layout is not torch.strided:
            raise TypeError(f"tensor {name!r} is {tensor.layout} {tensor.dtype}: safetensors cannot store that")
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata {key!r} must be text, not {type(value).__name__}: {value!r}")
        if _CONTROL.search(key + value):
            raise ValueError(f"metadata {key!r} has control characters: {value!r}. Write it as JSON")


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        with open_file(path) as file:
            yield file
    except FileNotFoundError as error:
        others = sorted(p.name for p in path.parent.glob("*.safetensors"))
        others = others or sorted(p.parent.name for p in path.parent.glob("*/ckpts"))[:_NEAR]
        known = f"The folder {path.parent} holds: {', '.join(others)}" if others else "Check the path"
        what = "file" if path.suffix == ".safetensors" else "file or run"
        raise UserError(f"{path}: there is no such {what}. {known}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder. Name the .safetensors file in it") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. Check the path and the disk") from error


def _read_header(path: Path, file: BufferedReader) -> _Header:
    """Parse and verify the header, and that the file is as long as it says."""

    def damaged(reason: str) -> DamagedFile:
        return DamagedFile(f"{path}: {reason}. {ADVICE}")

    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if looks_pickled(start + file.peek(1)[:1]):
        raise DamagedFile(
            f"{path}: is a pickled PyTorch file (.ckpt, .pth), not safetensors. Nothing is unpickled here:"
            " turn it into a checkpoint with `monodepth convert`"
        )
    if size < 8:
        raise damaged(f"truncated: the file has {size} bytes" if size else "the file is empty")
    if not 2 <= length <= MAX_HEADER:
        raise damaged("not a safetensors file, or its first bytes are wrong")
    if 8 + length > size:
        raise damaged(f"truncated, or not safetensors: {size} bytes, the header alone needs {8 + length}")
    try:
        header, expected = _parse(file.read(length))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(f"the header is not that of a safetensors file ({error})") from error
    expected += 8 + length
    if size != expected:
        raise damaged(f"{'truncated' if size < expected else 'too long'}: {size} bytes instead of {expected}")
    if CHECKSUM not in header.metadata or HEADER_CHECKSUM not in header.metadata:
        raise damaged("carries no checksum, so it is damaged or was not written by this trainer")
    if header.header_checksum() != header.metadata[HEADER_CHECKSUM]:
        raise damaged("the header does not match its checksum: at least one bit is wrong")
    version = header.metadata.get("format_version", "")
    if not re.fullmatch(r"[0-9]{1,9}", version):
        raise damaged(f"the format_version is {version!r}, not a number")
    if int(version) > FORMAT_VERSION:
        raise UserError(f"{path}: has format {version}, this trainer reads up to {FORMAT_VERSION}. Update it")
    return header


def _parse(text: bytes) -> tuple[_Header, int]:
    """Return the header and the number of bytes of data. Raises ValueError, KeyError, ..."""
    entries = json.loads(text.decode())
    metadata = entries.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("metadata that is not text")
    tensors, end = [], 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        (start, stop), dtype, shape = entry["data_offsets"], entry["dtype"], entry["shape"]
        if not all(type(n) is int and n >= 0 for n in shape) or prod(max(n, 1) for n in shape) > MAX_NUMBERS:
            raise ValueError(f"{name} has the shape {shape}")
        if (start, stop) != (end, end + _num_bytes(dtype, shape)):
            raise ValueError(f"{name} of shape {shape} cannot take the bytes {start} to {stop}")
        tensors.append((name, dtype, shape))
        end = stop
    return _Header(tensors, metadata), end


def _num_bytes(dtype: str, shape: Iterable[int]) -> int:
    return prod(shape) * DTYPES[dtype].itemsize


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the memory of a contiguous CPU tensor in pieces of bytes, to read or write."""
    flat = tensor.reshape(-1).view(torch.uint8).numpy()
    for start in range(0, len(flat), PIECE):
        yield flat[start : start + PIECE].data


def _verify(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    """Read the file back and raise OSError unless it holds `pieces` and nothing else.

    It is not mapped into memory, because a disk that fails then would kill the process.
    """
    buffer = bytearray(max(map(len, pieces)))
    view = memoryview(buffer)
    with open(path, "rb") as file:
        for piece in pieces:
            if file.readinto(view[: len(piece)]) != len(piece) or not buffer.startswith(piece):
                break  # a bytearray compares by memcmp, a memoryview item by item
        else:
            if not file.read(1):
                return
    raise OSError(errno.EIO, "what was read back differs from what was written")
