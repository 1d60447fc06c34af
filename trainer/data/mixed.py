"""Several data sets in one run, mixed by weight: each epoch holds a fixed share of each.

An item is a function of (seed, epoch, place in the epoch), so nothing depends on processes, workers or what was read
before. Mixing data sets by share is common for networks that must work everywhere (MiDaS, arXiv:1907.01341).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from models_zoo.registry import Registry, did_you_mean
from trainer.data import DATASETS
from trainer.data.base import DataError, DepthDataset, Key, Mode, RawItem, checked_size
from trainer.data.clips.intrinsics import resized
from trainer.data.files.depth import resize_nearest
from trainer.data.recorded import RecordedDataset
from trainer.runtime.errors import UserError

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

    path_arguments = frozenset({"datasets"})

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


MODES = ("train", "val", "test")
OWN_KEYS = ("type", "weight")
# Set once, for all data sets: what decides whether items fit into one batch, and what a run decides.
COMMON = (
    "mode",
    "size",
    "use_depth",
    "use_hints",
    "use_aug",
    "use_strong_aug",
    "as_torch",
    "log_time",
    "seed",
)
_SAMPLES = 10  # items that may be unreadable before a data set is called so


@dataclass(frozen=True)
class Part:
    """One data set of a mixture."""

    name: str
    weight: float
    dataset: DepthDataset

    def read(self, key: Key, depth_size: tuple[int, int] | None) -> dict[str, Tensor]:
        """Read an item; its depth and edges (1 H W) get `depth_size` (w, h), and `K_depth` (3 3) follows."""
        item = dict(self.dataset[key])
        if depth_size is None:
            return item
        if {"depth", "K_depth"} <= item.keys():
            height, width = item["depth"].shape[-2:]
            K = resized(item["K_depth"].numpy(), (width, height), depth_size)
            item["K_depth"] = torch.from_numpy(K.astype(np.float32))
        for name in {"depth", "edges"} & item.keys():
            item[name] = torch.from_numpy(resize_nearest(item[name][0].numpy(), depth_size))[None]
        return item

    def sample(self, depth_size: tuple[int, int] | None) -> dict[str, Tensor]:
        """Read the first item that can be read. Raises DataError when there is none among ten."""
        reason = ""
        for i_item in range(min(_SAMPLES, len(self.dataset))):
            try:
                return self.read(i_item, depth_size)
            except DataError as error:  # noqa: PERF203 - at most ten times
                reason = str(error)
        raise DataError(f"{self.name}: its first items cannot be read, the last of them: {reason}")


class Pattern:
    """Which data set has which place of an epoch: as evenly spread as their numbers of items allow."""

    def __init__(self, counts: Sequence[int]):
        self.counts = list(counts)
        when = np.concatenate([(np.arange(count) + 0.5) / count for count in self.counts if count])
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        self._owner: NDArray[Any] = owner[np.argsort(when, kind="stable")]
        self._step = np.zeros(len(self._owner), np.int64)
        self._places = [np.flatnonzero(self._owner == i) for i in range(len(self.counts))]
        for places in self._places:
            self._step[places] = np.arange(len(places))

    def __len__(self) -> int:
        return len(self._owner)

    def place(self, index: int) -> tuple[int, int]:
        """Data set at a place, and how many items of it came before."""
        return int(self._owner[index]), int(self._step[index])

    def at(self, i_part: int, step: int) -> int:
        """The place that `place` maps to this."""
        return int(self._places[i_part][step])


def item_counts(weights: Sequence[float], length: int) -> list[int]:
    """Divide `length` items by weight; what rounding leaves goes to the largest remainders.

    Raises UserError when a data set gets none.
    """
    exact = np.asarray(weights, np.float64) / np.sum(weights) * length
    counts = np.floor(exact).astype(np.int64)
    for i in np.argsort(counts - exact, kind="stable")[: length - counts.sum()]:
        counts[i] += 1
    if not counts.all():
        raise UserError(
            f"dataset.length {length} leaves {counts.tolist()} items for weights {list(weights)}: make it longer"
        )
    return [int(count) for count in counts]


def shared_keys(samples: Sequence[Mapping[str, Tensor]]) -> frozenset[str]:
    """Keys that all items have."""
    return frozenset.intersection(*(frozenset(sample) for sample in samples))


def parts_of_mode(datasets: Mapping[str, Any], mode: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield name, weight and arguments (`type` among them) of each data set in a mode."""
    for name, settings in datasets.items():
        if settings is not None:
            kwargs = {key: value for key, value in settings.items() if key not in MODES}
            kwargs |= settings.get(mode) or {}
            yield name, kwargs.pop("weight", 1.0), {"type": name, **kwargs}


