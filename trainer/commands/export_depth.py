"""Predict a data set and keep the disparities in a file, for `monodepth evaluate --pred-file` and for other code.

    monodepth export-depth --ckpt models/kitti/monodepth2_MS/42 --cfg-file export/kitti_eigen
    monodepth evaluate --pred-file models/kitti/monodepth2_MS/42/preds/kitti_eigen_best.npz --cfg-file eval/kitti_eigen

The file is NPZ: `pred` float32 (N, h, w), 1 / depth in the unit of the network (0.1 = 0.54 m for stereo training), in
the order of the data set; `items` are the names of its items and `dataset` its arguments (JSON), which `evaluate`
compares with its own; `kind`, `unit`, `flip` and `checkpoint` are texts. Several processes (`accelerate launch`) share
the work and give the same array as one.

    monodepth export-depth --ckpt models/kitti/monodepth2_MS/42 --cfg-file eval/mdec2025 --format mdec

writes a submission to MDEC 2025 (arXiv:2504.17787): `pred` and the text `pred_type`, "disparity", and nothing else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import CHECKPOINT, Parser, add_checkpoint_arguments, add_shared, command


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth export-depth",
        description="Predict every item of a data set and write the disparities, 1 / depth, to an NPZ file. (The"
        " network itself is written for other programs by `monodepth export`.)",
        epilog="Example: monodepth export-depth --ckpt models/synthetic/monodepth2_MS/42 --save preds.npz",
    )
    add = parser.add_argument
    add("--ckpt", type=Path, required=True, help=CHECKPOINT)
    add_checkpoint_arguments(parser)
    add("--mode", choices=("test", "val", "train"), default="test", help="part of the data set (default test)")
    add("--flip", action="store_true", help="blend with the prediction for the mirrored image (arXiv:1609.03677)")
    kinds = "monodepth, for `evaluate` (default), or mdec, a submission to MDEC 2025 (SYNS-Patches, --mode val or test)"
    add("--format", choices=("monodepth", "mdec"), default="monodepth", help=kinds)
    place = "file to write (default <run>/preds/<dataset>_<checkpoint>.npz, _mdec before its ending with that format)"
    add("--save", type=Path, metavar="NPZ", help=place)
    add("--force", action="store_true", help="replace the file if it is there")
    add_shared(parser, "--batch-size", default=12)
    add_shared(parser, "--num-workers")
    return parser.parse_args(argv)


main = command(parse, "export_depth", "predicting")


if __name__ == "__main__":
    sys.exit(main())
