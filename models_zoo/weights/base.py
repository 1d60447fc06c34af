"""What importers of published weights share: checking tensors, refusing everything unclear."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

LISTED = 40  # names that a message lists


class UnreadableWeights(ValueError):
    """Weights that cannot be imported; the message names the file, the reason and, if known, the remedy."""


class MissingSettings(UnreadableWeights):
    """Weights without the options of their networks; corrections with a section `net` would help."""


@dataclass
class ForeignWeights:
    """Published weights under the names of this zoo, not yet compared with the networks they are meant for."""

    source: Path
    format: str  # in words, with the paper
    tensors: dict[str, Tensor]  # `<network>.<parameter>`
    net: dict[str, dict[str, Any]]  # constructor keywords by network, as the YAML section
    parts: tuple[str, ...] = ()  # modules in the file ("depth.encoder"); empty = whole networks
    settings: dict[str, Any] = field(default_factory=dict)  # other sections, as the source wrote them
    dropped: dict[str, list[str]] = field(default_factory=dict)  # why -> names in the source
    notes: list[str] = field(default_factory=list)  # remarks for the user
    epoch: int = 0  # finished epochs
    step: int = 0  # optimizer steps


class Format(ABC):
    """One way in which others store weights."""

    source: ClassVar[str]  # papers of the weights
    looked_for: ClassVar[str]  # how the format is recognised, for messages

    @abstractmethod
    def recognises(self, path: Path, content: Any) -> bool:
        """Tell whether `path` is of this format. content: the unpickled file, None for a folder."""

    @abstractmethod
    def read(self, path: Path, content: Any, corrections: Mapping[str, Any]) -> ForeignWeights:
        """Translate names and settings. corrections: sections that win over those of the source.

        Raises UnreadableWeights when tensors are left over or missing, or belong to a network that this zoo lacks.
        """


def in_float32(tensors: dict[str, Tensor], path: Path) -> list[str]:
    """Convert floating-point weights to float32; return a note if any had another type.

    Raises UnreadableWeights when a weight is NaN or infinite.
    """
    others = [name for name, t in tensors.items() if t.is_floating_point() and t.dtype != torch.float32]
    tensors |= {name: tensors[name].float() for name in others}
    broken = [name for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())]
    if broken:
        raise UnreadableWeights(f"{path}: {len(broken)} weights are NaN or infinite: {listed(broken)}")
    return [f"{len(others)} weights were stored in other formats and are float32 now"] if others else []


def tensors_of(state: Mapping[Any, Any], path: Path, place: str = "") -> dict[str, Tensor]:
    """Copy a state dict. Raises UnreadableWeights unless every entry is a dense tensor with a name."""
    odd = [
        f"{place}{name} ({type(value).__name__})"
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, Tensor) and value.layout is torch.strided)
    ]
    if odd:
        raise UnreadableWeights(f"{path}: these entries are not weights: {listed(odd)}")
    return dict(state)


def complete_batchnorm(tensors: dict[str, Tensor]) -> list[str]:
    """Add the batch counters that old files lack as zeros; return a note if any were missing."""
    counters = (n.replace(".running_mean", ".num_batches_tracked") for n in tensors if ".running_mean" in n)
    missing = [name for name in counters if name not in tensors]
    tensors |= {name: torch.tensor(0) for name in missing}
    return [f"{len(missing)} counters num_batches_tracked are missing and start at 0"] if missing else []


def without_classifier(tensors: dict[str, Tensor], prefix: str, dropped: dict[str, list[str]]) -> dict[str, Tensor]:
    """Return the tensors below `prefix`, without the prefix and without the classification layer `fc`."""
    own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    if head := [name for name in own if name.startswith("fc.")]:
        dropped.setdefault("the classifier of ImageNet", []).extend(prefix + name for name in head)
    return {name: tensor for name, tensor in own.items() if name not in head}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings, mapping by mapping; null and lists replace."""
    both = dict(base)
    for key, value in over.items():
        old = both.get(key)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        both[key] = merged(old, value) if nested else value  # type: ignore[arg-type]
    return both


def listed(items: Sequence[object], limit: int = LISTED) -> str:
    """Name the first items and count the others: "a, b, c and 4 more"."""
    return ", ".join(map(str, items[:limit])) + (f" and {len(items) - limit} more" if len(items) > limit else "")
