"""Where shards lie: a folder, or what fsspec reaches (`http`, `https`, `s3`, `hf`, ...). Bytes are read in ranges.

A failed request is repeated after 0.5, 1, 2, ... seconds, at most 30, a fixed number of times; then it is a DataError,
which costs the item. A request that stalls fails after `timeout` seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.data.files.paths import expanded
from trainer.runtime.errors import DataError, UserError
from trainer.runtime.files import open_file

_EXTRA = 'pip install -e ".[shards]"'
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds
REMOTE = "://"


class Place:
    """A folder of shards, here or elsewhere; each process connects for itself, at its first read.

    Args:
        path: a folder, or a URL.
        tries: of each request, >= 1.
        timeout: seconds until a request that stalls is given up, > 0.
        options: what the file system of fsspec takes, e.g. {"endpoint_url": ...} of `s3`.

    Raises UserError when a package for such URLs is not installed, or the options are not for it.
    """

    def __init__(self, path: str, tries: int = 5, timeout: float = 30.0, options: Mapping[str, Any] | None = None):
        self.is_remote = REMOTE in path
        self.path = path.rstrip("/") if self.is_remote else str(expanded(path))
        self.tries, self.timeout, self.options = tries, timeout, dict(options or {})
        self._connected: tuple[int, Any] | None = None
        if self.is_remote:
            self._files  # noqa: B018 - says now what is missing

    def name(self, file: str) -> str:
        """Return the path or URL of a file in the folder."""
        return f"{self.path}/{file}"

    def size(self, file: str) -> int | None:
        """Return the length of a file, None where the server does not tell. Raises FileNotFoundError, DataError."""
        if not self.is_remote:
            return os.path.getsize(self.name(file))
        found = self._tried(file, lambda files, waiting: files.info(self.name(file), **waiting))
        return found.get("size")

    def read(self, file: str, first: int = 0, num_bytes: int | None = None) -> bytes:
        """Read bytes of a file, all without `num_bytes`. Raises FileNotFoundError; DataError when no try succeeds."""
        if not self.is_remote:
            try:
                with open_file(self.name(file)) as opened:
                    opened.seek(first)
                    return opened.read() if num_bytes is None else opened.read(num_bytes)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise DataError(f"{self.name(file)} cannot be read ({error}). Copy the shard again") from error
        end = None if num_bytes is None else first + num_bytes

        def fetch(files: Any, waiting: dict[str, Any]) -> bytes:
            content: bytes = files.cat_file(self.name(file), start=None if end is None else first, end=end, **waiting)
            if num_bytes is not None and len(content) != num_bytes:
                raise OSError(f"{len(content)} bytes came, not {num_bytes}. Does it answer requests for ranges?")
            return content

        return self._tried(file, fetch)

    def _tried(self, file: str, request: Any) -> Any:
        """Call `request` until it succeeds, at most `tries` times."""
        from fsspec.asyn import AsyncFileSystem

        for left in range(self.tries - 1, -1, -1):
            try:
                files = self._files
                waiting = {"timeout": self.timeout} if isinstance(files, AsyncFileSystem) else {}
                return request(files, waiting)
            except (FileNotFoundError, UserError):  # noqa: PERF203 - requests are what costs time here
                raise
            except Exception as error:  # each file system has errors of its own
                if not left:
                    reason = " ".join(str(error).split()) or type(error).__name__
                    raise DataError(
                        f"{self.name(file)} could not be fetched in {self.tries} tries: {reason}. Is the server there?"
                    ) from error
                time.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self.tries - 1 - left)))
        raise AssertionError("tries is at least 1")

    @property
    def _files(self) -> Any:
        """The file system of this process: connections do not survive a fork."""
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = os.getpid(), _connect(self.path, self.options)
        return self._connected[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_connected": None}


def _connect(path: str, options: Mapping[str, Any]) -> Any:
    import fsspec  # torch brings it along

    protocol = path.partition(REMOTE)[0]
    try:
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        missing = f"{protocol}:// needs a package that is missing: {_EXTRA} ({error})"
        raise UserError(f"dataset.path {path}: {missing}") from error
    except ValueError as error:
        known = "a folder, http://, https://, s3:// or hf://"
        raise UserError(f"dataset.path {path}: {error}. Known: {known}, and what else fsspec reads") from error
    except TypeError as error:
        raise UserError(f"dataset.storage_options {dict(options)}: not for {protocol}:// ({error})") from error


def part_of(path: Path, first: int, num_bytes: int) -> bytes:
    """Read bytes of a file on this machine. Raises OSError."""
    with open_file(path) as file:
        file.seek(first)
        return file.read(num_bytes)
