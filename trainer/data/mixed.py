"""Several data sets in one run, mixed by weight: each epoch holds a fixed share of each.

An item is a function of (seed, epoch, place in the epoch), so nothing depends on processes, workers or what was read
before. Mixing data sets by share is common for networks that must work everywhere (MiDaS, arXiv:1907.01341).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data import DATASETS
from trainer.data._mixture import (
    Part,
    Pattern,
    build_part,
    check_parts,
    item_counts,
    parts_of_mode,
    shared_keys,
)
from trainer.data.base import DataError, Key, Mode, RawItem, checked_size
from trainer.data.recorded import RecordedDataset
from trainer.types import UserError

_WALK = 3  # fourth word of entropy, see trainer/data/loaders.py and _recorded.py


@DATASETS.register("mixed")
class MixedDatasets(RecordedDataset):
    """Several data sets, each with a share of every training epoch.

    In training, data set k has `length * weight_k / (sum of weights)` items of an epoch. It is walked through in a
    random order that goes on from epoch to epoch: no item comes twice before all have come once. In val and test, every
    item of every data set comes exactly once, weights do not count, and data sets are spread evenly, so that a limit
    cuts all of them.

    `size`, `use_aug` and the like are set here for all. Supports may differ, as [-1, 1] and [-3, 3], but not in their
    number, and 0 stands at the same place. Keys that not all data sets give (`depth`, `Ts_true`) are left out, which
    the log tells. `index` is epoch * length + place in the epoch.

    Args:
        datasets: {name: {type: ..., weight: 1.0, <arguments of the type>}}; `type` may be left out where the name is
            one. `train`, `val`, `test` inside override single keys, and null in place of a mapping leaves one out.
        length: items of a training epoch; null = as many as all data sets have together.
        depth_size: (width, height) of all depth maps, resized by nearest neighbour; null = as the data sets give them.

    The other arguments are those of `DepthDataset`.
    """

    def __init__(
        self,
        datasets: dict[str, dict[str, Any] | None],
        length: int | None = None,
        depth_size: tuple[int, int] | None = None,
        mode: Mode = "train",
        size: tuple[int, int] = (640, 192),
        supp_idxs: int | Sequence[int] | None = (-1, 1),
        use_depth: bool = True,
        use_hints: bool = False,
        use_aug: bool = False,
        use_strong_aug: bool = False,
        as_torch: bool = True,
        log_time: bool = False,
        seed: int = 0,
    ):
        super().__init__(
            mode, size, supp_idxs, use_depth, use_hints, use_aug, use_strong_aug, as_torch, log_time, seed
        )
        if length is not None and length < 1:
            raise UserError(f"dataset.length must be 1 or more, or null, got {length}")
        self.depth_size = None if depth_size is None else checked_size(depth_size, "dataset.depth_size")
        problems = check_parts(DATASETS, datasets)
        if problems:
            raise UserError("\n".join(f"dataset.{problem}" for problem in problems))
        shared = {
            "mode": mode, "size": self.size, "use_depth": use_depth, "use_hints": use_hints, "use_aug": use_aug,
            "use_strong_aug": use_strong_aug, "log_time": log_time,
        }  # fmt: skip
        self.parts = [
            build_part(DATASETS, name, weight, kwargs, {**shared, "seed": _seed_of(seed, i)}, self.supp_idxs)
            for i, (name, weight, kwargs) in enumerate(parts_of_mode(datasets, mode))
        ]
        sizes = [len(part.dataset) for part in self.parts]
        counts = sizes
        if mode == "train":
            counts = item_counts([part.weight for part in self.parts], length or sum(sizes))
        self.pattern = Pattern(counts)
        self.use_depth = use_depth and all(part.dataset.use_depth for part in self.parts)
        self._walks: dict[tuple[int, int], NDArray[Any]] = {}
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._watch(self._starts[-1])

    @classmethod
    def validate_config(cls, kwargs: dict[str, Any]) -> list[str]:
        """List unknown types, unknown or wrong arguments of the data sets, and weights that are no shares."""
        datasets = kwargs.get("datasets")  # absent when it is missing or no mapping, which is told already
        return [] if datasets is None else check_parts(DATASETS, datasets)

    def __len__(self) -> int:
        return len(self.pattern)

    def describe(self, index: int) -> str:
        """`<name>: <item>`, of the `index` of an item or of a place in epoch 0."""
        part, _, own = self._place(*divmod(index, len(self)))
        return f"{part.name}: {part.dataset.describe(own)}"

    def check(self) -> list[str]:
        """List the problems of all data sets, and what keeps their items out of one batch.

        One item of each data set is read: it tells what they have in common.
        """
        problems = [f"{part.name}: {line}" for part in self.parts for line in part.dataset.check()]
        if problems:
            return problems
        try:
            return self._disagreements()
        except DataError as error:
            return [str(error)]

    def notes(self) -> list[str]:
        """Tell shares, what is left out, and the notes of all data sets."""
        notes = [f"{part.name}: {line}" for part in self.parts for line in part.dataset.notes()]
        if self.mode == "train":
            for part, count in zip(self.parts, self.pattern.counts, strict=True):
                notes.append(
                    f"{part.name}: {count} of {len(self)} items of an epoch ({count / len(self):.1%}), "
                    f"{count / len(part.dataset):.3g} times its {len(part.dataset)}"
                )
        left_out = sorted(set().union(*self._samples) - self._keys)
        return notes + (
            [f"left out, as not all data sets have it: {', '.join(left_out)}"] if left_out else []
        )

    def load(self, index: int) -> RawItem:
        """Read what stands at a place of epoch 0, as its data set gives it."""
        part, _, own = self._place(0, index)
        return part.dataset.load(own)

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a data set of {len(self)}")
        part, walk, own = self._place(epoch, index)
        try:
            item = part.read((walk, own), self.depth_size)
        except DataError as error:
            raise DataError(f"{part.name}: {error}") from error
        item = {name: value for name, value in item.items() if name in self._keys}
        item["index"] = torch.tensor(epoch * len(self) + index if self.mode == "train" else index)
        return item

    def _place(self, epoch: int, index: int) -> tuple[Part, int, int]:
        """Which item stands at a place of an epoch: its data set, the walk through it, its index there.

        Within a walk every item comes once; the number of the walk is the epoch that its augmentation knows.
        """
        i_part, step = self.pattern.place(index)
        part, size = self.parts[i_part], len(self.parts[i_part].dataset)
        if self.mode != "train":
            return part, 0, step
        walk, position = divmod(epoch * self.pattern.counts[i_part] + step, size)
        return part, walk, int(self._order(i_part, walk, size)[position])

    def _order(self, i_part: int, walk: int, size: int) -> NDArray[Any]:
        """The order of one walk through a data set; the latest are kept."""
        if (i_part, walk) not in self._walks:
            if len(self._walks) > 4 * len(self.parts):
                self._walks.clear()
            rng = np.random.default_rng([self.seed, i_part, walk, _WALK])
            self._walks[i_part, walk] = rng.permutation(size)
        return self._walks[i_part, walk]

    def _other(self, rng: np.random.Generator, index: int) -> int:
        """A stand-in comes from the same data set, so that shares stay what they are."""
        i_part, _ = self.pattern.place(index)
        return self.pattern.at(i_part, int(rng.integers(self.pattern.counts[i_part])))

    def _identity(self, epoch: int, index: int) -> int:
        part, _, own = self._place(epoch, index)
        return int(self._starts[self.parts.index(part)]) + own

    @cached_property
    def _samples(self) -> list[dict[str, Tensor]]:
        """One item of each data set, the first that can be read."""
        return [part.sample(self.depth_size) for part in self.parts]

    @cached_property
    def _keys(self) -> frozenset[str]:
        return shared_keys(self._samples)

    def _disagreements(self) -> list[str]:
        problems = []
        names = [part.name for part in self.parts]
        for key in sorted(self._keys):
            shapes = {name: tuple(s[key].shape) for name, s in zip(names, self._samples, strict=True)}
            if len(set(shapes.values())) > 1:
                told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                fix = (
                    "Set dataset.depth_size: [width, height]"
                    if self.depth_size is None
                    else "They must be the same"
                )
                problems.append(f"{key!r} has different shapes: {told}. {fix}")
        wanted = {"T_stereo"} if 0 in self.supp_idxs else set()
        wanted |= {"depth_hints"} if self.use_hints else set()
        for key in sorted(wanted - self._keys):
            without = [name for name, s in zip(names, self._samples, strict=True) if key not in s]
            problems.append(f"{key!r} is asked for, but {', '.join(without)} does not have it")
        return problems


def _seed_of(seed: int, i_part: int) -> int:
    """A seed of its own for each data set: else their items would share draws."""
    return int(np.random.SeedSequence([seed, i_part]).generate_state(1)[0])
