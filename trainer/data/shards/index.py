"""The index of shards: which bytes of which shard an item reads, and what the data set knows beside its files.

`<mode>.json` holds the facts and names every shard with its length and sha256; `<mode>.npz` holds the tables below,
whose sha256 is in the JSON file. An entry is a file in a shard: its place, its length, and eight bytes of BLAKE2b of
its content.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.files.arrays import archive_bytes
from trainer.runtime.errors import DataError, UserError

VERSION = 1
_AGAIN = "Copy the folder again, or write the shards again (`monodepth prepare shards`)"


class Shard(NamedTuple):
    """One tar file."""

    name: str
    num_bytes: int
    sha256: str
    items: int


class Entry(NamedTuple):
    """Bytes of a shard: those of one file in it."""

    shard: int
    first: int
    num_bytes: int
    digest: int


@dataclass(frozen=True)
class Index:
    """What `<mode>.json` and `<mode>.npz` say; n items, m entries, k supports.

    An item is a row of `items`: its data, its target, its supports, each a row of `entries`; -1 = it could not be read
    when the shards were written.
    """

    facts: Mapping[str, Any]  # "type", "size", "supp_idxs", "has", "truth", ...
    shards: Sequence[Shard]
    entries: NDArray[np.int64]  # (m 4) shard, first byte, number of bytes, digest
    items: NDArray[np.int32]  # (n 2+k)
    names: Sequence[str]  # of items, as the data set described them
    labels: Sequence[str]  # names of their pseudo-labels
    scenes: Sequence[str]  # each once; "" = none
    scene: NDArray[np.int32]  # (n,) its place in `scenes`
    drives: Sequence[str]  # recordings that targets belong to
    recording: NDArray[np.int64]  # (n 3) place in `drives` (-1 = not known), frame, role as in `files.frames`
    prints: NDArray[np.int64]  # (n,) hash of the picture of each target; 0 = none
    seen: NDArray[np.int64]  # hashes of all pictures, sorted; empty where frames are known by recording

    def entry(self, row: int) -> Entry:
        """Return one entry by its row."""
        return Entry(*self.entries[row].tolist())

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.num_bytes for shard in self.shards)

    @property
    def block(self) -> NDArray[np.int32]:
        """The shard of each item (n,); items that could not be read are with the first."""
        rows = np.maximum(self.items[:, 0], 0)
        return self.entries[rows, 0].astype(np.int32)


def digest_of(content: bytes) -> int:
    """Return eight bytes of BLAKE2b as a signed number."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def to_files(index: Index) -> tuple[bytes, bytes]:
    """Return the contents of `<mode>.json` and `<mode>.npz`."""
    texts = {key: getattr(index, key) for key in ("names", "labels", "scenes", "drives")}
    arrays = {key: getattr(index, key) for key in ("entries", "items", "scene", "recording", "prints", "seen")}
    packed = {key: np.frombuffer(json.dumps(list(text)).encode(), np.uint8) for key, text in texts.items()}
    tables = archive_bytes({**arrays, **packed})
    described = {
        "format": VERSION,
        **index.facts,
        "tables": {"bytes": len(tables), "sha256": hashlib.sha256(tables).hexdigest()},
        "shards": [shard._asdict() for shard in index.shards],
    }
    return json.dumps(described, indent=1).encode(), tables


def read_facts(content: bytes, place: str) -> dict[str, Any]:
    """Read `<mode>.json`. Raises UserError naming `place` for anything that is no index of this version."""
    try:
        described = json.loads(content)
        version = described["format"]
        if version == VERSION:
            described["shards"] = [Shard(**shard) for shard in described["shards"]]
            tables = described["tables"]
            if not described["shards"] or not (isinstance(tables["bytes"], int) and isinstance(tables["sha256"], str)):
                raise ValueError("it names no shards")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is no index of shards ({error}). {_AGAIN}") from error
    if version != VERSION:
        raise UserError(f"{place}: an index of version {version}, and this trainer reads {VERSION}. Update the trainer")
    return dict(described)


def read_tables(facts: Mapping[str, Any], content: bytes, place: str) -> Index:
    """Read `<mode>.npz`, which belongs to `facts`. Raises UserError naming `place`."""
    if hashlib.sha256(content).hexdigest() != facts["tables"]["sha256"]:
        raise UserError(f"{place} is not as it was written: its sha256 differs. {_AGAIN}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as tables:
            held = {key: tables[key] for key in tables.files}
        texts = {key: json.loads(held.pop(key).tobytes()) for key in ("names", "labels", "scenes", "drives")}
        rest = {key: value for key, value in facts.items() if key not in ("shards", "tables", "format")}
        return Index(facts=rest, shards=facts["shards"], **texts, **held)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is no table of shards ({error}). {_AGAIN}") from error


def is_whole(content: bytes, entry: Entry) -> bool:
    """Tell whether bytes are those of an entry."""
    return len(content) == entry.num_bytes and digest_of(content) == entry.digest


def checked(content: bytes, entry: Entry, place: str) -> bytes:
    """Return the bytes of an entry. Raises DataError naming `place` when they are not those that were written."""
    if not is_whole(content, entry):
        raise DataError(f"{place}: its bytes are not those that were written. Copy the shard again")
    return content
