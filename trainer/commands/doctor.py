"""Report what the trainer finds on this machine, and try its parts in small: for bug reports and new installations.

    monodepth doctor            versions, devices, memory, disks, extras; two processes meet, a step is trained, saved
    monodepth doctor --json     the same for programs

The report holds no user names, no host name and no home paths. Exit code 1: something does not work; it is named at the
end, with its fix.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from trainer.commands.cli import Parser, command


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth doctor",
        description="Report versions, devices, memory, disks and extras, and try in small what training needs. The text"
        " can be pasted into a bug report: it holds no user names, host names or home paths.",
        epilog="Exit code 0: all is well. 1: something does not work; it is named at the end, with its fix.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)


main = command(parse, "doctor", "looking at this machine")


if __name__ == "__main__":
    sys.exit(main())
