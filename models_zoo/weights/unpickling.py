"""Read files of `torch.save` without running anything in them, and within limits: a process of its own unpickles.

A few bytes of a pickle can ask for any memory, or for hours, which `weights_only` does not prevent. So a fork of this
process unpickles, its memory and time limited by the length of the file, and sends back plain values and the bytes of
tensors. Only Linux has safe forks and such limits; elsewhere files are read in this process, without limits.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from torch import Tensor

from models_zoo.pretrained import one_line
from models_zoo.weights.base import UnreadableWeights

_MEMORY, _PER_BYTE = 256 << 20, 4  # beyond that of this process: torch itself, and tensors in the file and in memory
_SECONDS, _BYTES_PER_SECOND = 5, 10e6  # of the processor
_WAITING = 10  # times as long by the clock: the disk may be slow, or the machine busy
_PLAIN = (str, int, float, bool, type(None))


def unpickle(path: Path) -> Any:
    """Read a file of `torch.save` on the CPU, without running anything in it, within limits.

    Raises UnreadableWeights unless it holds only plain containers, numbers, text and tensors, and when reading it takes
    more memory or time than a file of its length needs.
    """
    if sys.platform != "linux":
        return _load(path)
    length = os.path.getsize(path)
    memory, seconds = _MEMORY + _PER_BYTE * length, _SECONDS + int(length / _BYTES_PER_SECOND)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(path, theirs, memory, seconds), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks of threads: it uses none of their locks
        child.start()
    theirs.close()
    clock = Timer(_WAITING * seconds, child.kill)
    clock.start()
    try:
        reply = json.loads(ours.recv_bytes(memory))
        if "error" not in reply:
            return _decoded(reply["value"], [_receive(ours, *about) for about in reply["tensors"]])
    except (EOFError, OSError):  # it was stopped
        reply = {"error": _too_much(path)}
    finally:
        clock.cancel()
        child.kill()
        child.join()
        ours.close()
    raise UnreadableWeights(reply["error"])


def names_entry(path: Path, name: str) -> bool:
    """Return whether a file of `torch.save` seems to hold an entry `name`, by its bytes, which spell names out."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(name.encode()) >= 0
    except (OSError, ValueError):  # of an empty file
        return False


def _serve(path: Path, theirs: Connection, memory: int, seconds: int) -> None:
    """Read the file within limits and send it: a line of JSON, then the bytes of its tensors. Runs in the fork."""
    import resource  # POSIX only

    torch.set_num_threads(1)  # the threads of the other process are not here
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    taken = pages * resource.getpagesize()
    for limit, value in ((resource.RLIMIT_AS, taken + memory), (resource.RLIMIT_CPU, seconds)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    found: dict[tuple[Any, ...], tuple[int, Tensor]] = {}  # by what they are: two names of one tensor stay one
    try:
        value = _encoded(_load(path), found)
        tensors = [tensor for _, tensor in found.values()]
        if sum(t.numel() * t.itemsize for t in tensors) > memory:  # one number, repeated for ever
            raise MemoryError
        about = [(str(t.dtype).removeprefix("torch."), list(t.shape)) for t in tensors]
        head = json.dumps({"value": value, "tensors": about}).encode()
    except UnreadableWeights as error:
        tensors, head = [], json.dumps({"error": str(error)}).encode()
    except (MemoryError, ValueError, RecursionError):  # the end of the pipe says it
        os._exit(1)
    with suppress(OSError):  # the other process is gone
        theirs.send_bytes(head)
        for tensor in tensors:
            if tensor.numel():
                theirs.send_bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _receive(ours: Connection, name: str, shape: Sequence[int]) -> Tensor:
    """Receive one tensor."""
    tensor = torch.empty(shape, dtype=getattr(torch, name))
    if tensor.numel():
        ours.recv_bytes_into(tensor.reshape(-1).view(torch.uint8).numpy())
    return tensor


def _encoded(value: Any, tensors: dict[tuple[Any, ...], tuple[int, Tensor]]) -> Any:
    """Say a value in JSON. Tensors go to `tensors`; of what is neither they nor plain the name of its type is kept."""
    if type(value) in _PLAIN:
        return value
    if type(value) is list:
        return [_encoded(entry, tensors) for entry in value]
    if isinstance(value, tuple):
        return {"tuple": [_encoded(entry, tensors) for entry in value]}
    if isinstance(value, Mapping):
        return {"dict": [[_encoded(key, tensors), _encoded(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, Tensor) and value.layout is torch.strided and value.is_cpu and not value.is_quantized:
        value = value.detach().resolve_conj().resolve_neg()
        key = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        return {"tensor": tensors.setdefault(key, (len(tensors), value))[0]}
    return {"other": type(value).__name__}


def _decoded(value: Any, tensors: Sequence[Tensor]) -> Any:
    """Return the value that `_encoded` said."""
    match value:
        case list():
            return [_decoded(entry, tensors) for entry in value]
        case {"tuple": entries}:
            return tuple(_decoded(entries, tensors))
        case {"dict": pairs}:
            return {_decoded(key, tensors): _decoded(entry, tensors) for key, entry in pairs}
        case {"tensor": i_tensor}:
            return tensors[i_tensor]
        case {"other": name}:  # an object of a class of that name, for messages
            return type(name, (), {})()
    return value


def _load(path: Path) -> Any:
    """Read the file, with sentences for whatever goes wrong."""
    if (broken := _broken_record(path)) is not None:
        raise UnreadableWeights(f"{path}: damaged: {broken} is not what was written. Copy or download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol; the content is checked anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UnreadableWeights(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a dozen types, by where the bytes are wrong
        if isinstance(error, MemoryError) or re.search("allocate memory|bad_alloc", str(error)):
            raise UnreadableWeights(_too_much(path)) from error
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and named:
            raise UnreadableWeights(
                f"{path}: refused, because it wants to create or call {named[1]}, and weights need only tensors."
                " Nothing in it was run. If you trust the file, load it where it was written, and save the state dict"
                " and the hyper-parameters again, as plain dicts of tensors, numbers and text"
            ) from error
        reason = one_line(error).partition(". ")[0]
        raise UnreadableWeights(
            f"{path}: damaged, no PyTorch file, or refused for holding more than tensors ({reason})."
            " Nothing in it was run. Copy or download it again"
        ) from error


def _too_much(path: Path) -> str:
    return (
        f"{path}: refused, because reading it takes more memory or time than weights of its length need."
        " Nothing in it was run. Copy or download it again"
    )


def _broken_record(path: Path) -> str | None:
    """Name the first record of a zip archive with a wrong checksum, which torch does not check; else None."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile):
        return None  # not an archive, or torch reports it
