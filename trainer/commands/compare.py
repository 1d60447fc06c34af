"""Compare result files image by image: which network is better on the same images, and how sure that is.

    monodepth compare models/a/42/results/kitti_eigen_best_median.yaml models/b/42/results/kitti_eigen_best_median.yaml
    monodepth compare a.yaml b.yaml c.yaml --metric rmse d1 --json

Every file is compared with the first. Files scored by different protocols are refused unless `--anyway`. For methods
instead of trained networks see `monodepth tables`, which tests them over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import Parser, add_number, add_shared, command, whole

LISTED = 6  # result files that a message names


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth compare",
        description="Compare result files of `monodepth evaluate`, each with the first, on the images that both have:"
        " mean difference with its 95 % interval, a test over images and over scenes (drives, clips), in how many"
        " images each is better, where most.",
        epilog="Example: monodepth compare a.yaml b.yaml --metric abs_rel d1",
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="YAML", help="two result files or more")
    add("--metric", nargs="+", metavar="KEY", help="keys of the files, e.g. rmse d1 (default AbsRel)")
    add("--anyway", action="store_true", help="compare although the protocols differ; says how")
    add_number(parser, "--num-items", 3, "images to name at each end", whole(0, 1_000_000))
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add_shared(parser, "--plugins")
    args = parser.parse_args(argv)
    if len(args.files) < 2:
        only = args.files[0]
        inside = sorted(map(str, [*only.glob("results/*.yaml"), *only.glob("*/results/*.yaml")]))
        found = f" Name files in it: {' '.join(inside[:LISTED])}" if inside else ""
        parser.error(f"two result files or more are compared, got one{f' folder.{found}' if only.is_dir() else ''}")
    return args


main = command(parse, "compare", "comparing")
