"""Which process scores what. Whole batches are dealt out, so that a network sees the same batches on any number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from trainer.types import UserError

T = TypeVar("T")


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
