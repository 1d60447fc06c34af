"""Learning curves and bars over seeds, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models_zoo.registry import did_you_mean
from trainer.metrics.validation import VALIDATION
from trainer.runtime import files
from trainer.runtime.errors import UserError
from trainer.tables.aggregate import Table
from trainer.tables.columns import headings
from trainer.tables.events import TRACKED, Curve, average, read_curves
from trainer.tables.layout import decimals_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOM = 0.25  # for the values behind the bars, as a share of the axis


def draw_curves(
    folders: Mapping[str, Path], tag: str, path: Path, seeds: Sequence[str] | None = None, required: bool = True
) -> Path | None:
    """Draw one scalar of all runs of some models: thin lines for seeds, a thick one for their mean, dotted where some
    seed has ended.

    Args:
        folders: model -> its folder, with one folder per version.
        tag: name of the scalar, e.g. val/AbsRel.
        path: PNG file. seeds: versions to draw; None = all.
        required: when no run has the scalar, raise UserError; else return None.
    """
    runs: dict[str, list[dict[str, Curve]]] = {}
    for model, folder in folders.items():
        chosen = (run for run in sorted(folder.iterdir()) if not seeds or run.name in seeds)
        runs[model] = [read_curves(run) for run in chosen if run.is_dir()]
    known = {name for curves in runs.values() for curve in curves for name in curve}
    if tag not in known:
        if not required:
            return None
        raise UserError(f"--curves {tag}: no run has this scalar. {did_you_mean(tag, known)}")
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9, 5)
    axes = figure.subplots()
    for i_model, (model, curves) in enumerate(runs.items()):
        mine = [curve[tag] for curve in curves if tag in curve]
        if mine:
            _draw_model(axes, mine, f"{model} (n = {len(mine)})", i_model)
    axes.set_xlabel("optimizer steps; thick: mean over seeds, dotted where not all of them are in it")
    group, _, name = tag.rpartition("/")
    unit = VALIDATION[name].unit if name in VALIDATION and group in TRACKED else None
    axes.set_ylabel(f"{tag} [{unit}]" if unit else tag, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize="small").get_texts():
        text.set_parse_math(False)
    return _save(figure, path)


def _draw_model(axes: Axes, curves: Sequence[Curve], label: str, i_model: int) -> None:
    color, dashes = f"C{i_model % 10}", ("-", "--", "-.")[i_model // 10 % 3]
    for steps, values in curves:
        axes.plot(steps, values, color=color, alpha=0.35, linewidth=0.8, marker=".")
    steps, mean, *_ = average(curves)
    axes.plot(steps, mean, color=color, linewidth=1.5, linestyle=":", marker="o", markersize=4)
    whole = np.isin(steps, [s for s in steps if all(s in mine for mine, _ in curves)])
    label = f" {label}" if label.startswith("_") else label  # a legend leaves out what begins with _
    axes.plot(steps[whole], mean[whole], color=color, linewidth=2, linestyle=dashes, label=label)


def draw_bars(table: Table, path: Path, decimals: int | None = None) -> Path | None:
    """Draw means as bars with their value and standard deviation, each seed as a dot; published rows are hatched.

    Returns the path; None when there is no metric with a direction, or no row that counts.
    """
    columns = [c for c in table.columns if c.direction]
    rows = [*table.rows, *table.references]
    if not columns or not rows:
        return None
    labels = [row.label for row in rows]
    across = min(4, len(columns))
    down = math.ceil(len(columns) / across)
    width = 3.2 * across + 0.08 * max(map(len, labels))  # names only at the left
    figure = _figure(width, down * (1.2 + 0.32 * len(rows)) + 0.4)
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes in grid.flat[len(columns) :]:
        axes.set_axis_off()
    names = headings(columns, names="title")
    for axes, column in zip(grid.flat, columns, strict=False):
        digits = decimals_of(table, column, decimals)
        for i_row, row in enumerate(rows):
            cell, published = row.cells.get(column), i_row >= len(table.rows)
            if cell is None or not math.isfinite(cell.mean):
                continue
            look = {"color": "0.85", "hatch": "//"} if published else {"color": "C0"}
            spread = {"xerr": cell.sd, "capsize": 3} if math.isfinite(cell.sd) else {}
            axes.barh(i_row, cell.mean, edgecolor="0.4", **look, **spread)
            seeds = [v for v in cell.by_seed.values() if math.isfinite(v)]
            axes.plot(seeds, [i_row] * len(seeds), "k.", markersize=4)
            end = max(0.0, cell.mean + (cell.sd if spread else 0.0), *seeds)
            axes.annotate(
                f"{cell.mean:.{digits}f}",
                (end, i_row),
                (5, 0),
                "data",
                "offset points",
                va="center",
                fontsize="x-small",
            )
        axes.margins(x=ROOM)
        axes.set_yticks(range(len(rows)), labels, fontsize="small", parse_math=False)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(f"{names[column]} {f'[{column.unit}]' * bool(column.unit)}".rstrip(), fontsize="small")
    figure.suptitle(f"{table.title}: mean, sd, seeds", fontsize="small", parse_math=False)
    return _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """Make a figure without pyplot, which keeps global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _save(figure: Figure, path: Path) -> Path:
    files.make_folder(path.parent)
    with files.replacing(path) as staged:
        figure.savefig(staged, format="png")
    return path
