"""List and copy the pages, YAML files of cfg/, that come with the trainer.

    monodepth cfg list                    all, with what they are
    monodepth cfg list benchmark          those of a folder
    monodepth cfg copy benchmark ./cfg    that folder, to be changed: ./cfg/benchmark/*.yaml

`-c benchmark/hrdepth_MS` finds a page by its name; a file of that name in the working directory wins.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import Parser, guarded


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="monodepth cfg", description="List and copy the pages of the trainer.")
    jobs = parser.add_subparsers(dest="job", required=True)
    listing = jobs.add_parser("list", help="names of pages, and what they are")
    listing.add_argument("what", nargs="*", help="only names that start with this, e.g. benchmark")
    listing.add_argument("--names", action="store_true", help="names alone")
    copying = jobs.add_parser(
        "copy",
        help="copy pages, to change them",
        description="Copy pages or folders of them to a folder laid out like cfg/, with the default.yaml that they"
        " build on and the schema for editors.",
        epilog="Example: monodepth cfg copy benchmark ./cfg",
    )
    copying.add_argument("what", nargs="+", help="pages or folders, as `monodepth cfg list` names them")
    copying.add_argument("to", type=Path, metavar="DIR", help="folder to copy to, usually ./cfg")
    copying.add_argument("--force", action="store_true", help="replace files that differ")
    return parser.parse_args(argv)


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """List or copy; return the exit code."""
    args = parse(argv)
    from trainer.config import pages

    if args.job == "copy":
        written = pages.copy_pages(args.what, args.to, args.force)
        print("\n".join(f"wrote {path}" for path in written) or f"{args.to}: all is there already")
        return 0
    chosen = pages.select_pages(args.what)
    width = max(map(len, chosen))
    for name in chosen:
        print(name if args.names else f"{name:<{width}}  {pages.headline(pages.find_page(f'cfg/{name}'))}")
    return 0
