"""Columns of a table: a metric, its unit, and which direction is better."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from trainer.metrics import METRICS, Metric, with_unit
from trainer.metrics.validation import VALIDATION

# Beginnings of names in result files of earlier code, which hold no units and no directions.
_LOWER = re.compile(r"AbsRel|SqRel|RMSE|LogRMSE|MAE|Inv|Log|Chamfer|Edge|Dir \([-+]\)")
_HIGHER = re.compile(r"\$\\delta|F-Score|IoU|DirAcc|Acc$")

EDGE_ENDINGS = ("_edges", "-Edges")  # of keys, ours and legacy
Names = Literal["key", "title", "shown"]
ARROWS = {1: "↑", -1: "↓", 0: ""}


@dataclass(frozen=True)
class Column:
    """One metric. The same key and version mean the same number in all metric sets."""

    key: str
    version: int | None = None  # of the metric set: a key may change its meaning
    unit: str = field(default="", compare=False)
    direction: int = field(default=0, compare=False)  # 1 higher is better, -1 lower, 0 neither

    @property
    def title(self) -> str:
        """Its name in papers, `δ < 1.25²` for d2, by its key or that of earlier code; else the key."""
        metric = registered().get(self.key) or VALIDATION.get(self.key)
        named = [metric] if metric else [m for m in registered().values() if m.legacy == self.key]
        return next((m.title for m in named if m.title), self.key)

    @property
    def shown(self) -> str:
        """Its name in papers with its unit, for a terminal."""
        return with_unit(self.title, self.unit)


def direction_of(key: str) -> int:
    """Say which direction is better: 1 higher, -1 lower, 0 for unknown names and those of no score, such as `Ratio`."""
    metric = registered().get(key)
    if metric is not None:
        return 1 if metric.higher_is_better else -1
    if _HIGHER.match(key):
        return 1
    return -1 if _LOWER.match(key) else 0


def column_of(key: str, metric_sets: Mapping[str, Any]) -> Column:
    """Describe a metric by the metric sets of its result file, or else by its name.

    A number on depth edges alone goes by its key without the ending: edges have a table of their own.
    """
    key = base_key(key)
    own = next((s for s in metric_sets.values() if key in (s.get("units") or {})), None)
    if own is not None:
        direction = 1 if key in (own.get("higher_is_better") or ()) else -1
        return Column(key, own.get("version"), str(own["units"][key]), direction)
    metric = registered().get(key)
    return Column(key, None, metric.unit if metric else "", direction_of(key))


def is_on_edges(key: str) -> bool:
    """True for numbers on depth edges alone."""
    return key.endswith(EDGE_ENDINGS)


def base_key(key: str) -> str:
    """The key without the ending of numbers on depth edges."""
    return next((key.removesuffix(ending) for ending in EDGE_ENDINGS if key.endswith(ending)), key)


def headings(columns: Iterable[Column], arrows: bool = True, names: Names = "key") -> dict[Column, str]:
    """Name each column by its `key`, as papers do (`title`), or with its unit, too (`shown`).

    Where two columns have the same key its version is added, where two keys have the same title the key.
    """
    columns = list(columns)
    texts: dict[Column, str] = {c: getattr(c, names) for c in columns}
    keys, used = [c.key for c in columns], Counter({c.key: text for c, text in texts.items()}.values())
    texts = {c: f"{text} ({c.key})" if used[text] > 1 else text for c, text in texts.items()}
    texts = {c: f"{text} v{c.version}" if keys.count(c.key) > 1 else text for c, text in texts.items()}
    return {c: f"{text} {ARROWS[c.direction]}".strip() if arrows else text for c, text in texts.items()}


@lru_cache(maxsize=1)
def registered() -> dict[str, Metric]:
    """All registered metrics by key."""
    return {m.key: m for name in METRICS.names() for m in getattr(METRICS.get(name), "metrics", ())}
