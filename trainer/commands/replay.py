"""Recompute the step at which a training stopped, and name the first module whose output is NaN or infinite.

monodepth replay models/<EXP>/<name>/<version>/capsules/<file>.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import Parser, add_shared, command


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth replay",
        description="Recompute the step at which a training stopped, from its capsule, and name what was not finite"
        " first: the batch, the weights, a module of the networks, a loss, or a gradient. Exit code 0 when there was"
        " something, 1 when the step is finite here.",
        epilog="Example: monodepth replay models/kitti/MS/42/capsules/step_00001200_rank_0.safetensors",
    )
    add = parser.add_argument
    add("capsule", type=Path, metavar="CAPSULE", help="file in <run folder>/capsules")
    add_shared(parser, "--hparams")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default auto)")
    text = "bits of the networks (default: those of the training). A step that is finite in 32 only needs bf16"
    add("--precision", choices=("32", "16", "bf16"), help=text)
    add_shared(parser, "--plugins")
    return parser.parse_args(argv)


main = command(parse, "replay", "repeating the step")
