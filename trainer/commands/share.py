"""Share a trained network: one folder, or a repository on the Hugging Face Hub, with a model card.

    monodepth share models/synthetic/monodepth2_MS/42 demo --license mit --pictures my_pictures
    monodepth share models/synthetic/monodepth2_MS/42 alice/demo --private

TARGET is a name on the Hub when it has the form `user/name` and there is no folder `user` here, and a folder otherwise;
`hf://user/name` always means the Hub, `./user/name` always a folder. What is written loads by `monodepth predict`,
`evaluate`, `trainer.load_ckpt` and `trainer.load_objective`, from a folder and from the Hub alike: docs/tasks/share.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import CHECKPOINT, Parser, add_shared, command


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth share",
        description="Write or push a trained network with a model card: what it was trained on, how well it does, what"
        " may be done with it, how to load it. Folders, user names and the command line are left out of its settings.",
        epilog="Example: monodepth share models/synthetic/monodepth2_MS/42 demo --license mit",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=CHECKPOINT)
    target = "folder to write, or user/name to push to the Hugging Face Hub (public unless --private); where a folder"
    add("target", metavar="TARGET", help=f"{target} `user` exists here, write hf://user/name to push")
    licence = "licence of the weights as the Hub spells it: mit, apache-2.0, cc-by-nc-4.0, ... (default: not stated)"
    add("--license", metavar="ID", help=licence)
    pictures = "draw a sheet of pictures of this folder; default: the newest *sheet*.png in the run or its results"
    add("--pictures", type=Path, metavar="FOLDER", help=pictures)
    add("--private", action="store_true", help="make a repository that only you see; for new ones")
    add("--force", action="store_true", help="replace the files of a folder, or add a version to a repository")
    add_shared(parser, "--plugins")
    return parser.parse_args(argv)


main = command(parse, "share", "reading the checkpoint")


if __name__ == "__main__":
    sys.exit(main())
