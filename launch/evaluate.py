"""Score a checkpoint: depth against ground truth, beside guesses that do not look at the image.

    evaluate --ckpt models/synthetic/monodepth2_MS/42
    evaluate --ckpt models/kitti/monodepth2_MS/42/ckpts/last.safetensors \
             --cfg-file cfg/eval/kitti_eigen.yaml --alignment stereo --sheet sheet.png

The data set is that of the configuration inside the checkpoint; `--cfg-file` and `--set` change it. Numbers
go into a YAML file together with everything that is needed to compare them with others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: make the project importable without installing it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch._cli import add_plugins_argument, guarded


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="evaluate",
        description="Score a checkpoint on a data set with ground truth. The last line printed is AbsRel over"
        " that of the best constant depth: below 1, the network makes use of the image.",
        epilog="Example: evaluate --ckpt models/synthetic/monodepth2_MS/42 --sheet sheet.png",
    )
    add = parser.add_argument
    add("--ckpt", type=Path, required=True, help="a .safetensors file, or a run folder (its best checkpoint)")
    add("--hparams", type=Path, metavar="YAML", help="corrected hparams.yaml, instead of what the file holds")
    add(
        "-c",
        "--cfg-file",
        type=Path,
        nargs="+",
        default=[],
        metavar="YAML",
        help="what to change in the embedded configuration, its dataset above all; later files win",
    )
    add("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="change one key of it")
    add_plugins_argument(parser)
    add("--mode", choices=("test", "val"), default="test", help="part of the data set (default test)")
    add("--limit", type=int, metavar="N", help="score N items, evenly spaced over the data set")

    protocol = parser.add_argument_group("protocol")
    add = protocol.add_argument
    add(
        "--alignment",
        metavar="MODE",
        help="median (of each truth), stereo (x 5.4) or none; default stereo if trained with a stereo pair",
    )
    add("--crop", metavar="NAME", help="garg, eigen or none; default garg for KITTI, else none")
    add(
        "--min-depth",
        type=float,
        default=1e-3,
        metavar="M",
        help="score truths above, metres (default 0.001)",
    )
    add("--max-depth", type=float, default=80.0, metavar="M", help="score truths below, metres (default 80)")
    add("--metrics", nargs="+", default=["eigen"], metavar="SET", help="metric sets (default eigen)")
    add("--pose", action="store_true", help="also score the direction of the predicted camera motion")

    output = parser.add_argument_group("output and speed")
    add = output.add_argument
    add(
        "--save",
        type=Path,
        metavar="YAML",
        help="result file (default <run>/results/<dataset>_<checkpoint>_<alignment>.yaml)",
    )
    add("--sheet", type=Path, metavar="PNG", help="also draw items: input, prediction, truth, error")
    add("--num-sheet", type=int, default=6, metavar="N", help="items on the sheet (default 6)")
    add("--batch-size", type=int, default=8, metavar="N", help="images per pass of the network (default 8)")
    add("--num-workers", type=int, default=0, metavar="N", help="processes that load items (default 0)")
    return parser.parse_args(argv)


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, score, print, save; return the exit code."""
    args = parse(argv)
    from launch._evaluate import run

    return run(args)


if __name__ == "__main__":
    sys.exit(main())
