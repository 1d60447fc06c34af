"""`prepare synthetic`: drives of the synthetic data set, stored as KITTI raw recordings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(jobs: Any) -> None:
    """Describe the command line."""
    parser = jobs.add_parser(
        "synthetic",
        help="store synthetic drives as KITTI raw recordings",
        description="Store synthetic drives as KITTI raw recordings. The same command continues them.",
        epilog="Example: prepare synthetic --out data/kitti_raw_sync --drives 4 --frames 100 --annotated",
    )
    add = parser.add_argument
    flag = argparse.BooleanOptionalAction
    add("--out", type=Path, required=True, metavar="DIR", help="new folder, or one that this command began")
    add(
        "--drives",
        type=int,
        default=4,
        metavar="N",
        help="number of drives, each a scene of its own (default 4)",
    )
    add("--frames", type=int, default=100, metavar="N", help="frames per drive (default 100)")
    add("--size", type=_size, default=(1242, 375), metavar="WxH", help="of the pictures (default 1242x375)")
    add("--seed", type=int, default=0, help="of all scenes (default 0)")
    add("--format", choices=("png", "jpg"), default="png", help="of the pictures (default png)")
    add("--lidar", action=flag, default=True, help="write LiDAR scans (default)")
    add("--annotated", action=flag, default=False, help="write exact depth as 16-bit PNG")
    add(
        "--scene", choices=("road", "corridor", "mixed"), default="road", help="kind of scenes (default road)"
    )
    add("--motion", type=float, default=0.8, metavar="M", help="mean metres per frame (default 0.8)")
    add("--rotation", type=float, default=1.0, metavar="DEG", help="largest angle of the camera (default 1)")
    add(
        "--moving-objects",
        type=int,
        default=0,
        metavar="N",
        help="cars and people on the move per drive (default 0)",
    )
    add(
        "--standing",
        type=float,
        default=0.0,
        metavar="P",
        help="share of drives that stand still (default 0)",
    )
    add("--split", default="synthetic", metavar="NAME", help="splits/<NAME>/*_files.txt (default synthetic)")
    parser.set_defaults(run=run)


def run(out: Path, **values: Any) -> int:
    """Write what is missing, say where it is."""
    from tqdm import tqdm

    from trainer.data.kitti_raw.writer import KittiWriter, Recording

    writer = KittiWriter(out, Recording(**values))
    writer.prepare()
    missing = writer.missing()
    total = writer.recording.drives * writer.recording.frames
    for moment in tqdm(missing, initial=total - len(missing), total=total, unit="frame", disable=None):
        writer.write(moment)
    splits = out / "splits" / writer.recording.split
    print(f"{out}: {total} frames, {len(missing)} of them new; splits in {splits}")
    print(f"train on them with dataset.type=kitti dataset.root={out} dataset.split={writer.recording.split}")
    return 0


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, e.g. 1242x375")
    return int(width), int(height)
