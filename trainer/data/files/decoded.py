"""Pictures decoded and resized once: the bytes of all in a NumPy file, and an index of the files that they come from.

The index names the data by a digest of sources and size, so that both always belong together. Pictures are read with
`read`, not through a memory map, which would end the process where the file is cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.files.arrays import array_layout
from trainer.data.files.paths import expanded
from trainer.runtime.errors import DataError, UserError
from trainer.runtime.files import CannotWrite, make_folder, open_file, read_file, require_space, why_not, write_text

INDEX = "pictures.json"
_VERSION = 1  # of the index; goes up with any change of what decoding and resizing give
_AGAIN = "Run `monodepth prepare cache` again, or set dataset.decoded_root: null"
Picture = NDArray[np.uint8]


class Source(NamedTuple):
    """A picture by its name in the data, and the bytes of its file: another number means another picture."""

    name: str
    num_bytes: int  # -1: it is an entry of a database

    @classmethod
    def of(cls, name: str, place: str) -> Source:
        """Look at a file, or take an entry of a database for unchanged."""
        try:
            return cls(name, os.path.getsize(place))
        except OSError:
            return cls(name, -1)


class DecodedPictures:
    """What `write_decoded` wrote. Raises UserError when it is missing, damaged or of another version."""

    def __init__(self, root: str | Path):
        self.root = expanded(str(root))
        try:
            index = json.loads(read_file(self.root / INDEX))
            self.size: tuple[int, int] = (index["size"][0], index["size"][1])
            sources = [Source(*entry) for entry in index["pictures"]]
            if index["version"] != _VERSION or digest_of(sources, self.size) != index["digest"]:
                raise ValueError(f"{INDEX} is not as it was written")
            self._data = self.root / f"{index['digest']}.npy"
            shape, _, self._start = array_layout(self._data)
            if shape != (len(sources), self.size[1], self.size[0], 3):
                raise ValueError(f"{self._data.name} has the shape {shape}")
        except FileNotFoundError as error:
            raise UserError(f"dataset.decoded_root {self.root} holds no decoded pictures. {_AGAIN}") from error
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"dataset.decoded_root {self.root} is damaged ({error}). {_AGAIN}") from error
        self.broken = frozenset(index.get("broken", ()))  # which could not be decoded, and are not here
        self._rows = {source.name: (i, source.num_bytes) for i, source in enumerate(sources)}
        self._shape, self._num_bytes = shape[1:], int(np.prod(shape[1:]))

    def read(self, name: str) -> Picture | None:
        """Read a picture (h w 3); None when it is not here. Raises DataError."""
        row, _ = self._rows.get(name, (None, 0))
        if row is None or name in self.broken:
            return None
        picture: Picture = np.empty(self._shape, np.uint8)
        try:
            with open_file(self._data) as file:
                file.seek(self._start + row * self._num_bytes)
                there = file.readinto(picture.data.cast("B"))
        except OSError as error:
            raise DataError(f"{self._data} cannot be read ({error}). {_AGAIN}") from error
        if there != self._num_bytes:
            raise DataError(f"{self._data} is cut off. {_AGAIN}")
        return picture

    def has(self, source: Source) -> bool:
        """Tell whether a picture is here, decoded from a file of that length."""
        return self._rows.get(source.name, (0, None))[1] == source.num_bytes

    def problems(self, sources: Iterable[Source], size: tuple[int, int]) -> list[str]:
        """List why these pictures at `size` (w, h) cannot be read from here."""
        if size != self.size:
            there, asked = ("x".join(map(str, pair)) for pair in (self.size, size))
            return [f"dataset.decoded_root {self.root} has pictures of {there}, and dataset.size is {asked}. {_AGAIN}"]
        wanted = list(sources)
        missing = [source.name for source in wanted if source.name not in self._rows]
        changed = [source.name for source in wanted if source.name in self._rows and not self.has(source)]
        return [
            f"{len(names)} of {len(wanted)} pictures {what} {self.root}, the first: {names[0]}. {_AGAIN}"
            for names, what in (
                (missing, "are not in dataset.decoded_root"),
                (changed, "have changed since they came to"),
            )
            if names
        ]


def digest_of(sources: Sequence[Source], size: tuple[int, int]) -> str:
    """Return 16 hexadecimal digits that stand for a list of pictures and the size (w, h) they are resized to."""
    return hashlib.sha256(json.dumps([size, sources]).encode()).hexdigest()[:16]


def write_decoded(
    root: Path, sources: Sequence[Source], size: tuple[int, int], decoded: Callable[[int], Iterable[Picture | str]]
) -> list[str]:
    """Write pictures in order, and then the index; a part that an earlier call wrote is continued.

    decoded: yields the pictures (h w 3) of `size` (w, h) from the given position on, or what is wrong with one.

    Returns the problems. Raises CannotWrite; UserError while another process writes.
    """
    digest, (width, height) = digest_of(sources, size), size
    part, notes = root / f".{digest}.part", root / f".{digest}.broken"
    make_folder(root)
    problems: list[str] = []
    try:
        with open(part, "ab+") as file, open(notes, "a+") as broken:
            _claim(file, root)
            done = _begin(file, (len(sources), height, width, 3))
            require_space(root, (len(sources) - done) * height * width * 3, "decoded pictures")
            for row, found in enumerate(decoded(done), done):
                if isinstance(found, str):
                    problems.append(found)
                    broken.write(json.dumps(sources[row].name) + "\n")
                    broken.flush()
                file.write(bytes(height * width * 3) if isinstance(found, str) else np.ascontiguousarray(found).data)
            file.flush()
            os.fsync(file.fileno())
            broken.seek(0)
            names = sorted({json.loads(line) for line in broken})
            os.replace(part, root / f"{digest}.npy")
            index = {"version": _VERSION, "size": size, "digest": digest, "broken": names, "pictures": sources}
            write_text(root / INDEX, json.dumps(index))
    except CannotWrite:
        raise
    except OSError as error:
        raise CannotWrite(why_not(root, error)) from error
    for old in [*root.glob("*.npy"), *root.glob(".*.part"), *root.glob(".*.broken")]:
        if old.name != f"{digest}.npy":
            old.unlink(missing_ok=True)
    return problems


def _claim(file: IO[Any], root: Path) -> None:
    try:
        import fcntl  # POSIX only

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"another process is writing to {root}. Wait for it, or choose another --out") from error
    except (ImportError, OSError):  # no locks on this system or disk
        return


def _begin(file: IO[bytes], shape: tuple[int, ...]) -> int:
    """Write the header, or cut an unfinished picture off; return how many are complete."""
    head = np.lib.format.header_data_from_array_1_0(np.empty((0, *shape[1:]), np.uint8)) | {"shape": shape}
    end, num_bytes = file.seek(0, os.SEEK_END), int(np.prod(shape[1:]))
    if not end:
        np.lib.format.write_array_header_1_0(file, head)
        return 0
    file.seek(0)
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    done = (end - start) // num_bytes
    file.truncate(start + done * num_bytes)
    file.seek(0, os.SEEK_END)
    return done
