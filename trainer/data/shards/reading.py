"""The bytes of entries of shards: from this machine, from the cache, or by ranges from where the shards lie.

Bytes that are not those that were written are fetched once more; then they are damage, a DataError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from trainer.data.files.splits import capped
from trainer.data.shards.cache import ShardCache
from trainer.data.shards.fetching import Place, part_of
from trainer.data.shards.index import Entry, Index, Shard, checked, is_whole, read_facts, read_tables
from trainer.runtime.errors import DataError, UserError

_GAP = 1 << 16  # bytes between two entries that are cheaper to read than to ask twice
_THREADS = 16


class ShardReader:
    """Entries of shards at a place; with a cache, whole shards are fetched to it, else the bytes of the entries."""

    def __init__(self, place: Place, index: Index, cache: ShardCache | None = None):
        self.place, self.index, self.cache = place, index, cache

    def read(self, rows: Sequence[int]) -> dict[int, bytes]:
        """Read entries of one shard by their rows. Raises DataError naming the shard; CannotWrite of the cache."""
        entries = {row: self.index.entry(row) for row in dict.fromkeys(rows)}
        (number,) = {entry.shard for entry in entries.values()}
        shard = self.index.shards[number]
        where = self.place.name(shard.name)
        try:
            found = self._contents(shard, entries)
            if self.place.is_remote and not _are_whole(found, entries):
                if self.cache is not None:
                    self.cache.forget(shard)
                found = self._contents(shard, entries)
        except FileNotFoundError as error:
            raise DataError(f"{where} is missing. Copy the shard again") from error
        return {row: checked(content, entries[row], where) for row, content in found.items()}

    def problems(self) -> list[str]:
        """List shards that are missing or have another length than they were written with."""
        with ThreadPoolExecutor(_THREADS) as pool:
            found = [problem for problem in pool.map(self._problem, self.index.shards) if problem]
        return capped(found, "shards")

    def _problem(self, shard: Shard) -> str:
        where = self.place.name(shard.name)
        try:
            size = self.place.size(shard.name)
        except FileNotFoundError:
            return f"{where} is missing. Copy the shard again"
        except (DataError, OSError) as error:
            return str(error)
        if size in (None, shard.num_bytes):
            return ""
        return f"{where} has {size} bytes, and was written with {shard.num_bytes}. Copy the shard again"

    def _contents(self, shard: Shard, entries: dict[int, Entry]) -> dict[int, bytes]:
        """Return the bytes of entries of a shard, unchecked."""
        file: Path | None = None
        if self.cache is not None:
            file = self.cache.get(shard, lambda first, num_bytes: self.place.read(shard.name, first, num_bytes))
        contents = {}
        for run in _runs(entries):
            start, end = entries[run[0]].first, max(entries[row].first + entries[row].num_bytes for row in run)
            size = end - start
            try:
                piece = self.place.read(shard.name, start, size) if file is None else part_of(file, start, size)
            except FileNotFoundError:
                if file is None:
                    raise
                piece = self.place.read(shard.name, start, size)  # another process needed its room
            for row in run:
                first = entries[row].first - start
                contents[row] = piece[first : first + entries[row].num_bytes]
        return contents


def open_index(place: Place, mode: str) -> Index:
    """Read the index of a mode. Raises UserError when there is none, naming what to do."""
    name = f"{mode}.json"
    try:
        facts = read_facts(place.read(name), place.name(name))
        tables = place.read(f"{mode}.npz")
    except FileNotFoundError as error:
        there = [other for other in ("train", "val", "test") if other != mode and _is_there(place, f"{other}.json")]
        modes = f"It has shards of {' and '.join(there)}" if there else "There are no shards of another mode either"
        first = "" if there else "nothing is there: check the address, or the folder. "
        raise UserError(
            f"dataset.path {place.path}: {first}no {mode}.json and {mode}.npz, the index of shards for {mode}."
            f" {modes}. Write them: monodepth prepare shards -c PAGE --mode {mode} --out FOLDER"
        ) from error
    except DataError as error:
        raise UserError(f"dataset.path: {error}") from error
    return read_tables(facts, tables, place.name(f"{mode}.npz"))


def _is_there(place: Place, name: str) -> bool:
    try:
        place.size(name)
    except (OSError, DataError):
        return False
    return True


def _are_whole(found: dict[int, bytes], entries: dict[int, Entry]) -> bool:
    return all(is_whole(content, entries[row]) for row, content in found.items())


def _runs(entries: dict[int, Entry]) -> Iterator[list[int]]:
    """Group entries that lie so near together that one request is cheaper than two."""
    rows = sorted(entries, key=lambda row: entries[row].first)
    run = rows[:1]
    for before, row in pairwise(rows):
        end = entries[before].first + entries[before].num_bytes
        if entries[row].first - end > _GAP:
            yield run
            run = []
        run.append(row)
    yield run
