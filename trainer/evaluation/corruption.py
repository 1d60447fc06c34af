"""Depth on corrupted pictures: a pass over the data for the clean ones, and one for each kind and level.

Kong et al., *RoboDepth*, arXiv:2310.15171. Pictures are corrupted at the size of the network, in bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models_zoo.registry import did_you_mean
from trainer.data.augment import to_planes
from trainer.data.corruptions.frost_pictures import read_frost
from trainer.data.corruptions.kinds import KINDS, LEVELS, VERSION, corrupt
from trainer.evaluation.depth import evaluate_side_by_side
from trainer.evaluation.items import Items, dataset_class, names_of
from trainer.evaluation.passes import Scores
from trainer.evaluation.predictions import PLAIN, Execution, PredictDepth, evenly_spaced
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import UserError

ALL, CLEAN = "all", "clean"
METRICS = ("eigen",)  # has AbsRel and δ1
OWN_FROST = "own texture, not comparable"
SAMPLES = 3  # items whose content tells data sets of the same names apart


@dataclass(frozen=True)
class CorruptedItems:
    """Items whose `target` (3 h w) is corrupted."""

    items: Items
    corrupt: Callable[..., NDArray[np.uint8]]  # picture (h w 3), index=: that of the item -> the like

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = self.items[index]
        picture = (item["target"] * 255).round().byte().permute(1, 2, 0).numpy()
        return {**item, "target": torch.from_numpy(to_planes([self.corrupt(picture, index=index)])[0])}

    def describe(self, index: int) -> str:
        return self.items.describe(index)

    def scene_of(self, index: int) -> str | None:
        return self.items.scene_of(index)


@dataclass(frozen=True)
class Corruptions:
    """Kinds and levels to score, and how they are drawn."""

    kinds: tuple[str, ...] = KINDS
    levels: tuple[int, ...] = LEVELS
    seed: int = 0
    frost_pictures: Sequence[NDArray[np.uint8]] = ()  # none = a texture of our own

    @classmethod
    def chosen(
        cls, names: Sequence[str], levels: Sequence[int] | None, seed: int | None, frost: Path | None
    ) -> Corruptions:
        """Read what is asked for: `names` of kinds or "all", the folder of pictures of `frost`; None = the default.

        Raises UserError for an unknown kind, pictures without the kind that needs them, and pictures that are missing.
        """
        for name in names:
            if name not in (ALL, *KINDS):
                raise UserError(f"--corrupt {name}: is not a kind of corruption. {did_you_mean(name, (ALL, *KINDS))}")
        kinds = tuple(kind for kind in KINDS if kind in names or ALL in names)
        if frost is not None and "frost" not in kinds:
            raise UserError("--frost-pictures: no frost is asked for. Leave it out, or add frost to --corrupt")
        pictures = () if frost is None else read_frost(frost)
        return cls(kinds, tuple(sorted(set(levels or LEVELS))), seed or 0, pictures)

    @property
    def words(self) -> str:
        """Kinds and levels, for protocols: "18 kinds x 5 levels", "fog, snow x levels 1, 3"."""
        kinds = f"{len(KINDS)} kinds" if self.kinds == KINDS else ", ".join(self.kinds)
        if self.levels == LEVELS:
            return f"{kinds} x {len(LEVELS)} levels"
        return f"{kinds} x level{'s' * (len(self.levels) > 1)} {', '.join(map(str, self.levels))}"

    @property
    def ending(self) -> str:
        """What the name of a result file ends in."""
        kinds = () if self.kinds == KINDS else self.kinds if len(self.kinds) < 4 else (f"{len(self.kinds)}kinds",)
        levels = () if self.levels == LEVELS else (f"level{''.join(map(str, self.levels))}",)
        return "_".join(("corrupt", *kinds, *levels))

    @property
    def frost(self) -> str:
        """Where frost comes from."""
        return f"pictures, sha256 {self._frost_digest}" if self.frost_pictures else OWN_FROST

    def passes(self) -> Iterator[tuple[str, str | None, int]]:
        """Yield the name, the kind and the level of every pass; the clean pictures, of no kind, come first."""
        yield CLEAN, None, 0
        for kind in self.kinds:
            for level in self.levels:
                yield self.name_of(kind, level), kind, level

    def name_of(self, kind: str, level: int) -> str:
        """Name a pass: frost of other pictures is another pass."""
        ending = f" {self._frost_digest}" if kind == "frost" and self.frost_pictures else ""
        return f"{kind} {level}{ending}"

    def applied(self, items: Items, kind: str | None, level: int) -> Items:
        """Return the items with corrupted pictures, or as they are for no kind."""
        if kind is None:
            return items
        change = partial(corrupt, kind=kind, level=level, seed=self.seed, frost_pictures=self.frost_pictures)
        return CorruptedItems(items, change)

    @property
    def _frost_digest(self) -> str:
        return _digest(*(picture.tobytes() for picture in self.frost_pictures))


def score_passes(
    predict: PredictDepth,
    items: Items,
    protocol: DepthProtocol,
    corruptions: Corruptions,
    done: Mapping[str, Scores],
    keep: Callable[[str, Scores], None],
    how: Execution = PLAIN,
    *,
    limit: int | None = None,
) -> None:
    """Score the passes that are not `done`, in order; the first of the processes gives each to `keep` when it ends.

    `limit` is that of `evaluate_side_by_side`. The scores of a pass are `abs_rel` and `d1`, means over the items,
    and the numbers of `items` that were scored and `skipped`.
    """
    for name, kind, level in corruptions.passes():
        if name in done:
            continue
        changed = corruptions.applied(items, kind, level)
        (result,) = evaluate_side_by_side(predict, changed, [protocol], how, limit=limit)
        counts = {"items": len(result.items), "skipped": len(result.skipped)}
        if how.processes.is_first:
            keep(name, {"abs_rel": result.mean["abs_rel"], "d1": result.mean["d1"], **counts})


def identity_of(
    items: Items,
    arguments: Mapping[str, Any],
    protocol: DepthProtocol,
    corruptions: Corruptions,
    limit: int | None,
    settings: Mapping[str, str],
) -> dict[str, Any]:
    """Return what the scores of a pass depend on, as plain data.

    Where the files of a data set are may change; names of items and the content of a few may not. `arguments` are those
    of the data set, `settings` digests of the network.
    """
    places = dataset_class(arguments["type"]).path_arguments
    content = [items[index] for index in evenly_spaced(SAMPLES, len(items))]
    return {
        **settings,
        "protocol": protocol.describe(),
        "data set": {key: value for key, value in arguments.items() if key not in places},
        "names of items": _digest(*(name.encode() for name in names_of(items) or ())),
        "content of items": _digest(*(item[key].numpy().tobytes() for item in content for key in ("target", "depth"))),
        "limit": limit,
        "corruption seed": corruptions.seed,
        "version of the corruptions": VERSION,
    }


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]
