"""Train networks from YAML files: the main job.

    monodepth train -c <EXP>/<MODEL>

is short for

    monodepth train --cfg-file cfg/<EXP>/<MODEL>.yaml --cfg-default cfg/<EXP>/default.yaml \
          --ckpt-dir models/<EXP> --name <MODEL> --version 42 --seed 42

The same command continues a run that was stopped. Several processes: `accelerate launch --config_file
$(monodepth launch-file <where>) -m trainer.commands.train ...`, or `launch/train.py ...` of a checkout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# `sweep` starts this file under whatever launcher: import the project that it lies in.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from trainer.commands.cli import Parser, add_config_arguments, add_profile, add_shared, command, fill_in


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth train",
        description="Train depth networks from video or stereo. The same command continues a stopped run.",
        epilog="Example: monodepth train -c synthetic/monodepth2_MS",
    )
    add_config_arguments(parser)
    add = parser.add_argument
    where = "folder of the experiment (default models/<folder of the page>)"
    add("-o", "--ckpt-dir", type=Path, metavar="DIR", help=where)
    add("-n", "--name", help="of the model: <ckpt-dir>/<name>/<version> (default: name of the page)")
    add("-v", "--version", help="used as given (default: the seed)")
    add_shared(parser, "--seed")
    displays = ("auto", "rich", "tqdm", "plain")
    add("--progress", choices=displays, default="auto", help="progress display (default auto)")
    add("--timings", action="store_true", help="print the time of each part up to the first optimizer step")
    add_profile(parser)
    return fill_in(parser.parse_args(argv))


main = command(parse, "train", "reading the configuration", is_timed=True)


if __name__ == "__main__":
    sys.exit(main())
