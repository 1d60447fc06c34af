"""Score a checkpoint, or predictions in a file: depth against ground truth, beside guesses that do not look.

    monodepth evaluate --ckpt models/synthetic/monodepth2_MS/42
    monodepth evaluate --ckpt models/kitti/monodepth2_MS/42/ckpts/last.safetensors \
             --cfg-file eval/kitti_eigen --alignment stereo median --flip --sheet sheet.png
    monodepth evaluate --pred-file sgbm.npz --pred-kind disp --cfg-file eval/kitti_eigen
    monodepth evaluate --pred-file preds.npz --targets targets_test.npz --cfg-file eval/kitti_eigen
    monodepth evaluate --ckpt models/kitti/monodepth2_M/42 --odometry --cfg-file eval/kitti_odometry
    monodepth evaluate --ckpt models/kitti/md2/42 --uncertainty ensemble --ensemble models/kitti/md2/43
    monodepth evaluate --ckpt models/rooms/monodepth2_M/42 --temporal --max-depth 10
    monodepth evaluate --ckpt models/kitti/monodepth2_M/42 --corrupt all --cfg-file eval/kitti_c
    monodepth evaluate --ckpt models/kitti/monodepth2_MS/42 --suite eval/suites/kbr
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
from typing import Any

# `sweep` starts this file under whatever launcher: import the project that it lies in.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from trainer.commands.cli import CHECKPOINT, Parser, add_checkpoint_arguments, add_number, add_shared, command, whole


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
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
    suite = (
        "a page of data sets, each with its protocol: scores those that are here, says where to get the others, writes"
        " one table to <run>/suites; the same command continues"
    )
    add("--suite", type=Path, metavar="YAML", help=suite)
    add("--again", action="store_true", help="with --suite: also score where a result of the same protocol exists")
    add("--mode", choices=("test", "val"), default="test", help="part of the data set (default test)")
    add("--limit", type=whole(1, 100_000_000), metavar="N", help="score N items, evenly spaced over the data set")
    declares = "what a network that does not say so was trained on: a split file of KITTI, or the name of a split there"
    add("--trained-on", metavar="LIST", help=declares)
    _add_protocol(parser.add_argument_group("protocol").add_argument)
    _add_uncertainty(parser.add_argument_group("uncertainty: sparsification (arXiv:2005.06209)"))
    _add_corruption(parser.add_argument_group("corrupted pictures").add_argument)
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
        " lsqr_disp, lsqr_depth (least squares), lsqr_depth_trim (that without extremes, as in MDEC 2025); several are"
        " scored side by side, with a file each; default none if the checkpoint knows metres (by `monodepth calibrate`,"
        " or the losses speed and camera_height), stereo if trained with a stereo pair, else median",
    )
    crops = "garg, eigen, marigold (all KITTI), nyu, cityscapes or none; default garg for KITTI, else none"
    add("--crop", metavar="NAME", help=crops)
    add("--min-depth", type=float, metavar="M", help="score truths above, metres (default 0.001)")
    add("--max-depth", type=float, metavar="M", help="score truths below, metres (default 80)")
    sets = "eigen (default), benchmark, pointcloud, ibims, boundary, boundary_recall, boundary_f1_moge"
    add("--metrics", nargs="+", metavar="SET", help=f"metric sets: {sets}")
    pooled = "also give the means over all pixels of all images, as some papers do, beside the means over images"
    add("--pooled", action="store_true", help=pooled)
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
        "--temporal",
        nargs="?",
        choices=("auto", "true", "learned"),
        const="auto",
        help="score depth from frame to frame instead: the temporal alignment error of clips (arXiv:2501.12375), each"
        " aligned once (default lsqr_disp), moved by the true motion; without it, or with `learned`, by the motion of"
        " the pose network, unaligned",
    )
    add(
        "--vary",
        action="store_true",
        help="how much each choice of the protocol moves AbsRel: the same predictions under one change at a time, of"
        " alignment, crop, depth limits, resizing, flip, truth, frames and mean; --save may end in .json",
    )


def _add_uncertainty(group: Any) -> None:
    add = group.add_argument
    add(
        "--uncertainty",
        choices=("flip", "ensemble", "mask", "file"),
        help="also score (AUSE, AURG) how well an uncertainty finds the errors: that of the mirrored image (flip), of"
        " several checkpoints (ensemble), of a network with mask_name uncertainty (mask), or the array `uncertainty`"
        " (N, h, w) of --pred-file (file)",
    )
    members = "the other checkpoints of the ensemble; the depth that is scored is that of --ckpt alone"
    add("--ensemble", type=Path, nargs="+", default=[], metavar="CKPT", help=members)
    steps = "points of the curves (default 50)"
    add("--sparsification-steps", type=whole(2, 10_000), metavar="N", help=steps)


def _add_corruption(add: Callable[..., object]) -> None:
    add(
        "--corrupt",
        nargs="+",
        metavar="KIND",
        help="also score corrupted pictures, `all` 18 kinds of KITTI-C (arXiv:2310.15171) or some of them, and compare"
        " with Monodepth2; the same command continues where it was stopped",
    )
    add("--corrupt-levels", nargs="+", type=whole(1, 5), metavar="N", help="1 (least) to 5 (default all)")
    add("--corrupt-seed", type=whole(0, 2**32 - 1), metavar="N", help="seed of the random kinds (default 0)")
    frost = (
        "folder of the pictures of frost of the package imagecorruptions; without them frost is a texture of our own"
    )
    add("--frost-pictures", type=Path, metavar="DIR", help=frost)


main = command(parse, "evaluate", "evaluating")


if __name__ == "__main__":
    sys.exit(main())
