"""Train networks from YAML files: the main job.

    train --cfg-file cfg/<EXP>/<MODEL>.yaml --cfg-default cfg/<EXP>/default.yaml \
          --ckpt-dir ./models/<EXP> --name <MODEL> --version 42 --seed 42

The same command continues a run that was stopped. Several processes: `accelerate launch --config_file
launch/accelerate/<where>.yaml launch/train.py ...`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# `sweep` starts this file under whatever launcher: import the project that it lies in.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from trainer.commands.cli import add_config_arguments, add_shared, command, program


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=program("train"),
        description="Train depth networks from video or stereo. The same command continues a stopped run.",
        epilog="Example: train -c cfg/synthetic/monodepth2_MS.yaml -d cfg/synthetic/default.yaml "
        "-o models/synthetic -n monodepth2_MS -v 42 -s 42",
    )
    add_config_arguments(parser)
    add = parser.add_argument
    add("-o", "--ckpt-dir", type=Path, required=True, metavar="DIR", help="folder of the experiment")
    add("-n", "--name", required=True, help="name of the model: <ckpt-dir>/<name>/<version>")
    add("-v", "--version", required=True, help="version, used as given; usually the seed")
    add_shared(parser, "--seed")
    displays = ("auto", "rich", "tqdm", "plain")
    add("--progress", choices=displays, default="auto", help="progress display (default auto)")
    add("--timings", action="store_true", help="print the time of each part up to the first optimizer step")
    return parser.parse_args(argv)


main = command(parse, "train", loading="loading PyTorch")


if __name__ == "__main__":
    sys.exit(main())
