"""The arithmetic of a mixture, and the building and checking of its parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from models_zoo.registry import Registry, did_you_mean
from trainer.data.base import DataError, DepthDataset, Key
from trainer.data.clips.intrinsics import resized
from trainer.data.files.depth import resize_nearest
from trainer.types import UserError

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
