"""Turn result files into tables on the terminal and in files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, ConsoleDimensions
from rich.table import Table as Frame
from rich.text import Text

from models_zoo.registry import did_you_mean
from trainer.config.plugins import load_plugins
from trainer.runtime.errors import UserError
from trainer.tables.aggregate import Table, headline, labels_of, make_tables, name_differences, sort_rows, unevaluated
from trainer.tables.categories import by_category
from trainer.tables.columns import Column
from trainer.tables.layout import BEST, PLAIN, SECOND, STRUCK, by_seed, grid, head, legend, names_of_keys
from trainer.tables.methods import by_method
from trainer.tables.pictures import draw_bars, draw_curves
from trainer.tables.reference import add_references
from trainer.tables.results import OFFICIAL, Result, read_results
from trainer.tables.significance import Comparison, flips, warn_of_noise
from trainer.tables.summary import summarise
from trainer.tables.writing import file_names, write_table

FILE_WIDTH = 1000  # columns without a terminal: nothing is cut
CURVE = "val/AbsRel"  # drawn by default
STYLES = {PLAIN: ("", ""), BEST: (" ¹", "bold green"), SECOND: (" ²", "cyan"), STRUCK: (" (leak)", "strike")}


def run(args: argparse.Namespace) -> int:
    """Read, group, compare, print, write; return 1 when a result file could not be read.

    Raises UserError for mistakes that leave nothing to tabulate.
    """
    load_plugins(args.plugins)
    if not os.path.isdir(args.root):
        is_file = os.path.exists(args.root)
        raise UserError(f"{args.root}: {'is a file. Name a folder of runs' if is_file else 'no such folder'}")
    unread: list[str] = []
    results, leaking = without_leaks(read_results(args.root, args.file, unread), args)
    tables, compared, notes = _tabulate(results, args)
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for number, (table, comparisons) in enumerate(zip(tables, compared, strict=True), start=1):
        show(table, comparisons, console, number, args)
    for line in notes:
        _say(console, f"note: {line}")
    if args.out:
        for path in write(tables, compared, results, args):
            print(f"saved: {path}")
    for line in leaking:
        print(f"warning: left out: {line}", file=sys.stderr)
    for line in unread:
        print(f"warning: left out: {line}", file=sys.stderr)
    return 1 if unread else 0


def without_leaks(results: Sequence[Result], args: argparse.Namespace) -> tuple[list[Result], list[str]]:
    """Leave out the results on frames of the own training, unless they are allowed; say of each why.

    Raises UserError when none is left.
    """
    kept = [result for result in results if args.allow_leak or not result.leak]
    lines = list(dict.fromkeys(f"{r.path}: {r.leak}" for r in results if r not in kept))
    if lines and not kept:
        told = "\n".join([*lines, "no other result is there. --allow-leak shows them struck through"])
        raise UserError(told)
    return kept, [f"{line}. --allow-leak shows it struck through" for line in lines]


def _tabulate(
    results: Sequence[Result], args: argparse.Namespace
) -> tuple[list[Table], list[list[Comparison]], list[str]]:
    """Make all tables. Returns them, the comparisons of each, and notes on them together."""
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
        by_part = by_category([r for r in results if r.folder in folders], args.by, chosen)
        parts = make_tables(by_part, args.root, seeds=seeds, mix=mix)
    compared = [warn_of_noise(table) for table in (*tables, *parts)]
    wanted = args.summary or args.relative_to
    whole = summarise(tables, args.relative_to) if wanted else []
    if wanted and not whole:
        notes.append("no summary: no table has two rows")
    if args.methods:
        of_methods = by_method(tables)
        whole += of_methods
        if not of_methods:
            notes.append("no rows per method: none has two of reported, official weights and trained here")
    for table in tables if args.sort else ():
        sort_rows(table, args.sort)
    return [*tables, *parts, *whole], compared + [[] for _ in whole], notes


def _chosen(results: Sequence[Result], args: argparse.Namespace) -> dict[str, Path]:
    """Folders of the models to tabulate, by name."""
    named = labels_of([r for r in results if r.seed != OFFICIAL], args.root)
    return {name: folder for folder, name in named.items() if not args.models or name in args.models}


def show(
    table: Table, comparisons: Sequence[Comparison], console: Console, number: int, args: argparse.Namespace
) -> None:
    """Print a table, its headline metric seed by seed, and how sure the order is."""
    column = _headline(table, args)
    _say(console, f"table {number}: {table.title}")
    lines = grid(table, args.decimals)
    cells = [[Text(c.text + STYLES[c.mark][0], style=STYLES[c.mark][1]) for c in line] for line in lines]
    _print_whole(console, head(table, "shown"), cells, len(table.rows))
    _say(console, legend(table, lines, "¹ best", "² second best"))
    if keys := names_of_keys(table):
        _say(console, keys)
    if "images" in table.protocol:
        _say(console, f"images: {table.protocol['images']}")
    if column is not None and table.has_spread:
        titles, rows = by_seed(table, column, args.decimals)
        _say(console, f"{column.shown}, seed by seed")
        _print_whole(console, titles, [[*map(Text, row)] for row in rows])
    _show_order(table, comparisons, column, console, args.out)
    for note in table.notes:
        _say(console, f"note: {note}")
    console.print()


def _headline(table: Table, args: argparse.Namespace) -> Column | None:
    """The metric to show seed by seed; None for a summary, whose ranks are of means."""
    return None if "summary" in table.protocol else headline(table, args.sort) or headline(table)


def _print_whole(
    console: Console, titles: Sequence[str], rows: Sequence[Sequence[Text]], ranked: int | None = None
) -> None:
    """Print a table as wide as it is, because a number that is cut is wrong, with a rule after `ranked` rows."""
    frame = Frame()
    for i_column, title in enumerate(titles):
        frame.add_column(Text(title), justify="right" if i_column else "left", no_wrap=True)
    for i_row, row in enumerate(rows, start=1):
        frame.add_row(*row, end_section=i_row == ranked)
    whole = console.measure(frame, options=console.options.update(max_width=FILE_WIDTH)).maximum
    console.size = ConsoleDimensions(max(console.width, whole), console.height)  # also of dumb terminals
    console.print(frame)


def _show_order(
    table: Table, comparisons: Sequence[Comparison], column: Column | None, console: Console, out: Path | None
) -> None:
    """Print how many orders of every metric are sure, and which neighbours in the headline metric are not."""
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
        where = f"every pair is in the *_pairs.csv of {out}" if out else "--out writes all, --sort chooses the metric"
        _say(console, f"warning: {rest} more warnings, of other columns; {where}")


def write(
    tables: Sequence[Table],
    compared: Sequence[Sequence[Comparison]],
    results: Sequence[Result],
    args: argparse.Namespace,
) -> list[Path]:
    """Write the files of all tables and the learning curves; return their paths."""
    paths: list[Path | None] = []  # None for pictures without anything to draw
    for table, comparisons, name in zip(tables, compared, file_names(tables), strict=True):
        paths += write_table(table, args.out, name, comparisons, _headline(table, args), args.decimals)
        paths.append(draw_bars(table, args.out / f"{name}_bars.png", args.decimals))
    folders = _chosen(results, args)
    for tag in args.curves or [CURVE]:
        path = args.out / f"curves_{tag.replace('/', '_')}.png"
        paths.append(draw_curves(folders, tag, path, args.seeds, required=bool(args.curves)))
    return [path for path in paths if path]


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
