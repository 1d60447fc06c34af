"""The errors for mistakes of users and for items of data, lists in messages, and names of others made safe to print."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence


class UserError(Exception):
    """A mistake of the user: shown as its message alone, without a traceback, exit code 2."""

    exit_code = 2

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n\t")


class DataError(UserError):
    """An item that cannot be loaded or batched; the message names the file, the item and what to do.

    DataLoader workers pass an error on as its printed traceback, of which only the message is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.rpartition(f"{__name__}.DataError: ")[2].strip())


class Exhausted(UserError):
    """Memory, disk or time ran out in the middle of the work: the message alone, exit code 1."""

    exit_code = 1


_KILLED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:exited|is killed by signal: ([\w ]+))")
_SLOW = re.compile(r"DataLoader timed out after ([\d.]+) seconds")
_SHARED = re.compile(r"shared memory|/torch_\d+|shm", re.IGNORECASE)
_ALLOCATING = re.compile(r"(?:[Tt]ried to allocate|[Uu]nable to allocate) [\d.]+ (?:bytes|[KMGTPE]i?B)")
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|cannot allocate memory", re.IGNORECASE)
_LOST_DISK = {*(errno.ESTALE, errno.EROFS, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOTCONN, errno.ETIMEDOUT)}
_WORKER_MEMORY = "Lower loader.num_workers, loader.prefetch_factor or loader.batch_size"


def exhausted(error: BaseException) -> Exhausted | None:
    """Return the sentence for an error that means want of memory, disk or a loader's worker, else None.

    Knows the words of torch, which has one class for all kinds of error: devices that are out of memory, its allocator
    on the CPU, workers of its DataLoader that die or hang.
    """
    text = str(error)
    if isinstance(error, Exhausted):
        return error
    if isinstance(error, OSError) and error.errno in _LOST_DISK:
        where = f"{error.filename}: " if error.filename else ""
        return Exhausted(f"{where}the disk refuses: {error.strerror}. Check that it is mounted, writable and not full")
    if not isinstance(error, RuntimeError | MemoryError):
        return None
    if killed := _KILLED.search(text):
        by = f" ({killed[2].strip()})" if killed[2] else ""
        what = "shared memory (/dev/shm, small in many containers)" if "Bus" in by else "memory"
        return Exhausted(
            f"a worker of the data loader, process {killed[1]}, was killed{by}, most likely for want of {what}."
            f" {_WORKER_MEMORY}"
        )
    if slow := _SLOW.search(text):
        return Exhausted(
            f"the workers of the data loader gave no batch within loader.timeout: {float(slow[1]):g} seconds. A disk or"
            " a file hangs, or the workers are too slow: raise loader.timeout, or see with loader.num_workers: 0"
        )
    if not (isinstance(error, MemoryError) or _NO_MEMORY.search(text) or "DataLoader worker" in text):
        return None
    size = f" ({found[0][0].lower() + found[0][1:]})" if (found := _ALLOCATING.search(text)) else ""
    if "DataLoader worker" in text:
        if _SHARED.search(text):
            return Exhausted(f"the workers of the data loader ran out of shared memory, /dev/shm. {_WORKER_MEMORY}")
        if not (isinstance(error, MemoryError) or _NO_MEMORY.search(text)):
            return None
        return Exhausted(f"a worker of the data loader ran out of memory{size}. {_WORKER_MEMORY}")
    on_cpu = isinstance(error, MemoryError) or "CPUAllocator" in text
    return Exhausted(
        f"the memory of {'this machine' if on_cpu else 'the device'} is used up{size}. Lower the batch size"
        " (loader.batch_size, --batch-size) or the size of the images (dataset.size)"
        + (
            ", or loader.num_workers"
            if on_cpu
            else ", or train with trainer.gradient_checkpointing: true or precision bf16"
        )
    )


def printable(text: object, keep: str = "") -> str:
    """Escape what a terminal would obey and nobody would see: controls, direction marks, halves of characters.

    Names of tensors, items and files come from others. keep: characters that stay as they are.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text)
    )


def listed(items: Sequence[object], limit: int = 3) -> str:
    """Name the first items and count the others: "a, b, c and 4 more"."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(map(str, items[:limit])) + more


def first_lines(lines: Sequence[str], limit: int = 10) -> list[str]:
    """Indent the first lines, and count the others in one more: "  ... and 4 more"."""
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return [f"  {line}" for line in (*lines[:limit], *more)]
