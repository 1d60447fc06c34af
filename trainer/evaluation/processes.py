"""Which process scores what. Whole batches are dealt out, so that a network sees the same batches on any number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


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
        """Join what all processes have, on each of them. Waits for all."""
        if self.world == 1:
            return list(mine)
        from torch import distributed

        parts: list[list[T]] = [[] for _ in range(self.world)]
        distributed.all_gather_object(parts, list(mine))
        return [row for part in parts for row in part]


ALONE = Processes()
