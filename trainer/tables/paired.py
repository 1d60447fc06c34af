"""Two result files, image by image: which of two networks is better on the same images, and how sure that is.

This is about two trained networks. Whether one method is better than another is a question to their seeds, which
`significance` answers.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models_zoo.registry import did_you_mean
from trainer.metrics.protocol import HEADLINES
from trainer.metrics.resampling import LEAST, bootstrap, scene_numbers, sign_flips
from trainer.runtime.errors import UserError, first_lines
from trainer.tables.columns import Column, column_of, is_on_edges
from trainer.tables.results import kind_of, read_file, read_result

ALPHA = 0.05
# Fields of a protocol that are about the network, not about how it is scored.
OF_THE_NETWORK = {"checkpoint": "checkpoint", "size": "input size", "origin": "origin"}

Key = tuple[str, int]  # name of an item, and how many of the same name come before it


@dataclass(frozen=True)
class Scored:
    """A result file with its items."""

    path: Path
    label: str  # <name>/<version>, the file where that says nothing
    protocol: Mapping[str, str]
    columns: Mapping[str, Column]  # by key in items
    items: Mapping[Key, Mapping[str, Any]]
    leak: str = ""  # as in `Result`


@dataclass(frozen=True)
class Tested:
    """The mean difference over units, and how sure it is."""

    count: int
    low: float  # interval of the mean difference; NaN with too few units
    high: float
    p: float  # of no difference, by flipped signs


@dataclass(frozen=True)
class Difference:
    """One metric of two networks on the images that both have."""

    key: str
    column: Column
    first: float  # means over these images
    second: float
    better: int  # images where the second is better, and worse
    worse: int
    images: Tested
    scenes: Tested | None  # None where nothing is known of scenes
    extremes: Sequence[tuple[str, float, float]]  # name, first, second: from the greatest gain to the greatest loss

    @property
    def mean(self) -> float:
        """Second minus first."""
        return self.second - self.first

    @property
    def decisive(self) -> Tested:
        """The test to believe: over scenes where there are enough of them."""
        return self.scenes if self.scenes is not None and self.scenes.count >= LEAST else self.images


def read_scored(path: Path) -> Scored:
    """Read a result of `monodepth evaluate`, or the only one in a folder.

    Raises UserError for other files, and naming the results in a folder of none or several.
    """
    if os.path.isdir(path):
        inside = [
            str(p) for p in sorted([*path.glob("results/*.yaml"), *path.glob("*.yaml")]) if p.name != "hparams.yaml"
        ]
        if len(inside) == 1:
            return read_scored(Path(inside[0]))
        if not inside and (below := sorted(map(str, path.glob("*/results/*.yaml")))):
            raise UserError(
                "\n".join([f"{path}: is a folder of versions, which hold", *first_lines(below)])
                + "\nName result files of them; `monodepth tables` compares models over seeds"
            )
        held = "\n".join([", which holds", *first_lines(inside)]) if inside else " without result files"
        raise UserError(f"{path}: is a folder{held}\nName result files of `monodepth evaluate`")
    result = read_result(path)[0]
    data = read_file(path)
    rows = data.get("items") if isinstance(data, Mapping) else None
    if not rows or not all(isinstance(row, Mapping) and isinstance(row.get("name"), str) for row in rows):
        known = kind_of(data) or "holds no numbers of single images by name"
        raise UserError(f"{path}: {known}. Images are compared: evaluate again, or name another file")
    sets, seen = data["protocol"].get("metrics") or {}, Counter[str]()
    items: dict[Key, Mapping[str, Any]] = {}
    for row in rows:
        items[row["name"], seen[row["name"]]] = row
        seen[row["name"]] += 1
    columns = {key: column_of(key, sets) for key in data["mean"]}
    run = (data["protocol"].get("checkpoint") or {}).get("run") or {}
    label = "/".join(str(run[key]) for key in ("name", "version") if run.get(key)) or path.stem
    return Scored(path, label, result.protocol, columns, items, result.leak)


def labelled(files: Sequence[Scored]) -> list[str]:
    """Name the networks; files where two have one name."""
    labels = [file.label for file in files]
    return [str(f.path) if labels.count(f.label) > 1 else f.label for f in files]


def differences_of_protocol(first: Scored, second: Scored) -> tuple[list[str], list[str]]:
    """List what differs in how two networks were scored, and what differs in the networks themselves."""
    scoring, networks = [], []
    for key in dict.fromkeys([*first.protocol, *second.protocol]):
        a, b = (file.protocol.get(key, "none") for file in (first, second))
        if a != b and key in OF_THE_NETWORK:
            networks.append(f"{OF_THE_NETWORK[key]} {a} and {b}")
        elif a != b:
            scoring.append(f"{key}: {a} and {b}")
    shared = first.items.keys() & second.items.keys()
    for one, other in ((first, second), (second, first)):
        if alone := len(one.items) - len(shared):
            scoring.append(f"{alone} of {len(one.items)} images of {one.path} are not in {other.path}")
    return scoring, networks


def compare_items(first: Scored, second: Scored, key: str | None = None) -> Difference:
    """Compare two networks by a metric on the images that both have; None = AbsRel.

    Raises UserError when no image or not both have the metric, or it has no direction.
    """
    key = _choose(first, second, key)
    column = second.columns[key]
    pairs = [
        (name, row, second.items[name])
        for name, row in first.items.items()
        if name in second.items and _is_number(row.get(key)) and _is_number(second.items[name].get(key))
    ]
    if not pairs:
        raise UserError(f"{first.path} and {second.path}: no image of both has {key}. Evaluate both on the same data")
    a, b = (np.array(values, np.float64) for values in zip(*((x[key], y[key]) for _, x, y in pairs), strict=True))
    gains = column.direction * (b - a)
    order = np.argsort(-gains, kind="stable")
    groups = scene_numbers([row.get("scene") for _, row, _ in pairs])
    return Difference(
        key,
        column,
        float(a.mean()),
        float(b.mean()),
        int((gains > 0).sum()),
        int((gains < 0).sum()),
        _tested(b - a, None),
        None if groups is None else _tested(b - a, groups),
        [(pairs[i][0][0], float(a[i]), float(b[i])) for i in order],
    )


def verdict(difference: Difference, first: str, second: str, p: float | None = None) -> str:
    """Say in a sentence which network is better; `p` = the decisive one, corrected for several comparisons."""
    d, tested = difference, difference.decisive
    p = tested.p if p is None else p
    units = "images" if tested is d.images else "scenes"
    name = d.column.title + " on edges" * is_on_edges(d.key)
    if d.mean == 0:
        return f"{first} and {second} are equal in {name}"
    relative = f" ({100 * abs(d.mean / d.first):.2g} %)" if d.first else ""
    sure = f"p = {p:.2g} over {tested.count} {units}"
    winner, loser = (second, first) if d.mean * d.column.direction > 0 else (first, second)
    if tested.count < LEAST:
        return f"{winner} has the better {name} by {abs(d.mean):.4g}{relative}, but {tested.count} {units} show nothing"
    if not p < ALPHA:
        return f"no difference in {name} is shown between {first} and {second}: {d.mean:+.4g}{relative}, {sure}"
    doubt = "; frames of one scene are alike, so this holds for these scenes only" if _few_scenes(d) else ""
    return f"{winner} is better than {loser} in {name} by {abs(d.mean):.4g}{relative}, {sure}{doubt}"


def _few_scenes(difference: Difference) -> bool:
    return difference.scenes is not None and difference.scenes.count < LEAST


def _choose(first: Scored, second: Scored, key: str | None) -> str:
    both = [k for k, column in first.columns.items() if second.columns.get(k) == column and column.direction]
    if key is None:
        key = next((k for k in HEADLINES if k in both), both[0] if both else None)
    if key is None:
        raise UserError(f"{first.path} and {second.path}: have no metric in common. Evaluate with the same --metrics")
    if key not in both:
        versions = "; its meaning has changed between both" if key in first.columns and key in second.columns else ""
        raise UserError(
            f"--metric {key}: not a metric of both {first.path} and {second.path}{versions}. {did_you_mean(key, both)}"
        )
    return key


def _tested(differences: np.ndarray, groups: np.ndarray | None) -> Tested:
    low, high = bootstrap(differences[:, None], groups)[0]
    count = len(differences) if groups is None else int(groups.max()) + 1
    return Tested(count, float(low), float(high), sign_flips(differences, groups))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
