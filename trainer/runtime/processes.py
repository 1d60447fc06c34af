"""Several processes: how they meet, decide together and notice that one is gone. Importing this loads no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from trainer.runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def check_world(accelerator: Any) -> None:
    """Raise UserError when the launcher started more processes than Accelerate knows of.

    Without this check every process would believe to be alone and all would write the same checkpoint.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise UserError(
            f"the launcher started {world} processes but Accelerate sees {accelerator.num_processes}: "
            "each would train alone and overwrite the others. Use one of launch/accelerate/*.yaml "
            "(two processes on CPU: launch/accelerate/cpu_x2.yaml), or set ACCELERATE_USE_CPU=true without a GPU."
        )


def check_equal(accelerator: Any, value: Any, what: str) -> None:
    """Raise UserError on every process when `value` (plain data) is not the same on all."""
    import torch

    if accelerator.num_processes == 1:
        return
    values: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(values, value)
    if any(other != values[0] for other in values):
        told = "; ".join(f"process {rank}: {v}" for rank, v in enumerate(values))
        raise UserError(
            f"the processes do not agree on {what} ({told}). All need the same files and --ckpt-dir"
        )


def total(accelerator: Any, x: Tensor) -> Tensor:
    """Sum `x` over all processes; every process gets the result."""
    import torch

    if accelerator.num_processes > 1:
        torch.distributed.all_reduce(x)
    return x


LOST = re.compile(
    r"closed by (?:remote )?peer|connection (?:reset|refused|closed)|broken pipe|time(?:d |-)?out"
    r"|remote process exit|remoteerror|communicator was aborted|socket (?:is )?closed",
    re.IGNORECASE,
)


def lost_peer(error: BaseException) -> str | None:
    """Return in one line what the backend said, when `error` means that a process died or fell silent; else None.

    gloo raises a RuntimeError that names its own source file, NCCL and the store a DistError.
    """
    import torch

    text = str(error)
    is_backend = isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in text.lower()
    )
    if not is_backend or not LOST.search(text):
        return None
    line = next(line for line in text.splitlines() if LOST.search(line))
    said = re.sub(r"^\[[^\]]*/[^\]]*\] *", "", line.strip())  # without the source file
    return said.partition(". This is typically")[0][:200].rstrip(".")


def init_method() -> str | None:
    """How the processes meet: None, as the launcher says; another one where a launcher has started them again.

    Its store outlives them and still holds the addresses of those that died, and a new process that reads one before it
    is replaced fails, or waits for somebody who never comes. On one machine the number of the attempt keeps them apart.
    Launchers of several machines may count differently: there nothing is changed.
    """
    environ = os.environ
    alone = environ.get("LOCAL_WORLD_SIZE") == environ.get("WORLD_SIZE")
    again = environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if not (alone and again and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"):
        return None
    return _attempts()


@cache
def _attempts() -> str:
    """Make the meeting place known to torch, once."""
    import torch

    torch.distributed.register_rendezvous_handler("attempt", _meet)
    return "attempt://"


def _meet(url: str, **kwargs: Any) -> Iterator[tuple[Any, int, int]]:
    """Meet as `env://` does, with keys of this attempt alone."""
    import torch

    store, rank, world = next(torch.distributed.rendezvous("env://", **kwargs))
    yield (
        torch.distributed.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store),
        rank,
        world,
    )


def any_process(accelerator: Any, flag: bool) -> bool:
    """Whether `flag` is true on any process; a barrier, too."""
    import torch

    return bool(total(accelerator, torch.tensor(float(flag), device=accelerator.device)))


def is_first_process() -> bool:
    """True on the process that may speak, before Accelerate is there to ask."""
    return os.environ.get("RANK", "0") == "0"


class FoundByAll(UserError):
    """What every process finds at the same time, so that one of them is enough to say it."""


@dataclass(frozen=True)
class Processes:
    """This process among all that work on one evaluation; torch.distributed is running when there are several."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """True on the process that prints and writes."""
        return self.rank == 0

    def share(self, batches: Sequence[T]) -> list[T]:
        """Every world-th of `batches`, beginning with the rank."""
        return list(batches[self.rank :: self.world])

    def gather(self, mine: Sequence[T]) -> list[T]:
        """Join what all processes have, on each of them. Waits for all. Raises UserError when one is gone."""
        if self.world == 1:
            return list(mine)
        from torch import distributed

        parts: list[list[T]] = [[] for _ in range(self.world)]
        with _together():
            distributed.all_gather_object(parts, list(mine))
        return [row for part in parts for row in part]

    def wait(self) -> None:
        """Let nobody go on before all are here."""
        if self.world > 1:
            from torch import distributed

            with _together():
                distributed.barrier()


@contextmanager
def _together() -> Iterator[None]:
    """Blame the other process when it is gone: it has said why, and a traceback of this one would hide that."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"another process has ended early; its own message says why ({reason})") from error


ALONE = Processes()
