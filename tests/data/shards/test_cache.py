"""The cache is bounded, shared and verified; what was not used for longest goes first."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from tests.world import FORKS
from trainer.data.shards.cache import ShardCache
from trainer.data.shards.index import Shard
from trainer.runtime.errors import DataError

CONTENTS = [bytes([i]) * 1000 for i in range(8)]
SHARDS = [Shard(f"{i}.tar", 1000, hashlib.sha256(content).hexdigest(), 1) for i, content in enumerate(CONTENTS)]


class Source:
    """Shards elsewhere, and how often each was asked for."""

    def __init__(self, *wrong: bytes):
        self.wrong, self.asked = list(wrong), list[int]()

    def of(self, i: int):
        def read(first: int, num_bytes: int) -> bytes:
            self.asked.append(i)
            return self.wrong.pop(0) if self.wrong else CONTENTS[i][first : first + num_bytes]

        return read


def held(root: Path) -> set[int]:
    return {i for i, shard in enumerate(SHARDS) if (root / f"{shard.sha256}.tar").exists()}


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache, source = ShardCache(tmp_path, 3500), Source()
    for i, age in ((0, 30), (1, 20), (2, 10)):
        path = cache.get(SHARDS[i], source.of(i))
        os.utime(path, ns=(0, time.time_ns() - age * 10**9))
        assert path.read_bytes() == CONTENTS[i]
    cache.get(SHARDS[0], source.of(0))  # used now
    assert source.asked == [0, 1, 2]
    cache.get(SHARDS[3], source.of(3))
    assert held(tmp_path) == {0, 2, 3}


def test_wrong_bytes_are_fetched_once_more_and_then_refused(tmp_path: Path) -> None:
    cache, source = ShardCache(tmp_path, 3500), Source(bytes(1000))
    assert cache.get(SHARDS[1], source.of(1)).read_bytes() == CONTENTS[1]
    assert source.asked == [1, 1]
    with pytest.raises(DataError, match=r"2\.tar was fetched twice, and its bytes are not those that were written"):
        cache.get(SHARDS[2], Source(bytes(1000), bytes(1000)).of(2))
    assert held(tmp_path) == {1}
    assert not list(tmp_path.glob("*.part"))


def test_a_fetch_that_died_takes_no_room(tmp_path: Path) -> None:
    (tmp_path / f".{SHARDS[5].sha256}.3000.part").write_bytes(b"half")
    cache = ShardCache(tmp_path, 3500)
    cache.get(SHARDS[0], Source().of(0))
    assert not list(tmp_path.glob("*.part"))


def _use(root: Path, seed: int, watched: list[int]) -> None:
    cache = ShardCache(root, 3500)
    for step in range(40):
        i = (seed + step * 5) % len(SHARDS)
        path = cache.get(SHARDS[i], Source().of(i))
        try:
            assert path.read_bytes() == CONTENTS[i]
        except FileNotFoundError:  # the other one needed its room
            continue
        watched.append(len(list(root.glob("*.tar"))))


def _process(root: Path, seed: int) -> None:
    watched: list[int] = []
    _use(root, seed, watched)
    assert 0 <= min(watched) <= max(watched) <= 4  # a listing is no snapshot


def test_two_processes_stay_within_the_bound(tmp_path: Path) -> None:
    others = [FORKS.Process(target=_process, args=(tmp_path, seed)) for seed in (0, 3)]
    for process in others:
        process.start()
    most = 0
    while any(process.is_alive() for process in others):
        most = max(most, 1000 * len(list(tmp_path.glob("*.tar"))))
        time.sleep(0.001)
    assert [process.exitcode for process in others] == [0, 0]
    assert 1000 <= most <= 4000  # a listing is no snapshot: one may come while another goes
    assert len(list(tmp_path.glob("*.tar"))) == 3
