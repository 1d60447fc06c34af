"""Data sets that read recordings: an item that cannot be read never ends an epoch.

`check` reports missing and cut files before the first batch. A file that breaks later, or only shows its damage when it
is decoded, costs one item: another item takes its place, and the log names the file and counts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.base import DepthDataset, Key
from trainer.data.files.damage import find_damaged, is_first_of_machine
from trainer.data.files.decoded import DecodedPictures, Source
from trainer.data.files.frames import Numbers, fingerprint, fingerprints
from trainer.data.files.pictures import at_size, read_rgb
from trainer.data.files.scans import finite_points
from trainer.data.files.splits import capped
from trainer.data.raw_item import RawItem
from trainer.geometry import valid_depth
from trainer.runtime.errors import DataError, UserError

_STAND_IN = 2  # fourth word of entropy: items draw from (seed, epoch, index) alone
_TRIES = 10  # items in a row that may fail; more, and the disk is gone

_log = logging.getLogger(__name__)


class RecordedDataset(DepthDataset):
    """A data set whose files may be damaged.

    `dataset[key]` raises DataError for an item that cannot be read. A loader reads batches of (epoch, index) with
    `__getitems__`: in training and validation another item, a function of (seed, epoch, index), stands in for an
    unreadable one. Evaluations (plain indices, or mode `test`) have no stand-ins: their numbers are those of all items.
    """

    reads_pictures: ClassVar[bool] = True
    unreadable: Tensor  # shared with worker processes
    _decoded: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = ()  # by `_picture`, of the item being read
    _origins: Sequence[tuple[NDArray[np.uint8], Any]] = ()  # the same

    def _watch(self, num_items: int) -> None:
        """Start counting; call it before workers start, so that they share the count."""
        self.unreadable = torch.zeros(num_items, dtype=torch.bool).share_memory_()
        self._warned: set[str] = set()
        self._not_looked_at = 0

    def notes(self) -> list[str]:
        """Report how many files `check` had no time for."""
        if not self._not_looked_at:
            return []
        return [f"no time to check {self._not_looked_at} files: a broken one costs its items when it is read"]

    def _damaged(self, paths: Iterable[str], what: str) -> list[str]:
        """List files that are empty or cut short; count those that there was no time for."""
        problems, left = find_damaged(paths)
        self._not_looked_at += left
        return capped(problems, f"damaged {what}")

    def __getitems__(self, keys: Sequence[Key]) -> list[dict[str, Tensor]]:
        """Read a batch of items. Raises DataError when 10 in a row cannot be read, or one of an evaluation."""
        strict = self.mode == "test"
        return [self._item_or_other(*key) if isinstance(key, tuple) and not strict else self[key] for key in keys]

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
        raise DataError(f"{_TRIES} items in a row cannot be read, the last one: {reason}. Is the disk still there?")

    @property
    def home(self) -> Path:
        """Folder that the names of pictures start from, so that data may move."""
        raise NotImplementedError

    def picture_places(self) -> Iterable[str]:
        """Yield the places of all pictures that items read, each once."""
        return ()

    def open_picture(self, place: Any) -> Any:
        """Return the path, or a stream, that a picture is read from."""
        return place

    def picture_of(self, index: int) -> Any:
        """Return the place of the picture of the target of item `index`, None where it is missing."""
        return None

    def fingerprint_of(self, index: int) -> int | None:
        try:
            place = self.picture_of(index)
            return None if place is None else fingerprint(self.open_picture(place))
        except (OSError, DataError):  # `check` reports it
            return None

    def fingerprints(self) -> Numbers:
        return fingerprints(self.open_picture(place) for place in self.picture_places())

    def picture_sources(self) -> dict[Source, str]:
        """Map the pictures that items read to their places."""
        return {Source.of(self._name(place), place): place for place in self.picture_places()}

    def label_problems(self) -> list[str]:
        problems = super().label_problems()
        if self.decoded_root is None or not is_first_of_machine():
            return problems
        try:
            return problems + self._ready.problems(self.picture_sources(), self.size)
        except UserError as error:
            return [*problems, str(error)]

    @cached_property
    def _ready(self) -> DecodedPictures:
        return DecodedPictures(str(self.decoded_root))

    def _name(self, place: str) -> str:
        return os.path.relpath(place, self.home)

    def read(self, epoch: int, index: int, with_label: bool = True) -> RawItem:
        self._decoded, self._origins = [], []
        return super().read(epoch, index, with_label)

    def source_of(self, picture: NDArray[np.uint8]) -> Any:
        return next((source for read, source in self._origins if read is picture), None)

    def _picture(self, source: Any) -> NDArray[np.uint8]:
        """Read a picture as RGB of `size` (h w 3), for use inside `load`, decoded where `decoded_root` has it.

        What `views` need of it is kept.
        """
        if self.decoded_root is not None and self._ready.size == self.size:
            ready = self._ready.read(self._name(str(source)))
            if ready is not None:
                return ready
        rgb = read_rgb(self.open_picture(source))
        picture = at_size(rgb, self.size)
        self._origins = [*self._origins, (picture, source)]
        if self.views:
            self._decoded = [*self._decoded, (picture, rgb)]
        return picture

    def _pictures_at(self, epoch: int, index: int, raw: RawItem, size: tuple[int, int]) -> Sequence[NDArray[np.uint8]]:
        """Resize what was decoded for the item; a data set that does not use `_picture` reads again."""
        images = [raw.target, *raw.supports]
        found = [next((rgb for picture, rgb in self._decoded if picture is image), None) for image in images]
        if any(rgb is None for rgb in found):
            return super()._pictures_at(epoch, index, raw, size)
        return [at_size(rgb, size) for rgb in found if rgb is not None]

    def _other(self, rng: np.random.Generator, index: int) -> int:
        return int(rng.integers(len(self)))

    def _identity(self, epoch: int, index: int) -> int:
        """Number of an item in `unreadable`."""
        return index

    def _count(self, index: int, reason: str) -> None:
        if not self.unreadable[index]:
            self.unreadable[index] = True
            count = f"{int(self.unreadable.sum())} of {len(self.unreadable)} items so far"
            _log.warning("%s. Another item takes its place (%s)", reason, count)

    def _known_depth(self, depth: NDArray[np.float32], path: str) -> NDArray[np.float32]:
        """Set depth that is no measurement to 0 = none, with one warning per file and process."""
        nonsense = ~(valid_depth(depth) | (depth == 0))
        if not nonsense.any():
            return depth
        count = f"{int(nonsense.sum())} of {depth.size} values"
        self._warn(path, f"{count} are NaN, infinite or not between 1 mm and 10 km: taken as no ground truth")
        return np.where(nonsense, np.float32(0), depth)

    def _known_points(self, points: NDArray[Any], path: str) -> NDArray[Any]:
        """Drop points (n 4) of a LiDAR scan that are not finite, with one warning per file and process."""
        known, message = finite_points(points)
        if message:
            self._warn(path, message)
        return known

    def _warn(self, path: str, what: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            _log.warning("%s: %s", path, what)
