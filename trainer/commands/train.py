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

from trainer.commands.cli import add_config_arguments, add_shared, guarded, program


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=program("train"),
        description="Train depth networks from video or stereo. The same command continues a stopped run.",
        epilog="Example: train -c cfg/synthetic/monodepth2_MS.yaml -d cfg/synthetic/default.yaml "
        "-o models/synthetic -n monodepth2_MS -v 42 -s 42",
    )
    add_config_arguments(parser)
    parser.add_argument("-o", "--ckpt-dir", type=Path, required=True, metavar="DIR", help="folder of the experiment")
    parser.add_argument("-n", "--name", required=True, help="name of the model: <ckpt-dir>/<name>/<version>")
    parser.add_argument("-v", "--version", required=True, help="version, used as given; usually the seed")
    add_shared(parser, "--seed")
    parser.add_argument(
        "--progress", choices=("auto", "rich", "tqdm", "plain"), default="auto", help="progress display (default auto)"
    )
    parser.add_argument(
        "--timings", action="store_true", help="print the time of each part up to the first optimizer step"
    )
    return parser.parse_args(argv)


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, build, train, print where the results are; return the exit code."""
    args = parse(argv)
    from trainer.commands.jobs.train import run

    return run(args)


if __name__ == "__main__":
    sys.exit(main())
