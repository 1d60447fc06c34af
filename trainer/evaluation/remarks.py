"""Sentences about what is unusual in predictions and does not show in a mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.evaluation.pooling import pooling_remarks
from trainer.metrics.align import FALLBACKS
from trainer.metrics.protocol import EDGES, DepthProtocol
from trainer.runtime.errors import listed

NAMED = 3  # items that a remark names
FAR_OFF = 2.0  # between the factor of a protocol and that of the truth

Row = dict[str, Any]


def remarks(items: Sequence[Row], protocol: DepthProtocol, sizes: set[tuple[int, int]]) -> list[str]:
    """List what a reader of the mean should know.

    `items` are rows of `DepthProtocol.score_image`, each with its `name`; `sizes` height and width of the truths.
    """
    name, lines = protocol.names["alignment"], _scale(items, protocol) + _crop(protocol, sizes)
    lines += _lacking(items, protocol)
    for ending, where in (("", ""), (EDGES, " on depth edges")):
        lines += [line + where for line in _pixels(items, protocol, ending) + _fits(items, protocol, ending)]
    lines += pooling_remarks(items, protocol)
    return [f"{name}: {line}" for line in lines]


def _pixels(items: Sequence[Row], protocol: DepthProtocol, ending: str) -> list[str]:
    """Pixels that are not scored as predicted."""
    alignment, least = protocol.alignment, f"min_depth, {protocol.min_depth:g} m"
    fitted = f"{alignment.of_shift} 0, which takes part in the fit" if alignment.has_shift else least
    meanings = {
        "unpredicted": f"hold no prediction (0 or less) and count as {fitted}",
        "infinite": "hold an infinite depth and count as farthest" + ", also in the fit" * alignment.has_shift,
        "nonpositive": f"have an aligned {alignment.of_shift} <= 0 and count as {least}",
    }
    lines = []
    for key, meaning in meanings.items():
        hit = [item for item in items if item.get(key + ending)]
        if hit:
            count, scored = (sum(i.get(k + ending, 0) for i in items) for k in (key, "pixels"))
            share = f"{count} of {scored} scored pixels ({100 * count / scored:.3g} %)"
            lines.append(f"{share}, in {len(hit)} of {len(items)} items, {meaning}")
    return lines


def _fits(items: Sequence[Row], protocol: DepthProtocol, ending: str) -> list[str]:
    """Items whose least squares are degenerate or reverse near and far."""
    if not protocol.alignment.has_shift:
        return []
    fitted = [item for item in items if "factor" + ending in item]
    flat = [item for item in fitted if item["factor" + ending] == 0 and not protocol.alignment.has_fallback]
    turned = [item for item in fitted if item["factor" + ending] < 0]
    lines = []
    for kind, reason in FALLBACKS.items():
        if hit := [item for item in fitted if item.get("fallback" + ending) == kind]:
            lines.append(f"the prediction of {_named(hit, fitted)} {reason}")
    if flat:
        becomes = f"its best constant, {protocol.alignment.constant}"
        lines.append(f"the prediction of {_named(flat, fitted)} is constant and counts as {becomes}")
    if turned:
        lines.append(
            f"the factor of {_named(turned, fitted)} is negative: near and far are turned around before they are scored"
        )
    return lines


def _scale(items: Sequence[Row], protocol: DepthProtocol) -> list[str]:
    """A fixed factor that is far from the ratio of truth and prediction."""
    rule = protocol.alignment.rule
    ratios = [item["truth_over_prediction"] for item in items if item.get("truth_over_prediction")]
    if not ratios or isinstance(rule, str):
        return []
    found = float(np.median(ratios))
    if 1 / FAR_OFF <= found / rule <= FAR_OFF:
        return []
    return [
        f"the truth is {found:.3g} times the prediction (ratio of medians, in the middle of {len(ratios)} items), where"
        f" this alignment takes {rule:g}. Is the unit of the prediction another, or --alignment median meant?"
    ]


def _lacking(items: Sequence[Row], protocol: DepthProtocol) -> list[str]:
    """Metrics that some items have nothing to score by."""
    without = {key: [item for item in items if key not in item] for key in protocol.keys}
    return [f"{key} leaves out {_named(some, items)}, which have none" for key, some in without.items() if some]


def _crop(protocol: DepthProtocol, sizes: set[tuple[int, int]]) -> list[str]:
    made_for, window = protocol.crop.made_for, protocol.crop.window
    if window and (small := sorted(size for size in sizes if size[0] < window[0] or size[1] < window[1])):
        found = listed([f"{width}x{height}" for height, width in small])
        name, cut = protocol.names["crop"], f"{window[1]}x{window[0]}"
        return [
            f"the crop {name} is of a window of {cut}, and truths of {found} are smaller: it was taken of what is there"
        ]
    others = sorted(sizes - {made_for})
    if made_for is None or not others:
        return []
    h, w = made_for
    found = listed([f"{width}x{height}" for height, width in others])
    return [f"the crop {protocol.names['crop']} is of {w}x{h}, and was scaled to {found}"]


def _named(some: Sequence[Row], everything: Sequence[Row]) -> str:
    names = ", ".join(str(item["name"]) for item in some[:NAMED])
    more = ", ..." if len(some) > NAMED else ""
    return f"{len(some)} of {len(everything)} items ({names}{more})"
