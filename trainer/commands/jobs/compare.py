"""Print how result files differ from the first, image by image."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trainer.config.plugins import load_plugins
from trainer.runtime.errors import UserError
from trainer.tables.paired import (
    Difference,
    Scored,
    Tested,
    compare_items,
    differences_of_protocol,
    labelled,
    read_scored,
    verdict,
)
from trainer.tables.significance import holm

SCOPE = (
    "about these trained networks alone: other seeds of the same training may differ, which `monodepth tables` tests"
)


def run(args: argparse.Namespace) -> int:
    """Read, check the protocols, compare, print. Raises UserError for protocols that differ, unless `--anyway`."""
    load_plugins(args.plugins)
    files = [read_scored(path) for path in args.files]
    first, others = files[0], files[1:]
    remarks = [_protocol_remarks(first, other, args.anyway) for other in others]
    labels = labelled(files)
    metrics: Sequence[str | None] = list(dict.fromkeys(args.metric)) if args.metric else [None]
    found = [[compare_items(first, other, key) for key in metrics] for other in others]
    ps = [holm([row[i].decisive.p for row in found]) for i in range(len(metrics))]
    reports: list[dict[str, Any]] = [
        {
            "second": str(other.path),
            "remarks": remarks[i_other],
            "metrics": [
                _facts(d, labels[0], labels[i_other + 1], ps[i_metric][i_other], args.num_items)
                for i_metric, d in enumerate(found[i_other])
            ],
        }
        for i_other, other in enumerate(others)
    ]
    leaked = {str(file.path): file.leak for file in files if file.leak}
    if args.json:
        facts = {"first": str(first.path), "comparisons": reports, "leaks": leaked, "scope": SCOPE}
        print(json.dumps(facts, ensure_ascii=False))
        return 0
    for path, words in leaked.items():
        print(f"warning: {path}: {words}: the numbers flatter it", file=sys.stderr)
    for report, other, label in zip(reports, others, labels[1:], strict=True):
        print(f"first:  {labels[0]} ({first.path})\nsecond: {label} ({other.path})")
        for line in report["remarks"]:
            print(f"warning: {line}", file=sys.stderr)
        for facts in report["metrics"]:
            print("\n".join(_lines(facts)))
        print()
    if len(others) > 1:
        print(f"p is corrected for {len(others)} comparisons (Holm)")
    print(SCOPE)
    return 0


def _protocol_remarks(first: Scored, other: Scored, anyway: bool) -> list[str]:
    """Remarks on what differs. Raises UserError for scores that are not comparable, unless `anyway`."""
    scoring, networks = differences_of_protocol(first, other)
    if scoring and not anyway:
        raise UserError(
            "\n".join(
                [
                    f"{first.path} and {other.path} were scored by different protocols:",
                    *(f"  {line}" for line in scoring),
                    "Evaluate both by the same, or add --anyway",
                ]
            )
        )
    return [*(f"the protocols differ: {line}" for line in scoring), *(f"the networks differ in {x}" for x in networks)]


def _facts(d: Difference, first: str, second: str, p: float, num_items: int) -> dict[str, Any]:
    gains = [(name, a, b) for name, a, b in d.extremes[:num_items] if (b - a) * d.column.direction > 0]
    losses = [(n, a, b) for n, a, b in d.extremes[::-1][:num_items] if (b - a) * d.column.direction < 0]
    return {
        "metric": d.key,
        "unit": d.column.unit,
        "better": {1: "higher", -1: "lower"}[d.column.direction],
        "first": d.first,
        "second": d.second,
        "difference": d.mean,
        "images_better": d.better,
        "images_worse": d.worse,
        "images": _tested(d.images),
        "scenes": d.scenes and _tested(d.scenes),
        "p": p,
        "verdict": verdict(d, first, second, p),
        "most_gained": [{"name": name, "first": a, "second": b} for name, a, b in gains],
        "most_lost": [{"name": name, "first": a, "second": b} for name, a, b in losses],
    }


def _tested(tested: Tested) -> dict[str, Any]:
    known = asdict(tested)
    low, high = known.pop("low"), known.pop("high")
    return {**known, "interval": None if math.isnan(low) else [low, high]}


def _lines(facts: dict[str, Any]) -> list[str]:
    unit = f" {facts['unit']}" if facts["unit"] not in ("", "fraction") else ""
    lines = [
        f"{facts['metric']} ({facts['better']} is better): {facts['first']:.4f} and {facts['second']:.4f}{unit},"
        f" difference {facts['difference']:+.4f}"
    ]
    lines += [f"  over {_sureness(units, facts[units])}" for units in ("images", "scenes") if facts[units]]
    if facts["scenes"] is None:
        lines.append("  no images are known to be of one scene (drive, clip), so they count as independent")
    total = facts["images"]["count"]
    lines.append(f"  second better in {facts['images_better']}, worse in {facts['images_worse']} of {total} images")
    for title, key in (("most gained", "most_gained"), ("most lost", "most_lost")):
        lines += [f"  {title}: {x['name']} ({x['first']:.4f} -> {x['second']:.4f})" for x in facts[key]]
    return [*lines, f"  {facts['verdict']}"]


def _sureness(units: str, tested: dict[str, Any]) -> str:
    interval = "too few for an interval"
    if tested["interval"] is not None:
        low, high = tested["interval"]
        interval = f"95 % interval of the difference {low:+.4f} to {high:+.4f}"
    return f"{tested['count']} {units}: {interval}, p = {tested['p']:.2g} (flipped signs)"
