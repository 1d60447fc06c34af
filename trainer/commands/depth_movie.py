"""Learn depth from a film of one's own, and show film and depth side by side.

    monodepth depth-movie drive.mp4 --minutes 20                     models/drive/drive_side-by-side.mp4
    monodepth depth-movie drive.mp4 -o out.mp4 --minutes 60 --fov 65

Three commands in one, each of which is printed and can be run alone: `prepare video`, `train` and `predict`. The same
command continues where it was stopped; with more minutes the training goes on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import Parser, command

DEFAULT_MINUTES = 20.0


def minutes(text: str) -> float:
    """Read a number of minutes. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of minutes above 0, got {text!r}")
    return value


def mp4(text: str) -> Path:
    """Read the name of a film to write. Raises ArgumentTypeError."""
    if Path(text).suffix.lower() != ".mp4":
        raise argparse.ArgumentTypeError(f"films are written as MP4: {text!r} must end with .mp4")
    return Path(text)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth depth-movie",
        description="Learn depth from a film whose camera moves through a world that mostly stands still, and write a"
        " film that shows both side by side. The same command continues.",
        epilog="Example: monodepth depth-movie drive.mp4 -o out.mp4 --minutes 20",
    )
    add = parser.add_argument
    add("film", type=Path, metavar="FILM", help="a video file; sound is not needed")
    add("-o", "--out", type=mp4, metavar="MP4", help="film to write (default <folder>/<film>_side-by-side.mp4)")
    add(
        "--minutes", type=minutes, default=DEFAULT_MINUTES, metavar="N",
        help=f"training time, over all starts (default {DEFAULT_MINUTES:g})",
    )  # fmt: skip
    add("--folder", type=Path, metavar="DIR", help="for frames, settings and network (default models/<film>)")
    add("--fov", type=float, metavar="DEGREES", help="horizontal field of view of the camera (default: 60 is assumed)")
    return parser.parse_args(argv)


main = command(parse, "depth_movie", "looking at the film", is_timed=True)


if __name__ == "__main__":
    sys.exit(main())