def build_part(
    registry: Registry,
    name: str,
    weight: float,
    kwargs: Mapping[str, Any],
    shared: Mapping[str, Any],
    supp_idxs: Sequence[int],
) -> Part:
    """Build a data set of a mixture; `supp_idxs` are those of the mixture, which it may replace.

    Raises UserError naming it, also when its supports do not match those of the mixture.
    """
    own = {key: value for key, value in kwargs.items() if key != "type"}
    if not supp_idxs:
        own["supp_idxs"] = None
    try:
        dataset = registry.create(kwargs["type"], **{"supp_idxs": list(supp_idxs), **shared, **own})
    except UserError as error:
        keys = [key for key in registry.parameters(kwargs["type"]) if key not in COMMON]
        keys = [key for key in keys if key != "supp_idxs" or key in own]
        own_key = re.compile(
            rf"\bdataset\.((?:(?:{'|'.join(MODES)})\.)?(?:{'|'.join(map(re.escape, keys))}))\b"
        )
        told = own_key.sub(lambda match: f"dataset.datasets.{name}.{match[1]}", str(error))
        place = f"dataset.datasets.{name}"
        raise UserError(told if told.startswith(f"{place}.") else f"{place}: {told}") from error
    zeros = [[i for i, o in enumerate(offsets) if o == 0] for offsets in (supp_idxs, dataset.supp_idxs)]
    if len(dataset.supp_idxs) != len(supp_idxs) or zeros[0] != zeros[1]:
        raise UserError(
            f"dataset.datasets.{name}.supp_idxs {list(dataset.supp_idxs)} do not match dataset.supp_idxs "
            f"{list(supp_idxs)}: as many are needed, and 0 at the same place"
        )
    return Part(name, weight, dataset)


def check_parts(registry: Registry, datasets: Mapping[str, Any]) -> list[str]:
    """List what is wrong with the settings of the data sets, each line opening with "datasets"."""
    problems = []
    for mode in MODES:
        for name, settings in datasets.items():
            if not isinstance(settings, Mapping | None):
                problems.append(f"datasets: {name}: expected a mapping of keys, got {settings!r}")
            elif settings is not None and not all(isinstance(settings.get(m) or {}, Mapping) for m in MODES):
                problems.append(f"datasets: {name}: train, val and test must be mappings of keys")
        if problems:
            return problems
        for name, weight, kwargs in parts_of_mode(datasets, mode):
            problems += [f"datasets: {name}{text}" for text in _part_problems(registry, weight, kwargs)]
    if not any(settings is not None for settings in datasets.values()):
        problems.append("datasets: none is named")
    return list(dict.fromkeys(problems))


def _part_problems(registry: Registry, weight: Any, kwargs: Mapping[str, Any]) -> Iterator[str]:
    kind = kwargs["type"]
    if not (isinstance(kind, str) and kind in registry) or kind == "mixed":
        known = [entry for entry in registry.names() if entry != "mixed"]
        yield f".type: {kind!r} is not a dataset that can be mixed. {did_you_mean(str(kind), known)}"
        return
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        yield f".weight must be a positive number, got {weight!r}. To leave the data set out, set it to null (~)"
    parameters = registry.parameters(kind)
    known = [key for key in parameters if key not in COMMON]
    for key, value in kwargs.items():
        if key in OWN_KEYS:
            continue
        if key in COMMON:
            yield f".{key} is set for all data sets together: use dataset.{key}"
        elif key not in parameters:
            yield f".{key} is not an argument of dataset {kind!r}. {did_you_mean(key, [*known, *OWN_KEYS, *MODES])}"
        elif reason := _mismatch(parameters[key].annotation, value):
            yield f".{key}: {value!r} does not fit: {reason}"
    for key in known:
        if key not in kwargs and parameters[key].default is parameters[key].empty:
            yield f".{key}: missing"


def _mismatch(annotation: Any, value: Any) -> str:
    """What is wrong with a value, in the words of pydantic; "" where it is of the type."""
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return "; ".join(dict.fromkeys(e["msg"] for e in error.errors()))
    return ""
