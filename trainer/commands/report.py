"""Make one HTML page about a run or an experiment: curves, tables, pictures, settings, warnings.

    monodepth report models/synthetic/monodepth2_MS/42
    monodepth report models/benchmark --reference benchmark --out benchmark.html

The page is one file that loads nothing: it can be mailed, printed and read on a phone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import Parser, add_shared, command, whole


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth report",
        description="Make one HTML page, below 10 MB and without external parts, about all runs below a folder:"
        " curves with their spread over seeds, results with their protocols, pictures to compare with a slider,"
        " settings beside their default, warnings, versions and commands. Runs may still be in progress.",
        epilog="Example: monodepth report models/benchmark --models garg monodepth2_MS --out two.html",
    )
    add = parser.add_argument
    add("root", type=Path, metavar="FOLDER", help="folder of a run, or one above several: <name>/<version>")
    add("--models", nargs="+", metavar="MODEL", help="only these")
    add("--seeds", nargs="+", metavar="SEED", help="only these versions")
    add("--curves", nargs="+", default=[], metavar="TAG", help="only these scalars, e.g. val/AbsRel (default all)")
    add(
        "--pictures", type=whole(0, 1000), default=4, metavar="N",
        help="images of each sheet, 0 = no pictures (default 4)",
    )  # fmt: skip
    add_shared(
        parser,
        "--cfg-default",
        help="what settings are compared with (default: what the runs were built on; -d alone: the trainer's defaults)",
    )
    add_shared(parser, "--plugins")
    add = parser.add_argument_group("results, as in `monodepth tables`").add_argument
    add("--file", nargs="+", default=["*.yaml"], metavar="PATTERN", help="names of result files (default *.yaml)")
    add("--mix", nargs="+", default=[], metavar="FIELD", help="protocol fields in which rows of a table may differ")
    add("--reference", metavar="NAME", help="published rows of the same protocol: benchmark, or a YAML file")
    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, metavar="HTML", help="the page (default FOLDER/report.html)")
    add("--force", action="store_true", help="replace a file that is not a page of this command")
    add("--title", default="", help="heading of the page (default: name of the folder)")
    return parser.parse_args(argv)


main = command(parse, "report", "reading the runs")
