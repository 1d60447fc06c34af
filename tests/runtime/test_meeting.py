"""Processes that are started again and again meet those of their own attempt, and none of an earlier one."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist

from tests.runtime.conftest import forked
from trainer.runtime import meeting
from trainer.runtime.meeting import CALL, agree, init_method
from trainer.runtime.processes import lost_peer


@pytest.fixture
def store() -> dist.Store:
    return dist.HashStore()


def _train(rank: int, world: int, port: int, delay: float) -> None:
    """Form a group under one number of the attempt, whatever it is, and die without a word."""
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": "1", "RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": str(rank)}
    time.sleep(delay)
    dist.init_process_group("gloo", init_method=init_method(), timeout=timedelta(seconds=30))
    ranks = torch.tensor(float(rank))
    dist.all_reduce(ranks)
    assert ranks == world * (world - 1) / 2
    os._exit(0)  # its addresses stay in the store


def test_processes_started_again_do_not_call_the_dead() -> None:
    """Each attempt has another size; the others are there before process 0 has called, and find the call of before."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # a launcher keeps it
    for world in (2, 3, 2):
        delays = [0.3, *[0.0] * (world - 1)]
        group = [forked(partial(_train, rank, world, store.port, delays[rank])) for rank in range(world)]
        for process in group:
            process.join(60)
        assert [process.exitcode for process in group] == [0] * world


def test_one_who_answered_and_died_is_not_waited_for(store: dist.Store) -> None:
    """Process 1 of the first attempt answers a call and is gone; all of the second attempt agree on another one."""
    with pytest.raises(dist.DistStoreError, match="process 0 of 3"):
        agree(store, 0, 3, 0.1)
    dead = store.get(CALL).decode()
    store.set(f"meeting/{dead}/1", "gone")
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(agree, store, rank, 3, 10.0) for rank in (2, 1)]
        time.sleep(0.05)  # they have answered the dead call
        found.append(pool.submit(agree, store, 0, 3, 10.0))
        prefixes = {future.result() for future in found}
    assert len(prefixes) == 1
    assert dead not in prefixes


def test_a_call_that_was_completed_before_does_not_hold_again(store: dist.Store) -> None:
    first = ThreadPoolExecutor(1).submit(agree, store, 1, 2, 10.0)
    before = agree(store, 0, 2, 10.0)
    assert first.result() == before
    later = threading.Timer(0.2, agree, (store, 0, 2, 10.0))
    later.start()
    assert agree(store, 1, 2, 10.0) != before
    later.join()


def test_those_who_wait_too_long_say_so(store: dist.Store) -> None:
    with pytest.raises(dist.DistStoreError) as error:
        agree(store, 1, 2, 0.1)
    assert lost_peer(error.value) == "timed out after 0 s; process 1 of 2 waited"


def test_without_a_store_of_the_launcher_they_meet_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert init_method() is None
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert init_method() is None
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert init_method() == "meeting://"
    assert meeting.init_method() == "meeting://"  # registered once
