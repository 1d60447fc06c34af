"""Predict depth of pictures, films, a camera or a stream, in units that are stated.

    monodepth predict models/kitti/monodepth2_MS/42 street.jpg                  depth/street_color.png
    monodepth predict MODEL photos/ --out maps --save color,gray16,ply          one of each for each picture
    monodepth predict MODEL drive.mp4 --save side-by-side,video                 depth/drive_side-by-side.mp4
    ffmpeg -i drive.mp4 -f image2pipe -c:v mjpeg -q:v 2 - | monodepth predict MODEL - --fps 25

Kinds: color, overlay and side-by-side are pictures to look at (PNG; with `video` films, MP4); gray16 is PNG of 16
bits, metres x 256 or normalised disparity; npz and npy hold float32; ply is a cloud of points. Colours mean the same
depth in all frames of a run. See docs/tasks/predict.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import Parser, add_shared, add_size, command, whole


def pinhole(text: str) -> tuple[float, ...]:
    """Read fx,fy,cx,cy. Raises ArgumentTypeError."""
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"expected 4 numbers with commas between them, got {text!r}")
    return values


def positive(text: str) -> float:
    """Read a positive number, infinity included. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def finite(text: str) -> float:
    """Read a positive, finite number. Raises ArgumentTypeError."""
    if math.isinf(value := positive(text)):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth predict",
        description="Predict depth of pictures, films, a camera or a stream.",
        epilog="Example: monodepth predict models/kitti/monodepth2_MS/42 drive.mp4 --save side-by-side,video",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a checkpoint (.safetensors) or the folder of a run (its best)")
    add(
        "source", metavar="SOURCE", nargs="+",
        help="pictures, a folder (with the folders in it), a quoted pattern, a film, the number of a camera, or - for"
        " JPEG or PNG frames on stdin",
    )  # fmt: skip
    add("--out", type=Path, default=Path("depth"), metavar="FOLDER", help="for all outputs (default ./depth)")
    add(
        "--save", action="append", default=[], metavar="KINDS",
        help="color, gray16, npz, npy, overlay, side-by-side, ply, video; with commas or repeated (default color; for"
        " films, cameras and streams video)",
    )  # fmt: skip
    add("--force", action="store_true", help="replace outputs that exist")
    add("--skip-existing", action="store_true", help="make only outputs that do not exist, as after Ctrl-C")
    look = parser.add_argument_group("colours")
    look.add_argument("--min", type=finite, metavar="DEPTH", help="depth at the near end, in the unit of the model")
    look.add_argument("--max", type=positive, metavar="DEPTH", help="depth at the far end, in the same; may be inf")
    look.add_argument("--no-legend", action="store_true", help="without the bar of colours, in the size of the input")
    what = parser.add_argument_group("frames")
    what.add_argument("--every", type=whole(1, 10**9), default=1, metavar="N", help="take every n-th frame")
    what.add_argument("--limit", type=whole(1, 10**9), metavar="N", help="take so many frames at most")
    what.add_argument("--fps", type=finite, help="frames per second of stdin, and of films of pictures (default 25)")
    units = parser.add_argument_group("units and camera")
    units.add_argument(
        "--scale", metavar="NUMBER|FILE",
        help="metres per unit of the network, or a result file of `evaluate` that says so (default: as trained)",
    )  # fmt: skip
    units.add_argument("--fov", type=finite, metavar="DEGREES", help="horizontal field of view, for ply")
    units.add_argument("--K", type=pinhole, metavar="FX,FY,CX,CY", help="intrinsics in pixels of the input, for ply")
    how = parser.add_argument_group("network")
    how.add_argument("--device", help="as torch names it (default cuda where there is one, else cpu)")
    how.add_argument("--precision", choices=("32", "bf16", "16"), default="32", help="of the network (default 32)")
    how.add_argument("--compile", action="store_true", help="compile the network; the first batch takes longer")
    how.add_argument("--flip", action="store_true", help="blend with the prediction for the mirrored image")
    add_size(how, "--size", "of its input, multiples of 32 (default: as trained)")
    add_shared(how, "--batch-size", default=8)
    add_shared(how, "--hparams")
    add_shared(how, "--plugins")
    args = parser.parse_args(argv)
    if args.force and args.skip_existing:
        parser.error("--force and --skip-existing exclude each other")
    if args.min and args.max and args.min >= args.max:
        parser.error(f"--min {args.min:g} must be less than --max {args.max:g}")
    if args.fov and args.K:
        parser.error("--fov and --K say the same: give one of them")
    return args


main = command(parse, "predict", "loading the network")


if __name__ == "__main__":
    sys.exit(main())
