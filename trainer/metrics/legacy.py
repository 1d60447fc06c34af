"""Rename results to the keys of the result files of the KITTI benchmark (arXiv:2208.01489)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.metrics.protocol import EDGES, DepthProtocol

LEGACY_EDGES = "-Edges"


def legacy_rows(items: Sequence[Mapping[str, Any]], protocol: DepthProtocol) -> dict[str, float] | list[dict[str, Any]]:
    """Rename the items of a result and average them.

    Returns means by name in the order of the metric sets, after `Ratio` (or `Scale`, `Shift`); if an item has a
    category (`cat`), the list of items instead, as for SYNS-Patches. When two sets share a name (AbsRel of `eigen` and
    of `benchmark`), the later set's number takes the place of the earlier.
    """
    rows = [legacy_row(item, protocol) for item in items]
    if any("Cat" in row for row in rows):
        return rows
    keys = dict.fromkeys(key for row in rows for key in row)  # an item may lack those of depth edges
    return {key: float(np.mean([row[key] for row in rows if key in row])) for key in keys}


def legacy_row(item: Mapping[str, Any], protocol: DepthProtocol) -> dict[str, Any]:
    """Rename the numbers of one item."""
    names = {"factor": "Scale", "shift": "Shift"} if protocol.alignment.has_shift else {"factor": "Ratio"}
    row: dict[str, Any] = {new: item[key] for key, new in names.items()}
    categories = {new: item[key] for key, new in (("cat", "Cat"), ("subcat", "SubCat")) if key in item}
    row |= categories
    metrics = [metric for s in protocol.sets.values() for metric in s.metrics]
    row |= {m.legacy or m.key: item[m.key] for m in metrics if m.key in protocol.keys}
    edges = {new + LEGACY_EDGES: item[key + EDGES] for key, new in names.items() if key + EDGES in item}
    if edges:  # the reference scores edges in a pass of its own, which repeats all of the item
        edges |= {name + LEGACY_EDGES: category for name, category in categories.items()}
    for metric in metrics:
        key = metric.key + EDGES if metric.key in protocol.keys else metric.key
        if key in item:
            edges[(metric.legacy or metric.key) + LEGACY_EDGES] = item[key]
    return row | edges
