"""What data sets that read recordings share: an item that cannot be read never ends an epoch.

What is missing or cut short is told by `check` before the first batch. What breaks later, or only shows when it is
decoded, costs one item: another one takes its place, and a line of the log names the file and counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.base import DataError, DepthDataset, Key
from trainer.data.files.damage import find_damaged
from trainer.data.files.scans import finite_points
from trainer.data.files.splits import capped

_STAND_IN = 2  # fourth word of entropy: items draw from (seed, epoch, index), stand-ins from something else
_TRIES = 10  # items in a row that may fail; more means that the disk has gone

_log = logging.getLogger(__name__)


class RecordedDataset(DepthDataset):
    """A data set whose files may be damaged.

    `dataset[key]` raises DataError for an item that cannot be read. The loader of a run asks for batches of
    (epoch, index) by `__getitems__`: in training and validation another item, a function of (seed, epoch, index),
    stands in for it. Evaluations ask for plain indices, and nothing stands in there: their numbers are those of all
    items. Nor does it in mode `test`.
    """

    unreadable: Tensor  # shared with worker processes

    def _watch(self, num_items: int) -> None:
        """Begin to count; before workers start, so that they share the count."""
        self.unreadable = torch.zeros(num_items, dtype=torch.bool).share_memory_()
        self._told: set[str] = set()
        self._not_looked_at = 0

    def notes(self) -> list[str]:
        """Say for how many files `check` had no time."""
        if not self._not_looked_at:
            return []
        return [
            f"no time to see whether {self._not_looked_at} files are whole: a broken one costs its items when it is"
            " read"
        ]

    def _damaged(self, paths: Iterable[str], what: str) -> list[str]:
        """List files that are empty or cut short, the first ones by name; count those that there was no time for."""
        problems, left = find_damaged(paths)
        self._not_looked_at += left
        return capped(problems, f"damaged {what}")

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Tensor]]:
        """Read a batch of items. Raises DataError when 10 in a row cannot be read, or one of an evaluation."""
        strict = self.mode == "test"
        return [
            self._item_or_other(*key) if isinstance(key, tuple) and not strict else self[key] for key in keys
        ]

    def _item_or_other(self, epoch: int, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, epoch, index, _STAND_IN])
        chosen, reason = index, ""
        for _ in range(_TRIES):
            try:
                item = self[epoch, chosen]
            except DataError as error:
                reason = str(error)
                self._count(self._identity(epoch, chosen), reason)
                chosen = self._other(rng, index)
                continue
            if self.mode == "val":  # the table of a validation has a row for every index
                item["index"] = torch.tensor(index)
            return item
        raise DataError(
            f"{_TRIES} items in a row cannot be read, the last one: {reason}. Is the disk still there?"
        )

    def _other(self, rng: np.random.Generator, index: int) -> int:
        """Draw the item that stands in for `index`."""
        return int(rng.integers(len(self)))

    def _identity(self, epoch: int, index: int) -> int:
        """The number of an item in the count of unreadable ones."""
        return index

    def _count(self, index: int, reason: str) -> None:
        if not self.unreadable[index]:
            self.unreadable[index] = True
            count = f"{int(self.unreadable.sum())} of {len(self.unreadable)} items so far"
            _log.warning("%s. Another item takes its place (%s)", reason, count)

    def _known_depth(self, depth: NDArray[np.float32], path: str) -> NDArray[np.float32]:
        """Set what is no distance (NaN, infinite, negative) to 0 = none, and say so once per file and process."""
        nonsense = ~(np.isfinite(depth) & (depth >= 0))
        if not nonsense.any():
            return depth
        counted = f"{int(nonsense.sum())} of {depth.size} values"
        self._tell(path, f"{counted} are NaN, infinite or negative: taken as no ground truth")
        return np.where(nonsense, np.float32(0), depth)

    def _known_points(self, points: NDArray[Any], path: str) -> NDArray[Any]:
        """Leave out the points (n 4) of a LiDAR scan that are not finite, and say so once per file and process."""
        known, told = finite_points(points)
        if told:
            self._tell(path, told)
        return known

    def _tell(self, path: str, what: str) -> None:
        if path not in self._told:
            self._told.add(path)
            _log.warning("%s: %s", path, what)
