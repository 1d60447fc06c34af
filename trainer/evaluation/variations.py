"""Why a number differs from another: the same predictions, scored with one choice of the protocol changed at a time."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from trainer.evaluation.items import RESIZE_RULES, Items, dataset_class, truth_map
from trainer.evaluation.pooling import pooled_means
from trainer.evaluation.predictions import (
    PLAIN,
    DepthSource,
    Execution,
    blend,
    evenly_spaced,
    mirrored,
    predicted_maps,
    read_items,
)
from trainer.evaluation.reference import open_dataset
from trainer.evaluation.report import protocol_line
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.results import RESULT_FORMAT, write_result
from trainer.evaluation.stored import Kind, StoredDepth
from trainer.metrics.protocol import CHOICES, DepthProtocol
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder, write_text
from trainer.runtime.processes import FoundByAll

SETS = ("eigen",)  # metric sets of a variation
KEYS = ("abs_rel", "d1")  # what is kept of them
LEAST_DEPTHS = (1e-3, 0.1, 1.0)  # metres
CAPS = (50.0, 80.0, 100.0, inf)  # metres; inf = none
RESIZED_AS: dict[Kind, str] = {"disp": "inverse depth", "depth": "depth"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """One way from predictions and truths to numbers: the chosen protocol, with at most one thing changed."""

    protocol: DepthProtocol
    factor: str = ""  # what is changed; "" = nothing
    choice: str = ""  # to what
    resizing: Mapping[str, Any] = field(default_factory=dict)  # fields of `StoredDepth` that are changed
    truth: str = ""  # name of another truth of the same items; "" = the chosen one

    def score(self, maps: Mapping[bool, StoredDepth], truths: Mapping[str, np.ndarray]) -> Row | None:
        """Score one item: its prediction without and with flip post-processing, its truths by name."""
        truth = truths[self.truth]
        if self.factor == "crop" and not self.protocol.crop.fits(truth.shape):
            return None
        pred = replace(maps[self.protocol.flip], **self.resizing)
        row = self.protocol.score_image(pred.depth(0, truth.shape), truth)
        return row and {key: row[key] for key in ("pixels", "factor", *KEYS)}


@dataclass(frozen=True)
class Effect:
    """What one change does to the numbers."""

    factor: str
    choice: str
    items: int  # scored before and after the change; of `frames`, those that remain
    abs_rel: float  # fraction, after it
    d1: float  # fraction
    abs_rel_before: float  # of these items under the chosen protocol
    change_pct: float | None  # of AbsRel; None where it was 0


@dataclass
class Variations:
    """Numbers under the chosen protocol, and what each change of it does, largest effects first."""

    mean: dict[str, float]  # AbsRel and the ratio accuracy, fractions, mean over items
    factor: dict[str, float]  # median of the alignment factors
    protocol: dict[str, Any]
    effects: list[Effect]
    not_measured: list[str] = field(default_factory=list)  # what does not apply here, and why


def vary(
    source: DepthSource,
    items: Items,
    protocol: DepthProtocol,
    how: Execution = PLAIN,
    *,
    truths: Mapping[str, Items] | None = None,
    without: Mapping[str, str] | None = None,
    limit: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Variations:
    """Predict every item once, and score the prediction under each change of a protocol of the set `eigen`.

    Changed, one at a time: alignment, crop, both limits of depth, how maps are resized, flip post-processing where
    there is a network (it then predicts mirror images, too), the truth, the frames, and what the mean is over. A change
    is judged on the items that it and the chosen protocol both score.

    Args:
        truths: other truths by name, the same items in the same order.
        without: alignments that make no sense for these predictions, and why.

    `limit`, `metadata` and the errors are those of `evaluate_side_by_side`.
    """
    truths, without = truths or {}, without or {}
    setups = [Setup(protocol), *_changes(protocol, source, truths, without)]
    indices = evenly_spaced(limit, len(items))
    mine = []
    for index, maps, truth in _predicted(source, items, indices, protocol.flip, how):
        others = {name: truth_map(other[index], other, index) for name, other in truths.items()}
        rows = [setup.score(maps, {"": truth, **others}) for setup in setups]
        mine.append((index, rows, maps[protocol.flip].values.shape[1:] != truth.shape))
        how.on_item()
    scored = sorted(how.processes.gather(mine), key=lambda one: one[0])
    columns = [{i: row for i, rows, _ in scored if (row := rows[k])} for k in range(len(setups))]
    base = columns[0]
    if not base:
        raise FoundByAll(f"nothing was scored: none of {len(scored)} items has a true depth {protocol.where()}")
    effects, notes = _judge(setups, columns, any(resized for *_, resized in scored))
    notes = [*(f"alignment {name}: {why}" for name, why in without.items()), *notes]
    if isinstance(source, StoredDepth):
        notes.append("flip: needs the network, --ckpt")
    part = None if len(indices) == len(items) else f"{len(indices)} of {len(items)}, evenly spaced"
    counts = {"items": len(base), "skipped_without_valid_pixel": len(scored) - len(base), "limit": part}
    return Variations(
        _mean(list(base.values())),
        {"median": float(np.median([row["factor"] for row in base.values()]))},
        {**protocol.describe(), **counts, **(metadata or {})},
        sorted(effects, key=lambda e: -abs(inf if e.change_pct is None else e.change_pct)),
        notes,
    )


def open_other_truths(request: EvaluationRequest, arguments: Mapping[str, Any]) -> tuple[dict[str, Items], list[str]]:
    """Open the truths that a data set with these arguments does not score but could.

    Returns them by name, and a line for each that is not on this disk.
    """
    if request.targets is not None:
        return {}, ["truth, frames: the truth comes from a file"]
    data = dataset_class(request.data_name)
    opened: dict[str, Items] = {}
    lines = [] if data.truths else ["truth, frames: the data set has one kind of truth"]
    for chosen in data.truths:
        name = data.truth_of({**arguments, **chosen})
        if name == data.truth_of(arguments):
            continue
        try:
            opened[name], _ = open_dataset(request.subject.cfg, request.mode, supp_idxs=None, use_depth=True, **chosen)
        except UserError as error:
            lines.append(f"truth {name}: {str(error).splitlines()[0]}")
    return opened, lines


def report_variations(found: Variations, console: Console) -> None:
    """Print the chosen protocol and its numbers, then a row for each change, then what was not measured."""
    print_line = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    table = Table(title="one choice changed at a time; effects do not add up")
    for title in ("factor", "choice"):
        table.add_column(title, no_wrap=True)
    for title in ("items", "Abs Rel", "change", "δ<1.25"):
        table.add_column(title, no_wrap=True, justify="right")
    abs_rel, d1 = (f"{found.mean[key]:.4f}" for key in KEYS)
    table.add_row("as chosen", "", str(found.protocol["items"]), abs_rel, "", d1, end_section=True)
    for e in found.effects:
        change = "-" if e.change_pct is None else f"{e.change_pct:+.2f} %"
        table.add_row(e.factor, e.choice, str(e.items), f"{e.abs_rel:.4f}", change, f"{e.d1:.4f}")
    console.width = max(console.width, console.measure(table, options=console.options.update(max_width=1000)).maximum)
    console.print(table)
    print_line(protocol_line(found))
    for line in found.not_measured:
        print_line(f"not measured: {line}")


def save_variations(found: Variations, path: Path) -> None:
    """Write numbers, effects and protocol as YAML, or as JSON where the name ends so. Raises CannotWrite."""
    head = {"chosen": found.mean, "factor": found.factor, "protocol": found.protocol}
    rows = {"effects": [asdict(effect) for effect in found.effects], "not_measured": found.not_measured}
    if path.suffix == ".json":
        make_folder(path.parent)
        write_text(path, json.dumps({"format": RESULT_FORMAT, **head, **rows}, indent=2, ensure_ascii=False) + "\n")
    else:
        write_result(path, head, rows, width=10**6, default_flow_style=None, allow_unicode=True)


def _changes(
    protocol: DepthProtocol, source: DepthSource, truths: Collection[str], without: Collection[str]
) -> Iterator[Setup]:
    """Yield the setups that differ from the chosen one in one choice."""
    limits = {"min_depth": protocol.min_depth, "max_depth": protocol.max_depth}
    kept: dict[str, Any] = {**protocol.names, **limits, "flip": protocol.flip}
    choices: dict[str, Sequence[Any]] = {
        "alignment": [name for name in CHOICES["alignment"]() if name not in without],
        "crop": list(CHOICES["crop"]()),
        "min_depth": [depth for depth in LEAST_DEPTHS if depth < protocol.max_depth],
        "max_depth": [depth for depth in CAPS if depth > protocol.min_depth],
        "flip": [] if isinstance(source, StoredDepth) else [False, True],
    }
    for key, values in choices.items():
        for value in values:
            if value != kept[key]:
                changed = DepthProtocol(SETS, **{**kept, key: value})
                yield Setup(changed, key, _shown(value))
    usual = source if isinstance(source, StoredDepth) else StoredDepth(np.empty((0, 0, 0)), "depth")
    for rule in RESIZE_RULES:
        if rule != usual.rule:
            yield Setup(protocol, "resize", f"{RESIZED_AS[usual.resized_as]}, {rule}", {"rule": rule})
    for kind, quantity in RESIZED_AS.items():
        if kind != usual.resized_as:
            yield Setup(protocol, "resize", f"{quantity}, {usual.rule}", {"resized_as": kind})
    for name in truths:
        yield Setup(protocol, "truth", name, truth=name)


def _shown(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else "none" if value == inf else f"{value:g} m"


def _predicted(
    source: DepthSource, items: Items, indices: Sequence[int], flip: bool, how: Execution
) -> Iterator[tuple[int, dict[bool, StoredDepth], np.ndarray]]:
    """Yield (index, predictions at their own size by flip post-processing, truth) of this process's items."""
    for chosen, batch in read_items(items, indices, how):
        if isinstance(source, StoredDepth):
            maps = [{flip: replace(source, values=source.values[i : i + 1])} for i in chosen]
        else:
            plain, other = (list(predicted_maps(p, batch, chosen, items)) for p in (source, mirrored(source)))
            both = ({False: one, True: blend(one, two)} for one, two in zip(plain, other, strict=True))
            maps = [{key: StoredDepth(m[None].numpy(), "depth") for key, m in pair.items()} for pair in both]
        truths = (truth_map(item, items, index) for item, index in zip(batch, chosen, strict=True))
        yield from zip(chosen, maps, truths, strict=True)


