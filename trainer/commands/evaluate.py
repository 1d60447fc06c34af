"""Score a checkpoint, or predictions in a file: depth against ground truth, beside guesses that do not look.

    monodepth evaluate --ckpt models/synthetic/monodepth2_MS/42
    monodepth evaluate --ckpt models/kitti/monodepth2_MS/42/ckpts/last.safetensors \
             --cfg-file eval/kitti_eigen --alignment stereo median --flip --sheet sheet.png
    monodepth evaluate --pred-file sgbm.npz --pred-kind disp --cfg-file eval/kitti_eigen
    monodepth evaluate --pred-file preds.npz --targets targets_test.npz --cfg-file eval/kitti_eigen
    monodepth evaluate --ckpt models/kitti/monodepth2_M/42 --odometry --cfg-file eval/kitti_odometry
    monodepth evaluate --ckpt models/kitti/monodepth2_M/42 --vary --cfg-file eval/kitti_eigen

The data set is that of the configuration inside the checkpoint; `--cfg-file` and `--set` change it. Numbers
go into a YAML file together with everything that is needed to compare them with others. Several processes
(`accelerate launch`) give the same file as one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# `sweep` starts this file under whatever launcher: import the project that it lies in.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from trainer.commands.cli import CHECKPOINT, add_checkpoint_arguments, add_number, add_shared, command, whole


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="monodepth evaluate",
        description="Score a checkpoint on a data set with ground truth. The last line printed is AbsRel over"
        " that of the best constant depth: below 1, the network makes use of the image.",
        epilog="Example: monodepth evaluate --ckpt models/synthetic/monodepth2_MS/42 --sheet sheet.png",
    )
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--ckpt", type=Path, help=CHECKPOINT)
    subject.add_argument(
        "--pred-file",
        type=Path,
        metavar="NPZ",
        help="instead of a network: an array `pred` (N, h, w), one map per item of the data set, in its order; 0 = no"
        " prediction, which counts as nearest; names of the items as an array `items` are checked",
    )
    add = parser.add_argument
    add("--pred-kind", choices=("disp", "depth"), help="what the file holds: disparity (1 / depth) or depth")
    add(
        "--pred-unit",
        choices=("m", "baseline", "any"),
        help="unit of its depth: m, baseline (0.1 = 0.54 m, as networks have it) or any, which choose the alignment"
        " none, stereo or median; default: what the file says, else m",
    )
    targets = "with --pred-file: ground truth in a file of `monodepth prepare targets`, instead of the data set"
    add("--targets", type=Path, metavar="NPZ", help=targets)
    add_checkpoint_arguments(parser, ". Its section `evaluation` sets what the options of the protocol do not")
    add("--mode", choices=("test", "val"), default="test", help="part of the data set (default test)")
    add("--limit", type=whole(1, 100_000_000), metavar="N", help="score N items, evenly spaced over the data set")
    _add_protocol(parser.add_argument_group("protocol").add_argument)
    output = parser.add_argument_group("output and speed")
    add = output.add_argument
    place = "result file (default <run>/results/<dataset>_<checkpoint>_<alignment>.yaml)"
    add("--save", type=Path, metavar="YAML", help=place)
    spelling = "also write the numbers alone, spelled as in the files of arXiv:2208.01489"
    add("--legacy", type=Path, metavar="YAML", help=spelling)
    add("--sheet", type=Path, metavar="PNG", help="also draw items: input, prediction, truth, error")
    add_number(output, "--num-sheet", 6, "items on the sheet", whole(1, 1000))
    add_shared(output, "--batch-size", default=8)
    add_shared(output, "--num-workers")
    return parser.parse_args(argv)


def _add_protocol(add: Callable[..., object]) -> None:
    add(
        "--alignment",
        nargs="+",
        metavar="MODE",
        help="median (of each truth), median_lower (its lower middle value, as torch has it), stereo (x 5.4), none,"
        " lsqr_disp, lsqr_depth (least squares); several are scored side by side, with a file each; default stereo if"
        " trained with a stereo pair",
    )
    add("--crop", metavar="NAME", help="garg, eigen, nyu or none; default garg for KITTI, else none")
    add("--min-depth", type=float, metavar="M", help="score truths above, metres (default 0.001)")
    add("--max-depth", type=float, metavar="M", help="score truths below, metres (default 80)")
    sets = "metric sets: eigen, benchmark, pointcloud, ibims (default eigen)"
    add("--metrics", nargs="+", metavar="SET", help=sets)
    flip = "also predict for the mirrored image and blend both (arXiv:1609.03677)"
    add("--flip", action=argparse.BooleanOptionalAction, help=flip)
    add("--pose", action="store_true", help="also score the direction of the predicted camera motion")
    add(
        "--odometry",
        action="store_true",
        help="score camera paths instead of depth: KITTI's drift, and ATE over 5 frames as arXiv:1704.07813 has it, the"
        " root of the summed squared distances over 5, not the root of their mean; needs true poses",
    )
    add(
        "--vary",
        action="store_true",
        help="how much each choice of the protocol moves AbsRel: the same predictions under one change at a time, of"
        " alignment, crop, depth limits, resizing, flip, truth, frames and mean; --save may end in .json",
    )


main = command(parse, "evaluate", "evaluating")


if __name__ == "__main__":
    sys.exit(main())
