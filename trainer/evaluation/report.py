"""How an evaluation looks: a table on the terminal, a line that tells the protocol, a sheet of pictures."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trainer.evaluation.depth import depth_pictures
from trainer.evaluation.items import Items
from trainer.evaluation.predictions import Source, evenly_spaced
from trainer.evaluation.results import EvaluationResult
from trainer.evaluation.subject import split_name
from trainer.runtime.files import make_folder, replacing
from trainer.tracking import viz

LABEL_LENGTH = 40  # characters that fit across a picture
FOOTER_LENGTH = 170  # and across a sheet; there is room for two lines


def report(results: Sequence[EvaluationResult], console: Console) -> None:
    """Print the numbers of the network, one column per alignment, beside those of the blind guesses; protocols below.

    Baselines are those of the first alignment.
    """
    first = results[0]
    subject = "prediction" if "predictions" in first.protocol else "network"
    names = [subject] if len(results) == 1 else [r.protocol["alignment"] for r in results]
    table = Table(title="mean over images")
    for title in ("metric", "unit", "better", *names, "best constant", "mean of row"):
        table.add_column(
            title, no_wrap=True, justify="left" if title in ("metric", "unit", "better") else "right"
        )
    columns = [r.mean for r in results]
    columns += [first.baselines["constant_depth"], first.baselines["row_mean_depth"]]
    better = {m.key: m.higher_is_better for s in first.setup.sets.values() for m in s.metrics}
    for key in first.mean:
        of = key if key in better else key.removesuffix("_edges")
        numbers = (f"{column[key]:.4f}" if key in column else "-" for column in columns)
        table.add_row(key, first.setup.units[of], "higher" if better[of] else "lower", *numbers)
    whole = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, whole)  # a number that is cut short is none
    console.print(table)
    if first.pose:
        told = first.pose
        console.print(
            f"pose: {told['mean']:.2f} degrees off the true direction, median {told['median']:.2f}, over"
            f" {told['count']} motions (one fixed direction: {told['mean_of_fixed_direction']:.2f})",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    for result in results:
        console.print(protocol_line(result), markup=False, highlight=False, soft_wrap=True)


def protocol_line(result: EvaluationResult) -> str:
    """The protocol in one line, for tables and pictures."""
    told = result.protocol
    data = told["dataset"]
    split = " ".join(filter(None, [data["type"], split_name(data), data["mode"]]))
    if "truth" in told:
        split += f" from {told['truth']}"
    size = (
        f"maps {_by(told['predictions']['size'])}" if "predictions" in told else f"input {_by(data['size'])}"
    )
    factor = f"{result.factor['median']:.3g}"
    if "relative_std" in result.factor:
        factor += f" +- {100 * result.factor['relative_std']:.0f} %"
    edges = ", edges aligned for themselves" if "edges" in told else ""
    return (
        f"protocol: {split}, {told['items']} items, {told['skipped_without_valid_pixel']} without truth"
        f", {size}; alignment {told['alignment']} (factor {factor}{edges}), crop {told['crop']}, "
        f"{told['min_depth_m']:g}-{told['max_depth_m']:g} m, "
        f"{'flip' if told['flip_post_processing'] else 'no flip'}; {_origin(result)}"
    )


def draw_sheet(source: Source, items: Items, result: EvaluationResult, args: argparse.Namespace) -> None:
    """Draw items of the evaluation, evenly chosen among those that were scored."""
    chosen = [result.items[i]["index"] for i in evenly_spaced(args.num_sheet, len(result.items))]
    rows = list(depth_pictures(source, items, chosen, result.setup))
    for row in rows:
        row["label"] = row["label"][-LABEL_LENGTH:]  # the end of a path tells more than its beginning
    title = f"{_name(result)}: AbsRel {100 * result.abs_rel:.1f} %"
    footer = textwrap.fill(protocol_line(result), FOOTER_LENGTH, max_lines=2, placeholder=" ...")
    make_folder(args.sheet.parent)
    with replacing(args.sheet) as staged:
        viz.picture_sheet(rows, staged, title=title, footer=footer)


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _name(result: EvaluationResult) -> str:
    if "predictions" in result.protocol:
        return Path(result.protocol["predictions"]["file"]).name
    checkpoint = result.protocol["checkpoint"]
    return checkpoint["run"]["name"] or Path(checkpoint["file"]).stem


def _origin(result: EvaluationResult) -> str:
    if "predictions" in result.protocol:
        told = result.protocol["predictions"]
        return f"{Path(told['file']).name}, {told['kind']}, unit {told['unit']}"
    checkpoint = result.protocol["checkpoint"]
    return f"{Path(checkpoint['file']).name} of epoch {checkpoint['epoch']}, step {checkpoint['step']}"
