"""List what YAML files can name: networks, decoders, losses, data sets and more, with arguments and sources.

monodepth list                       everything
monodepth list losses                one chapter
monodepth list loss.disp_smooth      one entry; `disp_smooth` alone finds it, too
monodepth list --out docs/reference/catalogue.md           writes everything as Markdown
monodepth list --commands --out docs/reference/commands.md    writes all commands with their options
monodepth list [--commands] --check    fails when that file is out of step with the code
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import Parser, add_shared, command

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reference"  # of a checkout


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth list",
        description="List what YAML files can name, with arguments, defaults and sources.",
        epilog="Example: monodepth list losses; monodepth list img_recon --plugins my_module",
    )
    add = parser.add_argument
    add("what", nargs="*", help="chapters (losses) or entries (loss.img_recon, img_recon); default all")
    add_shared(parser, "--plugins")
    add("--commands", action="store_true", help="list all commands with their options instead, as Markdown")
    add("--markdown", action="store_true", help="print Markdown")
    add("--out", type=Path, metavar="MD", help="write Markdown to this file")
    add("--check", action="store_true", help="only check --out (default: the page of a checkout); fail when it differs")
    args = parser.parse_args(argv)
    if args.commands and (args.what or args.plugins):
        parser.error("--commands lists all commands: it takes no names and no plugins")
    committed = PAGES / ("commands.md" if args.commands else "catalogue.md")
    if args.check and args.out is None:
        args.out = committed
    if args.out and args.out.resolve() == committed and (args.what or args.plugins):
        parser.error("docs/reference/catalogue.md lists everything, without plugins: write to another file with --out")
    return args


main = command(parse, "list", "listing what there is")
