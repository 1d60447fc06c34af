"""One safetensors file, written atomically and verified when read. Knows tensors and strings, nothing about training.

The format is that of https://huggingface.co/docs/safetensors: 8 bytes header length, a JSON header, the data. It is written
here because the library writes metadata in random order, so that equal content would give different files, and because
the data is hashed on its way. A flipped bit in the data is invisible to the library; here two checksums cover everything.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from trainer.types import UserError

FORMAT_VERSION = 1
CHECKSUM = "checksum"  # sha256 of the tensors: names, types, shapes, bytes. Equal tensors have an equal one
METADATA_CHECKSUM = "metadata_checksum"  # sha256 of all other metadata
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
PIECE = 1 << 24  # bytes hashed or written at a time, so that Ctrl-C is heard in between

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

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04")  # zip and plain pickles of torch.save
_ADVICE = "Use a copy, an older checkpoint, or train again"
_STAGED = re.compile(r"\..+\.tmp-(\d+)$")


class DamagedFile(UserError):
    """A file whose bytes are not what was once written; the message names it and what is wrong."""


class CannotWrite(UserError):
    """The disk refused; the message says why, how much is free, and that what was there is still there."""


@dataclass(frozen=True)
class _Header:
    """The parsed beginning of a file: (name, dtype name, shape) of each tensor in the order of the data, and metadata."""

    tensors: list[tuple[str, str, list[int]]]
    metadata: dict[str, str]

    def to_bytes(self) -> bytes:
        """Serialise with sorted keys, padded so that the data starts at a multiple of 8 bytes."""
        entries: dict[str, Any] = {"__metadata__": dict(sorted(self.metadata.items()))}
        start = 0
        for name, dtype, shape in self.tensors:
            stop = start + _nbytes(dtype, shape)
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
            start = stop
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        if len(text) > MAX_HEADER:
            raise ValueError(
                f"the header takes {len(text)} bytes, more than {MAX_HEADER}: put less into the metadata"
            )
        return len(text).to_bytes(8, "little") + text

    def new_hash(self) -> Any:
        """Begin the checksum of the tensors; the bytes of the data come next."""
        return hashlib.sha256(json.dumps(self.tensors, separators=(",", ":")).encode())

    def metadata_checksum(self) -> str:
        """Hash the metadata but for this checksum itself."""
        rest = {k: v for k, v in self.metadata.items() if k != METADATA_CHECKSUM}
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    keep_previous: Path | None = None,
) -> None:
    """Write `tensors` and `metadata` to `path`, replacing it only when the new file is complete and verified.

    Tensors may live on any device, share storage (each name gets its own bytes) and be non-contiguous. The bytes of the
    file are a function of the content alone. `checksum`, `metadata_checksum` and `format_version` are added to the metadata.

    Args:
        keep_previous: where the file that `path` holds now goes; a file that is already there is dropped.

    Raises:
        CannotWrite: disk full, read-only, ...; `path` is untouched then.
        TypeError, ValueError: a type that safetensors lacks, metadata that is not text, a reserved name.
    """
    _check(tensors, metadata)
    order = sorted(
        tensors, key=lambda name: (-tensors[name].element_size(), name)
    )  # keeps every tensor aligned
    data = {name: tensors[name].detach().cpu().contiguous() for name in order}
    header = _Header([(k, NAMES[v.dtype], list(v.shape)) for k, v in data.items()], dict(metadata))
    digest = header.new_hash()
    for tensor in data.values():
        for piece in _pieces(tensor):
            digest.update(piece)
    header.metadata |= {"format_version": str(FORMAT_VERSION), CHECKSUM: digest.hexdigest()}
    header.metadata[METADATA_CHECKSUM] = header.metadata_checksum()
    with replacing(path, keep_previous) as staged:
        _write_all(staged, [header.to_bytes(), *(p for tensor in data.values() for p in _pieces(tensor))])
        _verify(staged, header)


def write_text(path: Path, text: str) -> None:
    """Replace a small text file atomically. Raises CannotWrite; the old file is untouched then."""
    with replacing(path) as staged:
        _write_all(staged, [text.encode()])


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read and verify a file written by `write`. Returns CPU tensors, each with memory of its own, and the metadata.

    Raises DamagedFile when a single bit differs from what was written, UserError when there is no such file.
    """
    path = Path(path)
    with _opened(path) as file:
        header = _read_header(path, file)
        digest, tensors = header.new_hash(), {}
        for name, dtype, shape in header.tensors:
            tensors[name] = torch.empty(shape, dtype=DTYPES[dtype])
            for piece in _pieces(tensors[name]):
                if file.readinto(piece) != len(piece):
                    raise DamagedFile(f"{path}: the file became shorter while it was read. {_ADVICE}")
                digest.update(piece)
    if digest.hexdigest() != header.metadata[CHECKSUM]:
        raise DamagedFile(
            f"{path}: the tensors do not match their checksum, so at least one bit is wrong. {_ADVICE}"
        )
    return tensors, header.metadata


def read_metadata(path: Path) -> dict[str, str]:
    """Read and verify the metadata alone, which takes no time. Raises like `read`; the tensors are not looked at."""
    path = Path(path)
    with _opened(path) as file:
        return _read_header(path, file).metadata


def clean_stale(folder: Path) -> list[Path]:
    """Delete what processes that died while writing left in `folder`; return it."""
    stale = []
    for path in Path(folder).glob(".*.tmp-*"):
        match = _STAGED.fullmatch(path.name)
        if match and not _is_alive(int(match[1])):
            path.unlink(missing_ok=True)
            stale.append(path)
    return stale


