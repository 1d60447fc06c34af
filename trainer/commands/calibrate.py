"""Measure how the depth of a network becomes metres, on images with ground truth, and keep that in its checkpoint.

    monodepth calibrate --ckpt models/kitti/monodepth2_M/42 --cfg-file eval/kitti_eigen_zhou
    monodepth predict models/kitti/monodepth2_M/42/ckpts/best-calibrated.safetensors street.jpg

One power law for all images, metres = exp(a log d + b), is fitted and checked on drives that the fit has not seen. It
is refused when it is no better there than a single scale, which `--scale-only` takes. `predict`, `export` and
`evaluate`, with the alignment `none`, use what is kept. The old checkpoint stays as it is. See docs/tasks/metres.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import CHECKPOINT, Parser, add_checkpoint_arguments, add_shared, command, whole


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth calibrate",
        description="Fit metres = exp(a log d + b) of the depth d of a checkpoint to images with ground truth, and"
        " write a checkpoint that knows it.",
        epilog="Example: monodepth calibrate --ckpt models/synthetic/monodepth2_M/42 --limit 100",
    )
    add = parser.add_argument
    add("--ckpt", type=Path, required=True, help=CHECKPOINT)
    add_checkpoint_arguments(parser, ". Crop and limits of depth are those of its section `evaluation`")
    mode = "part of the data set (default val: numbers on test would be flattered by a fit to test)"
    add("--mode", choices=("train", "val", "test"), default="val", help=mode)
    add("--limit", type=whole(1, 100_000_000), metavar="N", help="use N items, evenly spaced over the data set")
    add("--scale-only", action="store_true", help="fit a factor alone, a = 1")
    place = "file to write (default <checkpoint>-calibrated.safetensors beside the old one)"
    add("--out", type=Path, metavar="FILE", help=place)
    add("--force", action="store_true", help="replace the file if it is there")
    without = "instead: write the checkpoint without its calibration (default <checkpoint>-uncalibrated.safetensors)"
    add("--remove", action="store_true", help=without)
    add_shared(parser, "--batch-size", default=8)
    add_shared(parser, "--num-workers")
    return parser.parse_args(argv)


main = command(parse, "calibrate", "reading the checkpoint")


if __name__ == "__main__":
    sys.exit(main())
