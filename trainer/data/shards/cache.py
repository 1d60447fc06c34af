"""Shards from elsewhere, kept on this machine within a bound; the one that was not used for longest goes first.

A file is called by the sha256 of its content, so runs and copies of a data set share it, and a name means whole and
verified content. All processes of the machine share the folder: one fetches a shard while the others wait for it, and
what is being fetched counts as if it were there. Locks die with their process; on a disk without locks, two processes
may fetch the same.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from trainer.data.shards.index import Shard
from trainer.runtime.errors import DataError, UserError
from trainer.runtime.files import CannotWrite, make_folder, why_not

_PIECE = 8 << 20  # bytes of a request
_WAIT = 0.05  # seconds between two looks for room
_PATIENCE = 600.0  # seconds for others to finish a fetch
_PART = re.compile(r"\.(\w+)\.(\d+)\.part")  # sha256, bytes


class ShardCache:
    """A folder of whole shards of at most `limit` bytes together. Raises CannotWrite when it cannot be made."""

    def __init__(self, root: Path, limit: int):
        self.root, self.limit = root, limit
        make_folder(root)

    def path(self, shard: Shard) -> Path:
        """Return where a shard is once it is here."""
        return self.root / f"{shard.sha256}.tar"

    def get(self, shard: Shard, read: Callable[[int, int], bytes]) -> Path:
        """Return the file of a shard, which `read(first, num_bytes)` fetches where it is not here.

        Raises DataError when it cannot be fetched, or has other bytes than were written, twice; CannotWrite.
        """
        path = self.path(shard)
        if self._touch(path):
            return path
        with self._locked(shard.sha256):
            for last in (False, True):
                if self._touch(path) or self._fetch(shard, read, path):
                    return path
                if last:
                    break
        raise DataError(f"{shard.name} was fetched twice, and its bytes are not those that were written. Copy it again")

    def forget(self, shard: Shard) -> None:
        """Delete a shard that turned out to be damaged."""
        self.path(shard).unlink(missing_ok=True)

    def _touch(self, path: Path) -> bool:
        """Note that a shard is used; tell whether it is here."""
        try:
            os.utime(path)
        except OSError:
            return False
        return True

    def _fetch(self, shard: Shard, read: Callable[[int, int], bytes], path: Path) -> bool:
        """Fetch a shard into its place; tell whether its bytes are right."""
        part = self._reserved(shard)
        try:
            digest = hashlib.sha256()
            with open(part, "wb") as file:
                for first in range(0, shard.num_bytes, _PIECE):
                    piece = read(first, min(_PIECE, shard.num_bytes - first))
                    digest.update(piece)
                    file.write(piece)
            if digest.hexdigest() != shard.sha256:
                return False
            os.replace(part, path)
            return True
        except OSError as error:
            raise CannotWrite(why_not(path, error)) from error
        finally:
            part.unlink(missing_ok=True)

    def _reserved(self, shard: Shard) -> Path:
        """Make room for a shard and return an empty file that stands for it. Raises UserError when there is none."""
        end = time.monotonic() + _PATIENCE
        part = self.root / f".{shard.sha256}.{shard.num_bytes}.part"
        while True:
            with self._locked("all"):
                if self._has_room(shard):
                    part.touch()
                    return part
            if time.monotonic() > end:
                raise UserError(
                    f"dataset.cache_gb: {self.limit / 1e9:g} GB of {self.root} are taken by what other processes fetch"
                )
            time.sleep(_WAIT)

    def _has_room(self, shard: Shard) -> bool:
        """Delete what was not used for longest until a shard fits; tell whether it does."""
        whole, taken = [], 0
        with os.scandir(self.root) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another process may be at work
                    if entry.name.endswith(".tar"):
                        state = entry.stat()
                        whole.append((state.st_mtime_ns, state.st_size, entry.path))
                        taken += state.st_size
                    elif (found := _PART.fullmatch(entry.name)) and found[1] != shard.sha256:
                        taken += 0 if self._is_stale(entry.path, found[1]) else int(found[2])
        for _, num_bytes, path in sorted(whole):
            if taken + shard.num_bytes <= self.limit:
                break
            Path(path).unlink(missing_ok=True)
            taken -= num_bytes
        return taken + shard.num_bytes <= self.limit

    def _is_stale(self, part: str, sha256: str) -> bool:
        """Delete what a process was fetching that has died; tell whether it was that."""
        with self._locked(sha256, wait=False) as free:
            if free:
                Path(part).unlink(missing_ok=True)
            return free

    @contextmanager
    def _locked(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold a lock of the folder; yields whether it was free, where one does not wait."""
        with open(self.root / f".{name}.lock", "ab") as file:
            yield _lock(file, wait)


def _lock(file: IO[bytes], wait: bool) -> bool:
    """Lock an open file until it is closed; tell whether that was possible, and where there are no locks."""
    try:
        import fcntl  # POSIX only

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # no locks on this system or disk: a part may still be written to
        return wait
    return True
