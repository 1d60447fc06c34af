"""Tabulate results over seeds: mean, standard deviation, and which orders are outside the seed noise.

    monodepth tables models/benchmark
    monodepth tables models/benchmark --mix alignment --reference benchmark --out models/benchmark/tables
    monodepth tables models/benchmark --file "syns*" --by category --relative-to garg

Results of different protocols never share a table unless `--mix` names the difference, which becomes a column.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import Parser, add_shared, command


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth tables",
        description="Tabulate all results below a folder: <model>/<version>/results/*.yaml. Versions are seeds.",
        epilog="Example: monodepth tables models/benchmark --out models/benchmark/tables",
    )
    add = parser.add_argument
    add("root", type=Path, help="folder with the models")
    add("--file", nargs="+", default=["*.yaml"], metavar="PATTERN", help="names or paths (default *.yaml)")
    add("--models", nargs="+", metavar="MODEL", help="only these")
    add("--seeds", nargs="+", metavar="SEED", help="versions expected of every model (default: those of any)")
    add("--metrics", nargs="+", metavar="KEY", help="only these, in this order, e.g. abs_rel d1")
    add("--sort", metavar="KEY", help="sort by this metric, list its seeds (default: names, first metric)")
    fields = "protocol fields in which rows may differ, shown as columns, e.g. alignment, size, checkpoint"
    add("--mix", nargs="+", default=[], metavar="FIELD", help=fields)
    add("--reference", metavar="NAME", help="published rows of the same protocol: benchmark, or a YAML file")
    add(
        "--by",
        choices=("category", "subcategory"),
        help="also a table per metric (of --metrics, else --sort, else the first) with a column per category of scene",
    )
    add("--summary", action="store_true", help="also the mean rank over all tables with the same rows")
    methods = "also three rows per method: reported (--reference), official weights (converted), trained here"
    add("--methods", action="store_true", help=methods)
    add("--relative-to", metavar="MODEL", help='also the improvement over a row, e.g. "garg (published)"')
    leak = "also show results on frames of the own training, struck through and not ranked (default: they are left out)"
    add("--allow-leak", action="store_true", help=leak)
    add_shared(parser, "--plugins")
    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, metavar="DIR", help="write Markdown, LaTeX, CSV and pictures here")
    add("--decimals", type=int, metavar="N", help="digits after the point (default by size of the numbers)")
    add("--curves", nargs="+", metavar="TAG", help="scalars to draw (default val/AbsRel, if any)")
    args = parser.parse_args(argv)
    if args.decimals is not None and not 0 <= args.decimals <= 15:
        parser.error(f"--decimals must be from 0 to 15, got {args.decimals}")
    return args


main = command(parse, "generate_tables", "making tables")