def _judge(
    setups: Sequence[Setup], columns: Sequence[Mapping[int, Row]], has_resized: bool
) -> tuple[list[Effect], list[str]]:
    """Compare the rows by item of each setup with those of the first. Returns effects, and what has none and why."""
    base, effects, notes = columns[0], [], []
    for setup, column in zip(setups[1:], columns[1:], strict=True):
        common = [i for i in base if i in column]
        if setup.factor == "resize" and not has_resized:
            notes.append("resize: the predictions have the size of the truth")
        elif common:
            after = _mean([column[i] for i in common])
            effects.append(_effect(setup.factor, setup.choice, [base[i] for i in common], after))
        else:
            notes.append(f"{setup.factor} {setup.choice}: {_why_not(setup)}")
    effects += _of_the_mean(
        setups[0].protocol, base, {s.truth: column for s, column in zip(setups, columns, strict=True) if s.truth}
    )
    return effects, list(dict.fromkeys(notes))


def _mean(rows: Sequence[Row]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in KEYS}


def _effect(factor: str, choice: str, before: Sequence[Row], after: Mapping[str, float]) -> Effect:
    was = _mean(before)["abs_rel"]
    change = 100 * (after["abs_rel"] / was - 1) if was else None
    return Effect(factor, choice, len(before), after["abs_rel"], after["d1"], was, change)


def _of_the_mean(
    protocol: DepthProtocol, base: Mapping[int, Row], by_truth: Mapping[str, Mapping[int, Row]]
) -> Iterator[Effect]:
    """Yield what another mean does to the rows by item: over pixels, and over the items that another truth has."""
    rows = list(base.values())
    yield _effect("mean", "over pixels", rows, pooled_means(rows, protocol))
    known = {frozenset(base)}
    for name, column in by_truth.items():
        both = frozenset(base) & frozenset(column)
        if both and both not in known:
            known.add(both)
            after = _mean([row for i, row in base.items() if i in both])
            yield replace(_effect("frames", f"those with {name}", rows, after), items=len(both))


def _why_not(setup: Setup) -> str:
    size = setup.protocol.crop.made_for or setup.protocol.crop.window
    return f"made for {size[1]}x{size[0]}" if setup.factor == "crop" and size else "no item has a pixel for it"
