"""Several data sets in one run, mixed by weight: each epoch holds a fixed share of each.

An item is a function of (seed, epoch, place in the epoch): processes, workers and earlier reads change nothing.
Networks that must work everywhere are usually trained on mixed data sets (MiDaS, arXiv:1907.01341).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import Unpack

from models_zoo.registry import did_you_mean
from trainer.data import DATASETS
from trainer.data.base import DepthDataset, Key
from trainer.data.clips.dataset import first_readable
from trainer.data.clips.intrinsics import resized
from trainer.data.files.depth import resize_nearest
from trainer.data.files.frames import FrameList, Frames, Numbers
from trainer.data.loaders import spread
from trainer.data.options import CommonOptions, checked_size
from trainer.data.permutation import Windows
from trainer.data.raw_item import RawItem
from trainer.data.recorded import RecordedDataset
from trainer.runtime.errors import DataError, UserError

_WALK = 3  # fourth word of entropy; `recorded` and `loaders` use others
MODES = ("train", "val", "test")
OWN_KEYS = ("type", "weight")
OR_ALONE = {"size": ", or set dataset.one_per_batch: true"}  # what lets a data set have its own
# Set once for all data sets: they decide whether items fit into one batch, or belong to the run.
COMMON = frozenset(CommonOptions.__annotations__) - {"supp_idxs", "pseudo_root", "decoded_root"}
_SAMPLES = 10  # items to try before a data set is called unreadable


@DATASETS.register("mixed")
class MixedDatasets(RecordedDataset):
    """Several data sets, each with a share of every training epoch.

    In training, data set k has `length * weight_k / (sum of weights)` items of an epoch. They come from walks through
    the data set in random order that continue over epochs: every item comes once before any comes twice. In val and
    test, every item of every data set comes exactly once, weights do not count, and data sets are spread evenly, so
    that a limit cuts all of them.

    `pseudo_root` and `decoded_root` of the mixture hold a folder <name> for each data set that names none of its own.

    `size`, `use_aug` and other common options are set here for all. Supports may differ, as [-1, 1] and [-3, 3], but
    not in their number, and 0 stands at the same place. Keys that not all data sets have (`depth`, `Ts_true`) are left
    out and listed in the log. `index` is epoch * length + place in the epoch.

    Args:
        datasets: {name: {type: ..., weight: 1.0, <arguments of the type>}}; `type` may be left out where the name is
            one. `train`, `val`, `test` inside override single keys, and null in place of a mapping leaves one out.
        length: items of a training epoch; null = as many as all data sets have together.
        one_per_batch: batches are of one data set each, which may then set its own `size` (arXiv:2307.10713).
        depth_size: (width, height) of all depth maps, resized by nearest neighbour; null = as the data sets give them.

    The other arguments are those of `DepthDataset`.
    """

    source: ClassVar[str] = "MiDaS, arXiv:1907.01341"
    path_arguments = frozenset({"datasets"})
    makes_pseudo = True
    measures_speed = True  # the data sets in it say so for themselves

    def __init__(
        self,
        datasets: dict[str, dict[str, Any] | None],
        length: int | None = None,
        one_per_batch: bool = False,
        depth_size: tuple[int, int] | None = None,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(**common)
        if length is not None and length < 1:
            raise UserError(f"dataset.length must be 1 or more, or null, got {length}")
        self.depth_size = None if depth_size is None else checked_size(depth_size, "dataset.depth_size")
        if problems := _problems(datasets, one_per_batch):
            raise UserError("\n".join(f"dataset.{problem}" for problem in problems))
        shared = {key: getattr(self, key) for key in COMMON - {"as_torch", "seed"}}
        self.parts = []
        labels, self._labels = self.pseudo_root, None  # those of the parts
        decoded, self.decoded_root = self.decoded_root, None
        for i, (name, weight, kwargs) in enumerate(_settings(datasets, self.mode)):
            kind: Any = DATASETS.get(kwargs["type"])
            if labels is not None and not kind.makes_pseudo:
                kwargs.setdefault("pseudo_root", f"{labels}/{name}")
            if decoded is not None and kind.reads_pictures:
                kwargs.setdefault("decoded_root", f"{decoded}/{name}")
            seed = int(np.random.SeedSequence([self.seed, i]).generate_state(1)[0])  # items share no draws
            self.parts.append(_build_part(name, weight, kwargs, {**shared, "seed": seed}, self.supp_idxs))
        counts = sizes = [len(part.dataset) for part in self.parts]
        if self.mode == "train":
            counts = item_counts([part.weight for part in self.parts], length or sum(sizes))
        self.pattern = Pattern(counts)
        self.groups = self.pattern.owner if one_per_batch else None
        self.use_depth = self.use_depth and all(part.dataset.use_depth for part in self.parts)
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._watch(self._starts[-1])

    @classmethod
    def validate_config(cls, kwargs: dict[str, Any]) -> list[str]:
        """List unknown types, unknown or wrong arguments, and bad weights of the data sets."""
        datasets = kwargs.get("datasets")  # absent when missing or no mapping: reported elsewhere
        problems = [] if datasets is None else _problems(datasets, kwargs.get("one_per_batch", False))
        return super().validate_config(kwargs) + problems

    @classmethod
    def members(cls, arguments: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        """List type and arguments of the data sets of the training."""
        return [(kwargs["type"], kwargs) for _, _, kwargs in _settings(arguments["datasets"], "train")]

    def __len__(self) -> int:
        return len(self.pattern)

    def labelled(self) -> dict[str, DepthDataset]:
        return {part.name: part.dataset for part in self.parts if not part.dataset.makes_pseudo}

    def label_record(self) -> dict[str, Any]:
        records = {part.name: part.dataset.label_record() for part in self.parts}
        return {name: record for name, record in records.items() if record}

    def frames(self, indices: Sequence[int] | None = None) -> Frames:
        if indices is None:
            return Frames.union(part.dataset.frames() for part in self.parts)
        places = [self._place(*divmod(index, len(self))) for index in indices]
        chosen = {part.name: [own for other, _, own in places if other is part] for part in self.parts}
        return Frames.union(part.dataset.frames(chosen[part.name]) for part in self.parts)

    def lists(self) -> list[tuple[FrameList, Frames]]:
        return [entry for part in self.parts for entry in part.dataset.lists()]

    def fingerprint_of(self, index: int) -> int | None:
        part, _, own = self._place(*divmod(index, len(self)))
        return part.dataset.fingerprint_of(own)

    def fingerprints(self) -> Numbers:
        return np.unique(np.concatenate([part.dataset.fingerprints() for part in self.parts]))

    def describe(self, index: int) -> str:
        """`<name>: <item>`, of the `index` of an item or of a place in epoch 0."""
        part, _, own = self._place(*divmod(index, len(self)))
        return f"{part.name}: {part.dataset.describe(own)}"

    def place(self, index: int) -> tuple[str, int]:
        part, _, own = self._place(*divmod(index, len(self)))
        recording, frame = part.dataset.place(own)
        return f"{part.name}: {recording}", frame

    def scene_of(self, index: int) -> str | None:
        part, _, own = self._place(*divmod(index, len(self)))
        scene = part.dataset.scene_of(own)
        return None if scene is None else f"{part.name}: {scene}"

    def check(self) -> list[str]:
        """List the problems of all data sets, and why their items do not fit into one batch: reads one of each."""
        if problems := [f"{part.name}: {line}" for part in self.parts for line in _checked(part.dataset)]:
            return problems
        try:
            return self._disagreements()
        except DataError as error:
            return [str(error)]

    def left_out(self) -> list[str]:
        return [f"{part.name}: {line}" for part in self.parts for line in part.dataset.left_out()]

    @property
    def guesses_K(self) -> bool:
        return any(part.dataset.guesses_K for part in self.parts)

    def notes(self) -> list[str]:
        for part in self.parts:
            part.dataset.K_is_learned = self.K_is_learned
        notes = [f"{part.name}: {line}" for part in self.parts for line in part.dataset.notes()]
        if self.mode == "train":
            for part, count in zip(self.parts, self.pattern.counts, strict=True):
                notes.append(
                    f"{part.name}: {count} of {len(self)} items of an epoch ({count / len(self):.1%}), "
                    f"{count / len(part.dataset):.3g} times its {len(part.dataset)}"
                )
        if left_out := sorted(set().union(*self._samples) - self._keys):
            notes.append(f"left out, as not all data sets have it: {', '.join(left_out)}")
        return notes

    def load(self, index: int) -> RawItem:
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
        """Find the item at a place of an epoch: data set, walk through it (epoch of augmentation), index there."""
        i_part, step = self.pattern.place(index)
        part, size = self.parts[i_part], len(self.parts[i_part].dataset)
        if self.mode != "train":
            return part, 0, step
        walk, position = divmod(epoch * self.pattern.counts[i_part] + step, size)
        if part.dataset.window is not None:
            (own,) = _windows(part.dataset, self.seed, i_part, walk)[position : position + 1].tolist()
            return part, walk, own
        return part, walk, int(_order(self.seed, i_part, walk, size)[position])

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
        return frozenset.intersection(*(frozenset(sample) for sample in self._samples))

    def _disagreements(self) -> list[str]:
        problems = []
        names = [part.name for part in self.parts]
        for key in sorted(self._keys if self.groups is None else ()):
            shapes = {name: tuple(s[key].shape) for name, s in zip(names, self._samples, strict=True)}
            if len(set(shapes.values())) > 1:
                each = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                fix = "They must be the same" if self.depth_size else "Set dataset.depth_size: [width, height]"
                problems.append(f"{key!r} has different shapes: {each}. {fix}")
        wanted = {"T_stereo"} if 0 in self.supp_idxs else set()
        wanted |= {"depth_hints"} if self.use_hints else set()
        wanted |= {"pseudo"} if self.use_pseudo else set()
        wanted |= {"travelled"} if self.use_speed else set()
        for key in sorted(wanted - self._keys):
            without = [name for name, s in zip(names, self._samples, strict=True) if key not in s]
            problems.append(f"{key!r} is requested, but {', '.join(without)} does not have it")
        return problems


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
        """Read the first readable item. Raises DataError when ten are not."""
        try:
            return first_readable(lambda i: self.read(i, depth_size), range(min(_SAMPLES, len(self.dataset))))
        except DataError as error:
            raise DataError(f"{self.name}: its first items cannot be read: {error}") from error


class Pattern:
    """Which data set has which place of an epoch: as evenly spread as their numbers of items allow."""

    def __init__(self, counts: Sequence[int]):
        self.counts = list(counts)
        self.owner = spread(self.counts)  # of each place
        self._step = np.zeros(len(self.owner), np.int64)
        self._places = [np.flatnonzero(self.owner == i) for i in range(len(self.counts))]
        for places in self._places:
            self._step[places] = np.arange(len(places))

    def __len__(self) -> int:
        return len(self.owner)

    def place(self, index: int) -> tuple[int, int]:
        """Data set at a place, and how many items of it came before."""
        return int(self.owner[index]), int(self._step[index])

    def at(self, i_part: int, step: int) -> int:
        """The place that `place` maps to this."""
        return int(self._places[i_part][step])


@lru_cache(maxsize=32)
def _order(seed: int, i_part: int, walk: int, size: int) -> NDArray[Any]:
    """Indices of a data set in the order of one walk."""
    return np.random.default_rng([seed, i_part, walk, _WALK]).permutation(size)


@lru_cache(maxsize=32)
def _windows(dataset: DepthDataset, seed: int, i_part: int, walk: int) -> Windows:
    """The order of one walk through a data set that is read block by block."""
    return Windows(np.asarray(dataset.blocks), dataset.window or 1, [seed, i_part, walk, _WALK])


def item_counts(weights: Sequence[float], length: int) -> list[int]:
    """Divide `length` items by weight, the rest to the largest remainders. UserError when a data set gets none."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * length
    counts = np.floor(exact).astype(np.int64)
    for i in np.argsort(counts - exact, kind="stable")[: length - counts.sum()]:
        counts[i] += 1
    if not counts.all():
        raise UserError(f"dataset.length {length} leaves {counts.tolist()} items for weights {list(weights)}. Raise it")
    return [int(count) for count in counts]


