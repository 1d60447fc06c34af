"""Numbers by category of the scene, as in results of SYNS-Patches: a table per metric, a column per category."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.runtime.errors import UserError
from trainer.tables.columns import EDGE_ENDINGS, Column
from trainer.tables.results import Result, read_file

KEYS = {"category": ("cat", "Cat"), "subcategory": ("subcat", "SubCat")}  # ours and those of earlier code
UNKNOWN = "(none)"


def by_category(results: Sequence[Result], kind: str, metrics: Sequence[str] | None = None) -> list[Result]:
    """Average the items of each category: `kind` is "category" or "subcategory".

    `metrics` are keys; None = the first of each result that has a direction.

    Returns a result per file and metric, for tables as of any others: its columns are the categories, its protocol has
    the metric and the number of images in each category. Files without categories give none. Raises UserError when no
    file has any.
    """
    groups = {path: _groups(path, kind) for path in {r.path for r in results}}
    parts = [part for r in results for part in _split(r, groups[r.path], kind, metrics)]
    if not parts:
        raise UserError(
            f"--by {kind}: no result has the {kind} of its images, as those of SYNS-Patches have, with these metrics"
        )
    return parts


def _split(
    result: Result, groups: Mapping[str, list[Mapping[str, Any]]], kind: str, metrics: Sequence[str] | None
) -> Iterable[Result]:
    scored = [c for c in result.values if c.direction]
    chosen = scored[:1] if metrics is None else [c for c in result.values if c.key in metrics]
    endings = EDGE_ENDINGS if "pixels" in result.protocol else ("",)
    for metric in chosen:
        keys = [metric.key + ending for ending in endings]
        numbers = {
            name: [row[k] for row in rows for k in keys if math.isfinite(row.get(k, math.nan))]
            for name, rows in sorted(groups.items())
        }
        known = {name: values for name, values in numbers.items() if values}
        if known:
            images = ", ".join(f"{name} {len(values)}" for name, values in known.items())
            protocol = {**result.protocol, "metric": metric.key, "by": kind, "images": images}
            means = {
                Column(name, metric.version, metric.unit, metric.direction): statistics.fmean(values)
                for name, values in known.items()
            }
            yield replace(result, protocol=protocol, values=means)


def _groups(path: Path, kind: str) -> dict[str, list[Mapping[str, Any]]]:
    data = read_file(path)
    rows = data if isinstance(data, list) else data.get("items") or ()
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        name = next((row[key] for key in KEYS[kind] if key in row), None)
        if name is not None:
            groups.setdefault(str(name) or UNKNOWN, []).append(row)
    return groups
