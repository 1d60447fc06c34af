"""Numbers by category of the scene, as items of SYNS-Patches tell it: a table per metric, a column per category."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trainer.tables.columns import Column, column_of, is_on_edges
from trainer.tables.results import Result, read_file
from trainer.types import UserError

KEYS = {"category": "cat", "subcategory": "subcat"}  # of the items; earlier code began them with capitals
_LEGACY = {"cat": "Cat", "subcat": "SubCat"}
UNKNOWN = "(none)"
Image = dict[tuple[Column, bool], float]  # (metric, on depth edges alone) -> value


def by_category(results: Sequence[Result], kind: str, metrics: Sequence[str] | None = None) -> list[Result]:
    """Average the items of each category apart.

    Args:
        kind: "category" or "subcategory".
        metrics: keys; None = the first of each result that has a direction.

    Returns a result per file and metric whose columns are the categories and whose protocol says which metric and how
    many images each category has, so that tables of them are made as all others are. Files without categories give
    none. Raises UserError when no file has any.
    """
    files = {path: _items(path, KEYS[kind]) for path in dict.fromkeys(r.path for r in results)}
    told = [part for r in results for part in _split(r, files[r.path], kind, metrics)]
    if not told:
        raise UserError(
            f"--by {kind}: no result tells the {kind} of its images, as those of SYNS-Patches do, with these metrics"
        )
    return told


def _split(
    result: Result, rows: Mapping[str, list[Image]], kind: str, metrics: Sequence[str] | None
) -> Iterable[Result]:
    scored = [c for c in result.values if c.direction]
    chosen = scored[:1] if metrics is None else [c for c in result.values if c.key in metrics]
    edges = "pixels" in result.protocol
    for metric in chosen:
        column = (metric, edges)
        values = {
            name: [row[column] for row in group if math.isfinite(row.get(column, math.nan))]
            for name, group in sorted(rows.items())
        }
        known = {name: numbers for name, numbers in values.items() if numbers}
        if known:
            images = ", ".join(f"{name} {len(numbers)}" for name, numbers in known.items())
            protocol = {**result.protocol, "metric": metric.key, "by": kind, "images": images}
            means = {
                Column(name, metric.version, metric.unit, metric.direction): statistics.fmean(numbers)
                for name, numbers in known.items()
            }
            yield Result(result.folder, result.seed, result.path, protocol, means)


def _items(path: Path, key: str) -> dict[str, list[Image]]:
    """The numbers of the images of each category; empty without categories."""
    data = read_file(path)
    rows = data if isinstance(data, list) else data.get("items")
    told = data["protocol"].get("metrics") or {} if isinstance(data, Mapping) and "protocol" in data else {}
    groups: dict[str, list[Image]] = {}
    for row in rows if isinstance(rows, list) else ():
        name = row.get(key, row.get(_LEGACY[key])) if isinstance(row, Mapping) else None
        if name is not None:
            groups.setdefault(str(name) or UNKNOWN, []).append(
                {
                    (column_of(str(k), told), is_on_edges(str(k))): float(v)
                    for k, v in row.items()
                    if isinstance(v, (int, float))
                }
            )
    return groups