def _checked(dataset: DepthDataset) -> list[str]:
    return dataset.check() + dataset.label_problems()


def _settings(datasets: Mapping[str, Any], mode: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield name, weight and arguments (`type` among them) of each data set in a mode."""
    for name, settings in datasets.items():
        if settings is not None:
            kwargs = {key: value for key, value in settings.items() if key not in MODES}
            kwargs |= settings.get(mode) or {}
            yield name, kwargs.pop("weight", 1.0), {"type": name, **kwargs}


def _build_part(
    name: str, weight: float, kwargs: dict[str, Any], shared: Mapping[str, Any], supp_idxs: Sequence[int]
) -> Part:
    """Build a data set, which may replace the `supp_idxs` of the mixture by as many. Raises UserError naming it."""
    kind, place = kwargs.pop("type"), f"dataset.datasets.{name}"
    if not supp_idxs:
        kwargs["supp_idxs"] = None
    try:
        dataset = DATASETS.create(kind, **{"supp_idxs": list(supp_idxs), **shared, **kwargs})
    except UserError as error:  # name its own keys where they stand
        own = DATASETS.parameters(kind).keys() - ((COMMON | {"supp_idxs"}) - kwargs.keys())
        own_key = re.compile(rf"\bdataset\.((?:(?:{'|'.join(MODES)})\.)?(?:{'|'.join(map(re.escape, own))}))\b")
        text = own_key.sub(lambda match: f"{place}.{match[1]}", str(error))
        raise UserError(text if text.startswith(f"{place}.") else f"{place}: {text}") from error
    zeros = [[i for i, o in enumerate(offsets) if o == 0] for offsets in (supp_idxs, dataset.supp_idxs)]
    if len(dataset.supp_idxs) != len(supp_idxs) or zeros[0] != zeros[1]:
        raise UserError(
            f"{place}.supp_idxs {list(dataset.supp_idxs)} do not match dataset.supp_idxs {list(supp_idxs)}: as many"
            " are needed, and 0 at the same place"
        )
    return Part(name, weight, dataset)


def _problems(datasets: Mapping[str, Any], own_sizes: bool) -> list[str]:
    """List what is wrong with the settings of the data sets, each line opening with "datasets"."""
    problems = []
    for name, settings in datasets.items():
        if not isinstance(settings, Mapping | None):
            problems.append(f"datasets: {name}: expected a mapping of keys, got {settings!r}")
        elif settings is not None and not all(isinstance(settings.get(m) or {}, Mapping) for m in MODES):
            problems.append(f"datasets: {name}: train, val and test must be mappings of keys")
    if problems:
        return problems
    for mode in MODES:
        for name, weight, kwargs in _settings(datasets, mode):
            problems += [f"datasets: {name}{text}" for text in _part_problems(weight, kwargs, own_sizes)]
    if not any(settings is not None for settings in datasets.values()):
        problems.append("datasets: none is named")
    return list(dict.fromkeys(problems))


def _part_problems(weight: Any, kwargs: Mapping[str, Any], own_sizes: bool) -> Iterator[str]:
    kind = kwargs["type"]
    if not (isinstance(kind, str) and kind in DATASETS) or kind == "mixed":
        known = [entry for entry in DATASETS.names() if entry != "mixed"]
        yield f".type: {kind!r} is not a dataset that can be mixed. {did_you_mean(str(kind), known)}"
        return
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        yield f".weight must be a positive number, got {weight!r}. To leave the data set out, set it to null (~)"
    parameters = DATASETS.parameters(kind)
    common = COMMON - {"size"} if own_sizes else COMMON
    known = [key for key in parameters if key not in common]
    for key, value in kwargs.items():
        if key in OWN_KEYS:
            continue
        if key in common:
            yield f".{key} is set for all data sets together: use dataset.{key}{OR_ALONE.get(key, '')}"
        elif key not in parameters:
            yield f".{key} is not an argument of dataset {kind!r}. {did_you_mean(key, [*known, *OWN_KEYS, *MODES])}"
        elif reason := _mismatch(parameters[key].annotation, value):
            yield f".{key}: {value!r} does not fit: {reason}"
    for key in known:
        if key not in kwargs and parameters[key].default is parameters[key].empty:
            yield f".{key}: missing"


def _mismatch(annotation: Any, value: Any) -> str:
    """Say why a value is not of a type, in the words of pydantic; "" when it is."""
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return "; ".join(dict.fromkeys(e["msg"] for e in error.errors()))
    return ""
