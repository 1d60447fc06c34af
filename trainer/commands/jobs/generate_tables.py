"""From result files to tables on the terminal and in files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, ConsoleDimensions
from rich.table import Table as Frame
from rich.text import Text

from models_zoo.registry import did_you_mean
from trainer.config.plugins import load_plugins
from trainer.runtime.errors import UserError
from trainer.tables.aggregate import (
    Table,
    headline,
    make_tables,
    model_names,
    name_differences,
    sort_rows,
    unevaluated,
)
from trainer.tables.categories import by_category
from trainer.tables.columns import Column
from trainer.tables.layout import BEST, PLAIN, SECOND, by_seed, grid, head, units
from trainer.tables.pictures import draw_bars, draw_curves
from trainer.tables.reference import add_references
from trainer.tables.results import Result, read_results
from trainer.tables.significance import Comparison, flips, warn_of_noise
from trainer.tables.summary import summarise
from trainer.tables.writing import file_names, write_table

FILE_WIDTH = 1000  # columns where there is no terminal: nothing is cut
CURVE = "val_metrics/AbsRel"  # drawn where it was tracked
STYLES = {PLAIN: ("", ""), BEST: (" ¹", "bold green"), SECOND: (" ²", "cyan")}


def run(args: argparse.Namespace) -> int:
    """Read, group, compare, print, write; 1 when a file among the results could not be read.

    Raises UserError for whatever the user can mend before anything can be tabulated.
    """
    load_plugins(args.plugins)
    if not args.root.is_dir():
        raise UserError(f"{args.root}: no such folder")
    unread: list[str] = []
    results = read_results(args.root, args.file, unread)
    tables, compared, notes = _tabulate(results, args)
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for number, (table, comparisons) in enumerate(zip(tables, compared, strict=True), start=1):
        show(table, comparisons, console, number, args)
    for line in notes:
        _say(console, f"note: {line}")
    if args.out:
        for path in write(tables, compared, results, args):
            print(f"saved: {path}")
    for line in unread:
        print(f"warning: left out: {line}", file=sys.stderr)
    return 1 if unread else 0


def _tabulate(
    results: Sequence[Result], args: argparse.Namespace
) -> tuple[list[Table], list[list[Comparison]], list[str]]:
    """All tables, the comparisons of each, and what is to be said of them together."""
    seeds, mix = args.seeds, args.mix
    tables = make_tables(results, args.root, seeds=seeds, mix=mix, models=args.models, metrics=args.metrics)
    if args.sort and not any(headline(table, args.sort) for table in tables):
        known = {c.key for table in tables for c in table.columns}
        raise UserError(f"--sort {args.sort}: no table has this metric. {did_you_mean(args.sort, known)}")
    if args.reference:
        add_references(tables, args.reference)
    notes = name_differences(tables, mix) + ([] if args.models else unevaluated(args.root, results))
    parts = []
    if args.by:
        chosen = args.metrics or ([args.sort] if args.sort else None)
        folders = set(_chosen(results, args).values())
        told = by_category([r for r in results if r.folder in folders], args.by, chosen)
        parts = make_tables(told, args.root, seeds=seeds, mix=mix)
    compared = [warn_of_noise(table) for table in (*tables, *parts)]
    wanted = args.summary or args.relative_to
    whole = summarise(tables, args.relative_to) if wanted else []
    if wanted and not whole:
        notes.append("no summary: no table has two rows")
    for table in tables if args.sort else ():
        sort_rows(table, args.sort)
    return [*tables, *parts, *whole], compared + [[] for _ in whole], notes


def _chosen(results: Sequence[Result], args: argparse.Namespace) -> dict[str, Path]:
    """The folders of the models to tabulate, by name."""
    named = model_names({r.folder for r in results}, args.root)
    return {name: folder for folder, name in named.items() if not args.models or name in args.models}


def show(
    table: Table, comparisons: Sequence[Comparison], console: Console, number: int, args: argparse.Namespace
) -> None:
    """Print a table, its headline metric seed by seed, and what to make of the order."""
    column = _headline(table, args)
    _say(console, f"table {number}: {table.title}")
    frame = Frame()
    for i_column, title in enumerate(head(table)):
        frame.add_column(title, justify="right" if i_column else "left", no_wrap=True)
    lines, ranked = grid(table, args.decimals)
    for i_line, line in enumerate(lines):
        frame.add_row(
            *(Text(cell.text + STYLES[cell.mark][0], style=STYLES[cell.mark][1]) for cell in line),
            end_section=i_line == ranked - 1,
        )
    _print_whole(console, frame)
    _say(
        console,
        f"mean ± sample standard deviation over n seeds; ¹ best, ² second best; {units(table)}".rstrip("; "),
    )
    if "images" in table.protocol:
        _say(console, f"images: {table.protocol['images']}")
    if column is not None and table.rows:
        _show_seeds(table, column, console, args.decimals)
    _show_order(table, comparisons, column, console)
    for note in table.notes:
        _say(console, f"note: {note}")
    console.print()


def _headline(table: Table, args: argparse.Namespace) -> Column | None:
    """The metric to show seed by seed; a summary has none, for its ranks are of means."""
    return None if "summary" in table.protocol else headline(table, args.sort) or headline(table)


def _print_whole(console: Console, frame: Frame) -> None:
    """Print a table as wide as it is: a number that is cut short is none."""
    whole = console.measure(frame, options=console.options.update(max_width=FILE_WIDTH)).maximum
    console.size = ConsoleDimensions(max(console.width, whole), console.height)  # of dumb terminals, too
    console.print(frame)


def _show_seeds(table: Table, column: Column, console: Console, decimals: int | None) -> None:
    titles, rows = by_seed(table, column, decimals)
    _say(console, f"{column.key}, seed by seed")
    frame = Frame()
    for i_column, title in enumerate(titles):
        frame.add_column(title, justify="right" if i_column else "left", no_wrap=True)
    for row in rows:
        frame.add_row(*map(Text, row))
    _print_whole(console, frame)


def _show_order(
    table: Table, comparisons: Sequence[Comparison], column: Column | None, console: Console
) -> None:
    """Say of every metric how many orders are sure; of the headline, which neighbours are not."""
    pairs: dict[Column, list[Comparison]] = {}
    for comparison in comparisons:
        pairs.setdefault(comparison.column, []).append(comparison)
    if pairs:
        sure = (f"{c.key} {sum(not p.is_noise for p in of)} of {len(of)}" for c, of in pairs.items())
        turned = (f"{c.key} {' of '.join(map(str, flips(table, c)))}" for c in pairs)
        _say(console, f"pairs that their seeds tell apart (Welch, Holm, p < 0.05): {', '.join(sure)}")
        _say(console, f"orders that turn round with some choice of one seed each: {', '.join(turned)}")
    others = tuple(f"{c.key}: " for c in table.columns if c != column)
    general = [warning for warning in table.warnings if not warning.startswith(others)]
    rest = len(table.warnings) - len(general)
    for warning in general:
        _say(console, f"warning: {warning}")
    if rest:
        _say(console, f"warning: {rest} more of other columns; --out writes all, --sort chooses the metric")


def write(
    tables: Sequence[Table],
    compared: Sequence[Sequence[Comparison]],
    results: Sequence[Result],
    args: argparse.Namespace,
) -> list[Path]:
    """Write the files of all tables and the learning curves."""
    paths: list[Path] = []
    for table, comparisons, name in zip(tables, compared, file_names(tables), strict=True):
        column = _headline(table, args)
        paths += write_table(table, args.out, name, comparisons, column, args.decimals)
        paths += filter(None, [draw_bars(table, args.out / f"{name}_bars.png")])
    folders = _chosen(results, args)
    for tag in args.curves or [CURVE]:
        path = args.out / f"curves_{tag.replace('/', '_')}.png"
        paths += filter(None, [draw_curves(folders, tag, path, args.seeds, required=bool(args.curves))])
    return paths


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
