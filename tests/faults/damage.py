"""What can happen to a file between two starts, as functions from its bytes to other bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator

import torch


def flipped(data: bytes, index: int, bit: int = 0) -> bytes:
    """Turn one bit."""
    changed = bytearray(data)
    changed[index] ^= 1 << bit
    return bytes(changed)


def header_size(data: bytes) -> int:
    """Bytes before the data of the tensors: the length, and the JSON."""
    return 8 + int.from_bytes(data[:8], "little")


def tensor_ranges(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, first and one past the last byte of each tensor."""
    start = header_size(data)
    header = json.loads(data[8:start])
    header.pop("__metadata__")
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        yield name, start + first, start + end


def pickled(data: bytes) -> bytes:
    """A file that torch.save would have written in its place."""
    buffer = io.BytesIO()
    torch.save({"state_dict": {}}, buffer)
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the length": lambda data: flipped(data, 1),
    "a bit of the header": lambda data: flipped(data, 8 + (header_size(data) - 8) // 2),
    "a bit of the metadata": lambda data: flipped(data, data.index(b'"step":"') + 8),
    "a bit of the first tensor": lambda data: flipped(data, header_size(data)),
    "a bit of the tail": lambda data: flipped(data, len(data) - 1),
    "half of it": lambda data: data[: len(data) // 2],
    "nothing of it": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "a pickle": pickled,
    "too long": lambda data: data + b"\0",
}
