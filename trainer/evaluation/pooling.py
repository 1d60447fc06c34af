"""Means over all pixels of a data set, as some papers give them, beside the means over images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.metrics.protocol import EDGES, DepthProtocol, Scores

NOTABLE = 0.02  # relative difference from the mean over images
ADVICE = ". --pooled stores them"  # at the end of the remark, where they are not stored


def pooled(items: Sequence[Mapping[str, Any]], protocol: DepthProtocol) -> dict[str, Any]:
    """Return the means over all scored pixels of all items, for result files.

    `items` are rows of `DepthProtocol.score_image`. A number of an image is a mean over its pixels, or the root of one,
    so their sums follow from it exactly. `left_out` lists metrics that are no such means.
    """
    mean = pooled_means(items, protocol)
    return {
        "over": f"all scored pixels of {len(items)} items; each item is aligned by itself",
        "pixels": sum(item["pixels"] for item in items),
        "mean": mean,
        "left_out": [key for key in protocol.mean(items) if key not in mean],
    }


def pooled_means(items: Sequence[Mapping[str, Any]], protocol: DepthProtocol) -> Scores:
    """Return the mean over all pixels of each metric that has one, those of depth edges over the pixels on these."""
    rules = {m.key: m.pooled for s in protocol.sets.values() for m in s.metrics if m.pooled}
    means: Scores = {}
    for ending in ("", EDGES):
        for key, rule in rules.items():
            rows = [(item["pixels" + ending], item[key + ending]) for item in items if key + ending in item]
            if rows:
                power = 2 if rule == "rms" else 1
                total = math.fsum(count * value**power for count, value in rows)
                means[key + ending] = (total / sum(count for count, _ in rows)) ** (1 / power)
    return means


def pooling_remarks(items: Sequence[Mapping[str, Any]], protocol: DepthProtocol) -> list[str]:
    """Say by how much means over all pixels differ from those over images, where it is more than 2 %.

    Roots do nearly always, as the root of a mean is above the mean of roots, so they are not mentioned.
    """
    mean = protocol.mean(items)
    roots = {m.key for s in protocol.sets.values() for m in s.metrics if m.pooled == "rms"}
    changes = {
        key: value / mean[key] - 1
        for key, value in pooled_means(items, protocol).items()
        if mean[key] and key.removesuffix(EDGES) not in roots
    }
    notable = [f"{key} {100 * change:+.1f} %" for key, change in changes.items() if abs(change) > NOTABLE]
    if not notable:
        return []
    return [
        "means over all pixels, as some papers give them, differ from these means over images:"
        f" {', '.join(notable)}{ADVICE}"
    ]


def without_advice(remarks: Sequence[str]) -> list[str]:
    """Leave out the advice to store what is stored."""
    return [remark.removesuffix(ADVICE) for remark in remarks]
