"""Write a trained depth network for other programs: ONNX, PyTorch alone, or transformers.

    monodepth export models/kitti/monodepth2_MS/42 --format onnx --out depth.onnx
    monodepth export models/kitti/monodepth2_MS/42 --format torch --out depth.pt2 --dynamic batch size
    monodepth export models/kitti/monodepth2_MS/42 --format transformers --out depth_folder

Every file is compared with the network before it gets its name, on pictures of a folder (`--verify`) or on a few
rendered ones; one that differs is not written. See docs/tasks/export.md. To write the predictions for a data set,
rather than the network, use `monodepth export-depth`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import Parser, add_shared, add_size, command

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "transformers": ""}  # "" = a folder


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth export",
        description="Write the depth network of a checkpoint for other programs, compared with PyTorch before it is"
        " kept. (The predictions for a data set are written by `monodepth export-depth`.)",
        epilog="Example: monodepth export models/synthetic/monodepth2_MS/42 --format onnx --out depth.onnx",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a .safetensors file, or a run folder (its best checkpoint)")
    add("--format", choices=tuple(SUFFIXES), required=True, help="onnx: one .onnx file; torch: a torch.export archive,"
        " .pt2; transformers: a folder for pipeline('depth-estimation')")  # fmt: skip
    add("--out", type=Path, required=True, metavar="PATH", help="file or folder to write")
    add("--force", action="store_true", help="replace what is there")
    add_shared(parser, "--hparams")
    add_shared(parser, "--plugins")
    add_size(parser, "--size", "of the input, multiples of 32 (default: that of the training)")
    add("--scale", metavar="X", help="metres per unit of the network, or a result file of `evaluate` that measures it"
        " (default: what the training knows)")  # fmt: skip
    graph = parser.add_argument_group("onnx and torch")
    add = graph.add_argument
    add("--dynamic", nargs="+", choices=("batch", "size"), default=[], help="what the file leaves open (default:"
        " nothing, batch 1); some encoders fix the size")  # fmt: skip
    add("--input", choices=("uint8", "float"), default="uint8", help="images 0..255, or 0..1 (default uint8)")
    add("--layout", choices=("NCHW", "NHWC"), default="NCHW", help="of the images (default NCHW)")
    add("--precision", choices=("32", "16"), default="32", help="of the network; outputs are float32 (default 32)")
    proof = parser.add_argument_group("proof")
    add = proof.add_argument
    add("--verify", type=Path, metavar="FOLDER", help="compare on the pictures in it, not on rendered ones")
    add("--time", action="store_true", help="also time onnx or torch beside PyTorch, in turn, on one thread")
    return parser.parse_args(argv)


main = command(parse, "export", "loading the network")


if __name__ == "__main__":
    sys.exit(main())
