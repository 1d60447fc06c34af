"""How started processes find each other, again and again, in the store of their launcher.

The launcher's store outlives its processes and still holds the addresses of dead ones: a new process that reads one of
these fails or waits for ever. Launchers of several machines may count their attempts differently, and one that joins
later begins to count, so no number of theirs keeps the attempts apart.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any

CALL = "meeting/call"  # the latest call of a process 0, in the store
PAUSE, LONGEST_PAUSE = 0.02, 0.5  # seconds between two looks, growing


def init_method() -> str | None:
    """Return the `init_method` of the process group: our own where a launcher lends its store, else None."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return _registered()


@cache
def _registered() -> str:
    import torch

    torch.distributed.register_rendezvous_handler("meeting", _meet)
    return "meeting://"


def _meet(url: str, timeout: timedelta, **kwargs: Any) -> Iterator[tuple[Any, int, int]]:
    """Meet as `env://` does, in a part of the store that belongs to the processes that are there now."""
    import torch

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = torch.distributed.TCPStore(address, port, is_master=False, timeout=timeout, wait_for_workers=False)
    prefix = agree(store, rank, world, timeout.total_seconds())
    yield torch.distributed.PrefixStore(prefix, store), rank, world


def agree(store: Any, rank: int, world: int, patience: float) -> str:
    """Return a prefix that all processes of this attempt share and no earlier one had.

    Process 0 calls under a name that nobody has used. The others answer it with names of their own, and wait until it
    has repeated these: a call of an earlier attempt never does, and they turn to the next one.

    Raises DistStoreError when that takes more than `patience` seconds.
    """
    import torch

    own, deadline, pause, answered = uuid.uuid4().hex, time.monotonic() + patience, PAUSE, ""
    keys = [f"meeting/{own}/{other}" for other in range(1, world)]
    while time.monotonic() < deadline:
        if rank == 0:
            store.set(CALL, own)  # again each time: one that has lost its launcher may have called, too
            if not keys or store.check(keys):
                store.multi_set([f"{key}/heard" for key in keys], store.multi_get(keys))
                return own
        elif store.check([CALL]):
            call = store.get(CALL).decode()
            key = f"meeting/{call}/{rank}"
            if call != answered:
                store.set(key, own)
                answered = call
            if store.check([f"{key}/heard"]) and store.get(f"{key}/heard").decode() == own:
                return call
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE)
    raise torch.distributed.DistStoreError(f"timed out after {patience:.0f} s; process {rank} of {world} waited")
