"""Databases of encoded pictures and arrays (LMDB), in our format and in that of earlier code.

Ours: `format` and `keys` are JSON, every other key is the name of an entry as text; values are encoded pictures
or NumPy files. Earlier: `protocol` is a pickled int p, every other key is pickled with protocol p, as are all values
but encoded pictures. `read_pickle` reads the pickles.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from trainer.data.files.arrays import read_array
from trainer.data.files.pickles import read_pickle
from trainer.runtime.errors import DataError
from trainer.runtime.optional import require

FILE = "data.mdb"
_FORMAT = {"format": "encoded pictures and NumPy files", "version": 1}
_OPEN_AT_ONCE = 256  # environments of a process, each a file descriptor
_COMMIT_BYTES = 64 << 20

_environments: OrderedDict[tuple[int, str], _Opened] = OrderedDict()  # LMDB allows one per process and file


class Content(io.BytesIO):
    """Bytes of an entry; as text they are the place they come from."""

    def __init__(self, content: bytes, place: str):
        super().__init__(content)
        self.place = place

    def __repr__(self) -> str:
        return self.place

    __str__ = __repr__  # messages of PIL have the one, ours the other


class Database:
    """One database, opened by each process at the first read. Raises DataError naming it when it is broken."""

    def __init__(self, path: str):
        self.path = path
        self._protocol: int | None = None  # of the pickles of earlier code
        self._keys: frozenset[str] | None = None

    def keys(self) -> frozenset[str]:
        """Names of the entries."""
        if self._keys is not None:
            return self._keys
        protocol = self._get(b"protocol")
        if protocol is not None:
            self._protocol = read_pickle(protocol, f"{self.path}/protocol")
            if type(self._protocol) is not int or self._protocol not in range(pickle.HIGHEST_PROTOCOL + 1):
                raise DataError(f"{self.path}: its entry 'protocol' is no pickle protocol. Copy it again")
            keys = read_pickle(self._get(self._encoded("keys")) or b"", f"{self.path}/keys")
        else:
            keys = self._json("keys") if self._json("format") == _FORMAT else None
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise DataError(f"{self.path} is no database of pictures or arrays: it has no list of its entries")
        self._keys = frozenset(keys)
        return self._keys

    def read(self, key: str) -> bytes:
        """Bytes of an entry. Raises DataError when it is missing."""
        self.keys()  # finds out the format
        value = self._get(self._encoded(key))
        if value is None:
            raise DataError(f"{self.path} has no entry {key!r}. Write the database again")
        return value

    def tail(self, key: str, num_bytes: int) -> bytes:
        """The last bytes of an entry; empty when it is missing."""
        self.keys()
        return self._get(self._encoded(key), last=num_bytes) or b""

    def value(self, key: str) -> Any:
        """Read an array, or plain values of earlier code. Raises DataError when an entry is neither."""
        content, place = self.read(key), f"{self.path}/{key}"
        if self._protocol is not None:
            return read_pickle(content, place)
        return read_array(Content(content, place), "Write the database again")

    def _json(self, key: str) -> Any:
        content = self._get(key.encode())
        try:
            return None if content is None else json.loads(content)
        except ValueError as error:
            raise DataError(f"{self.path}: {key} is not readable ({error}). Write the database again") from error

    def _encoded(self, key: str) -> bytes:
        return key.encode() if self._protocol is None else pickle.dumps(key, protocol=self._protocol)

    def _get(self, key: bytes, last: int = 0) -> bytes | None:
        """Bytes of an entry, or the `last` ones."""
        lmdb = require("lmdb", "lmdb", "Reading LMDB databases")
        try:
            with _environment(self.path).begin(buffers=True) as transaction:
                value = transaction.get(key)
                return None if value is None else bytes(value[-last:])
        except lmdb.Error as error:
            raise DataError(f"{self.path} cannot be read ({error}). Copy or write the database again") from error


def write_database(folder: Path, entries: Iterable[tuple[str, bytes]], capacity: int) -> int:
    """Write a database of at most `capacity` bytes into a new folder. Returns its number of entries. Raises OSError."""
    lmdb = require("lmdb", "lmdb", "Writing LMDB databases")
    folder.mkdir(parents=True)
    map_size = 2 * capacity + (64 << 20)  # pages are rounded up
    keys: list[str] = []
    try:
        with lmdb.open(str(folder), map_size=map_size, sync=False, metasync=False, lock=False) as environment:
            batch: list[tuple[bytes, bytes]] = []
            for key, value in entries:
                keys.append(key)
                batch.append((key.encode(), value))
                if sum(len(content) for _, content in batch) > _COMMIT_BYTES:
                    _commit(environment, batch)
            _commit(environment, batch)
            ends = {"format": _FORMAT, "keys": sorted(keys)}
            _commit(environment, [(name.encode(), json.dumps(value).encode()) for name, value in ends.items()])
            environment.sync(True)
    except lmdb.Error as error:
        raise OSError(str(error)) from error
    return len(keys)


def _commit(environment: Any, batch: list[tuple[bytes, bytes]]) -> None:
    with environment.begin(write=True) as transaction:
        for key, value in batch:
            transaction.put(key, value)
    batch.clear()


class _Opened(NamedTuple):
    """An environment, its file, and how many bytes of the file it may read."""

    environment: Any
    i_node: int
    num_bytes: int


def _environment(path: str) -> Any:
    """The environment of a database in this process. Raises DataError for a file that is cut off."""
    name = os.getpid(), os.path.realpath(path)
    for other in [key for key in _environments if key[0] != name[0]]:
        del _environments[other]  # those of the process that this one was forked from
    file = os.stat(os.path.join(path, FILE)) if name in _environments else None
    if file is not None and file.st_ino != _environments[name].i_node:  # written anew
        _environments.pop(name).environment.close()
    if name not in _environments:
        lmdb = require("lmdb", "lmdb", "Reading LMDB databases")
        opened = lmdb.open(path, readonly=True, lock=False, create=False, readahead=False)
        num_bytes = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
        _environments[name] = _Opened(opened, os.stat(os.path.join(path, FILE)).st_ino, num_bytes)
        if len(_environments) > _OPEN_AT_ONCE:
            _environments.popitem(last=False)[1].environment.close()
    _environments.move_to_end(name)
    # Reading a page behind the end of the file would kill the process (SIGBUS), so its size is checked every time.
    size, wanted = os.path.getsize(os.path.join(path, FILE)), _environments[name].num_bytes
    if size < wanted:
        raise DataError(f"{path} is cut off: {size} of {wanted} bytes are there. Copy or write the database again")
    return _environments[name].environment
