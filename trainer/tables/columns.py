"""Columns of a table: which metric, in which unit, and which direction is better."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from trainer.metrics import METRICS, Metric

# Spellings of result files of earlier code, by their beginning: it kept no units and no directions.
_LOWER = re.compile(r"AbsRel|SqRel|RMSE|LogRMSE|MAE|Inv|Log|Chamfer|Edge|Dir \([-+]\)")
_HIGHER = re.compile(r"\$\\delta|F-Score|IoU|DirAcc|Acc$")

EDGE_ENDINGS = ("_edges", "-Edges")  # of keys, ours and legacy
ARROWS = {1: "↑", -1: "↓", 0: ""}


@dataclass(frozen=True)
class Column:
    """One metric. Metric sets that share a key mean one number by it: same key and version, same column."""

    key: str
    version: int | None = None  # of the metric set: a key may change its meaning
    unit: str = field(default="", compare=False)
    direction: int = field(default=0, compare=False)  # 1 higher is better, -1 lower, 0 neither


def direction_of(key: str) -> int:
    """Say which direction is better by the name alone: that of a registered metric, else the legacy spelling.

    Returns 1 (higher), -1 (lower) or 0 for names that are no score, such as `Ratio`, and unknown ones.
    """
    metric = _registered().get(key)
    if metric is not None:
        return 1 if metric.higher_is_better else -1
    if _HIGHER.match(key):
        return 1
    return -1 if _LOWER.match(key) else 0


def column_of(key: str, told: Mapping[str, Any]) -> Column:
    """Describe a metric by what its result file says about metric sets (`told`), or else by its name.

    A number on depth edges alone goes by its key without the ending: edges have a table of their own.
    """
    key = base_key(key)
    about = next((s for s in told.values() if key in (s.get("units") or {})), None)
    if about is not None:
        direction = 1 if key in (about.get("higher_is_better") or ()) else -1
        return Column(key, about.get("version"), str(about["units"][key]), direction)
    metric = _registered().get(key)
    return Column(key, None, metric.unit if metric else "", direction_of(key))


def is_on_edges(key: str) -> bool:
    """True for numbers on depth edges alone."""
    return key.endswith(EDGE_ENDINGS)


def base_key(key: str) -> str:
    """The key without the ending that says that only depth edges count."""
    return next((key.removesuffix(ending) for ending in EDGE_ENDINGS if key.endswith(ending)), key)


def headings(columns: Iterable[Column], arrows: bool = True) -> dict[Column, str]:
    """Name each column: its key, with the version where columns would be mistaken for each other."""
    columns = list(columns)
    keys = [column.key for column in columns]
    texts = {c: f"{c.key} v{c.version}" if keys.count(c.key) > 1 else c.key for c in columns}
    return {c: f"{text} {ARROWS[c.direction]}".strip() if arrows else text for c, text in texts.items()}


@lru_cache(maxsize=1)
def _registered() -> dict[str, Metric]:
    """All metrics of the registry by key."""
    return {m.key: m for name in METRICS.names() for m in getattr(METRICS.get(name), "metrics", ())}