def require_space(folder: Path, num_bytes: int, purpose: str) -> None:
    """Raise CannotWrite when the disk of `folder` has less than `num_bytes` left for `purpose` ("3 checkpoints")."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise CannotWrite(
            f"{folder}: {purpose} need {num_bytes / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free."
            " Free some space or choose another folder"
        )


@contextmanager
def replacing(path: Path, keep_previous: Path | None = None) -> Iterator[Path]:
    """Give a file beside `path` to write to; it takes the place of `path` when the block ends well, else it is removed.

    Raises CannotWrite for every OSError in the block.
    """
    path = Path(path)
    staged = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield staged
        if keep_previous is not None and path.exists():
            _keep(path, keep_previous)
        os.replace(staged, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise CannotWrite(_refusal(path, error)) from error
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def _check(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    for name, tensor in tensors.items():
        if name == "__metadata__":
            raise ValueError("'__metadata__' cannot be the name of a tensor: safetensors reserves it")
        if tensor.dtype not in NAMES or tensor.layout is not torch.strided:
            raise TypeError(
                f"tensor {name!r} is {tensor.layout} {tensor.dtype}, which safetensors cannot store"
            )
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata {key!r} must be text, not {type(value).__name__}: {value!r}")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open for reading; what the operating system has against it becomes a sentence."""
    try:
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError as error:
        there = sorted(p.name for p in path.parent.glob("*.safetensors"))
        known = f"{path.parent} holds: {', '.join(there)}" if there else "Check the path"
        raise UserError(f"{path}: there is no such file. {known}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; name the .safetensors file in it") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _read_header(path: Path, file: BinaryIO) -> _Header:
    """Parse and verify all but the data, and that the file has just as many bytes as the data needs."""

    def damaged(reason: str) -> DamagedFile:
        return DamagedFile(f"{path}: {reason}. {_ADVICE}")

    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if start.startswith(_PICKLES):
        raise DamagedFile(
            f"{path}: is a pickled PyTorch file (.ckpt, .pth), not safetensors. Nothing is ever unpickled here:"
            " turn it into a checkpoint with the importer, launch/convert.py"
        )
    if size < 8:
        raise damaged(f"truncated: the file has {size} bytes" if size else "the file is empty")
    if not 2 <= length <= MAX_HEADER:
        raise damaged("not a safetensors file, or its first bytes are wrong")
    if 8 + length > size:
        raise damaged(
            f"truncated, or not a safetensors file: {size} bytes, the header alone needs {8 + length}"
        )
    try:
        header, expected = _parse(file.read(length))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(f"the header is not that of a safetensors file ({error})") from error
    expected += 8 + length
    if size != expected:
        raise damaged(
            f"{'truncated' if size < expected else 'too long'}: {size} bytes, the tensors need {expected}"
        )
    if CHECKSUM not in header.metadata or METADATA_CHECKSUM not in header.metadata:
        raise damaged("carries no checksum, so it is damaged or was not written by this trainer")
    if header.metadata_checksum() != header.metadata[METADATA_CHECKSUM]:
        raise damaged("the metadata do not match their checksum, so at least one bit is wrong")
    if int(header.metadata["format_version"]) > FORMAT_VERSION:
        raise UserError(
            f"{path}: has format {header.metadata['format_version']}, this trainer reads up to {FORMAT_VERSION}."
            " Update the trainer"
        )
    return header


def _parse(text: bytes) -> tuple[_Header, int]:
    """Read the JSON header. Returns it and the number of bytes of data; raises ValueError, TypeError, ... when it is none."""
    entries = json.loads(text.decode())
    metadata = entries.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("metadata that is not text")
    spans = sorted((*entry["data_offsets"], name) for name, entry in entries.items())
    tensors, end = [], 0
    for start, stop, name in spans:
        dtype, shape = entries[name]["dtype"], entries[name]["shape"]
        if not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError(f"{name} has the shape {shape}")
        if (start, stop) != (end, end + _nbytes(dtype, shape)):
            raise ValueError(f"{name} of shape {shape} cannot take the bytes {start} to {stop}")
        tensors.append((name, dtype, shape))
        end = stop
    return _Header(tensors, metadata), end


def _nbytes(dtype: str, shape: list[int]) -> int:
    return prod(shape) * DTYPES[dtype].itemsize


def _pieces(tensor: Tensor) -> Iterator[Any]:
    """Give the memory of a contiguous CPU tensor as writable pieces of bytes."""
    flat: np.ndarray = tensor.reshape(-1).view(torch.uint8).numpy()
    for start in range(0, len(flat), PIECE):
        yield memoryview(flat[start : start + PIECE])  # type: ignore[arg-type]


def _write_all(path: Path, pieces: Iterable[Any]) -> None:
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _verify(path: Path, header: _Header) -> None:
    """Read back what was written and raise OSError when it differs from what was meant."""
    expected, digest = header.to_bytes(), header.new_hash()
    with open(path, "rb") as file:
        same = file.read(len(expected)) == expected
        buffer = bytearray(PIECE)
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    if not same or digest.hexdigest() != header.metadata[CHECKSUM]:
        raise OSError(errno.EIO, "what was read back differs from what was written")


def _keep(path: Path, previous: Path) -> None:
    """Give the file at `path` a second name, so that it survives being replaced and `path` is never missing."""
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError as error:  # a file system without hard links: for a moment only `previous` exists
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        os.replace(path, previous)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; some network file systems cannot be asked to."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(path: Path, error: OSError) -> str:
    try:
        free = f" ({shutil.disk_usage(path.parent).free / 1e6:.0f} MB free there)"
    except OSError:
        free = ""
    kept = " The file that was there before is untouched." if path.exists() else ""
    return f"{path}: cannot be written: {error.strerror or error}{free}.{kept} Free some space or choose another folder"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's process
        return True
    return True
