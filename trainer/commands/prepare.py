"""Prepare data: check, convert and decode pictures; make hints, labels, targets, synthetic drives, frames of a video.

    monodepth prepare kitti check        what is there and what is missing, per split
    monodepth prepare lmdb | jpeg        KITTI as LMDB databases; its PNG pictures as JPEG
    monodepth prepare shards             the items of any data set as tar files, for data larger than a disk
    monodepth prepare cache              the pictures of any data set, decoded and resized once for all epochs
    monodepth prepare pseudo             the disparity of a teacher network as labels, for any data set
    monodepth prepare hints | targets    depth hints of stereo pairs; ground truth of a split for evaluation
    monodepth prepare synthetic | video  synthetic drives as KITTI recordings; films as a folder of frames
    monodepth prepare miniature          a few made items in the layout of an evaluation set, to see what goes where

A stopped command continues when it is started again. Exit code 1: done, but some inputs are missing or broken and
named. 130: stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.commands.cli import (
    Parser,
    add_config_arguments,
    add_number,
    add_shared,
    add_size,
    guarded,
    load_job,
    seed_number,
    whole,
)
from trainer.runtime.environment import usable_cores
from trainer.runtime.streams import doing

_DIR: dict[str, Any] = {"type": Path, "metavar": "DIR"}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line: `job`, and the arguments of its `run`."""
    parser = Parser(prog="monodepth prepare", description="Prepare data.")
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    for add_job in (_kitti, _lmdb, _jpeg, _shards, _cache, _hints, _pseudo, _targets, _synthetic, _video, _miniature):
        add_job(jobs)
    args = parser.parse_args(argv)
    if "command" in args:
        args.command = shlex.join(["monodepth", "prepare", *(sys.argv[1:] if argv is None else argv)])
    return args


def _kitti(jobs: Any) -> None:
    kitti = jobs.add_parser("kitti", help="check KITTI", description="Check KITTI.")
    parser = kitti.add_subparsers(required=True, metavar="WHAT").add_parser(
        "check",
        help="what is there and what is missing, per split",
        description="Count per split how many items have target, supports, LiDAR, annotated depth and depth hints;"
        " list missing drives and, with --deep, broken files. Exit code 0: all items can be loaded.",
        epilog="Example: monodepth prepare kitti check --root data/kitti_raw_sync --splits eigen_zhou --deep",
    )
    _add_places(parser, "depth", "hints")
    _add_splits(parser)
    add = parser.add_argument
    add("--supp-idxs", type=int, nargs="*", default=[-1, 1, 0], metavar="N", help="supports (default -1 1 0)")
    add("--deep", action="store_true", help="read every file to its end")
    _add_processes(parser)


def _lmdb(jobs: Any) -> None:
    parser = jobs.add_parser(
        "lmdb",
        help="KITTI as LMDB databases",
        description="Pack KITTI into one LMDB database per drive and sensor, for dataset.type=kitti_lmdb. Pictures"
        " stay encoded. The same command continues and skips complete databases.",
        epilog="Example: monodepth prepare lmdb --root data/kitti_raw_sync --out data/kitti_raw_sync_lmdb",
    )
    _add_places(parser, "depth", "hints")
    parser.add_argument("--out", **_DIR, required=True, help="folder of the databases")
    _add_processes(parser)


def _jpeg(jobs: Any) -> None:
    parser = jobs.add_parser(
        "jpeg",
        help="KITTI's PNG pictures as JPEG",
        description="Write each PNG picture of KITTI raw beside itself as JPEG, quality 92, 4:2:0, and compare what"
        " is read back with the original. Readers take the PNG as long as it exists. The same command continues.",
        epilog="Example: monodepth prepare jpeg --root data/kitti_raw_sync --remove-png",
    )
    _add_places(parser)
    parser.add_argument("--check", action="store_true", help="compare the JPEG files of an earlier run, too")
    parser.add_argument("--remove-png", action="store_true", help="delete each PNG whose JPEG was compared")
    _add_processes(parser)


def _shards(jobs: Any) -> None:
    parser = jobs.add_parser(
        "shards",
        help="the items of any data set as tar files",
        description="Write the items of a data set, as its page reads them, as tar files in WebDataset's convention"
        " with an index, for dataset.type=shards. Pictures keep the bytes of their files. Everything is read back and"
        " compared. The same command continues.",
        epilog="Example: monodepth prepare shards -c kitti/monodepth2_MS --out /data/kitti_shards",
    )
    add_config_arguments(parser)
    add = parser.add_argument
    add("--out", **_DIR, required=True, help="folder of the shards")
    modes = "parts of the data set (default: train, and val where the page validates)"
    add("--mode", nargs="+", choices=("train", "val", "test"), help=modes)
    size = "about so many bytes a shard (default 256MB)"
    add("--shard-size", type=num_bytes, default=256_000_000, metavar="SIZE", help=size)
    _add_processes(parser)


def _cache(jobs: Any) -> None:
    parser = jobs.add_parser(
        "cache",
        help="pictures of any data set, decoded and resized",
        description="Decode the pictures that a data set reads and resize them to dataset.size, for"
        " dataset.decoded_root: epochs then decode nothing and see the same bits. 3 bytes per pixel: 0.37 MB for"
        " 640x192. The same command continues, and after a change of the data set it decodes what is new;"
        " not while a run reads the folder.",
        epilog="Example: monodepth prepare cache -c kitti/monodepth2_MS --out /scratch/kitti_640x192",
    )
    add_config_arguments(parser)
    add = parser.add_argument
    add("--out", **_DIR, help="folder of the pictures (default: dataset.decoded_root of the page)")
    modes = "parts of the data set (default: train, and val where the page validates)"
    add("--mode", nargs="+", choices=("train", "val", "test"), help=modes)
    _add_processes(parser, "threads that decode (default: cores)")


def _hints(jobs: Any) -> None:
    parser = jobs.add_parser(
        "hints",
        help="depth hints by stereo matching",
        description="Match the stereo pairs of KITTI with twelve settings of semi-global matching and keep, per"
        " pixel, what rebuilds the picture best (arXiv:1909.09051). 1.3 MB per picture. The same command continues.",
        epilog="Example: monodepth prepare hints --root data/kitti_raw_sync --splits eigen_zhou",
    )
    _add_places(parser)
    parser.add_argument("--out", **_DIR, help="default: depth_hints in the raw folder, where readers look")
    _add_splits(parser)
    _add_processes(parser)


def _pseudo(jobs: Any) -> None:
    parser = jobs.add_parser(
        "pseudo",
        help="the disparity of a teacher network as labels",
        description="Label the pictures of a data set with the disparity that a teacher predicts, for"
        " dataset.use_pseudo: one 16-bit PNG per picture, and pseudo.json on the teacher. The same command continues.",
        epilog="Example: monodepth prepare pseudo -c kitti/monodepth2_MS --out data/pseudo"
        " --teacher depth-anything/Depth-Anything-V2-Small-hf",
    )
    parser.set_defaults(command="")
    add_config_arguments(parser)
    add = parser.add_argument
    add(
        "--teacher",
        required=True,
        metavar="NETWORK",
        help="a folder or Hub name of transformers (depth estimation), an ONNX file, a checkpoint of this trainer, or a"
        " folder of maps to convert (<item>.png, .npy or .npz)",
    )
    add("--out", **_DIR, help="folder of the labels (default: dataset.pseudo_root of the page)")
    modes = "parts of the data set (default: train, and val where the page validates)"
    add("--mode", nargs="+", choices=("train", "val", "test"), help=modes)
    add_size(parser, "--size", "input of the teacher (default: as it asks for dataset.size)")
    add_size(parser, "--label-size", "of the labels (default: dataset.size, unless it is larger)")
    add("--kind", choices=("disparity", "depth"), help="what the teacher predicts (default: what it says)")
    add(
        "--normalise",
        choices=("imagenet", "none"),
        default="imagenet",
        help="of RGB in 0..1 for ONNX files of other programs (default imagenet)",
    )
    add("--device", help="as torch names it (default cuda where there is one, else cpu)")
    add("--precision", choices=("32", "bf16", "16"), default="32", help="of the network (default 32)")
    add_shared(parser, "--batch-size", default=8)
    add("--overwrite", action="store_true", help="make all labels again, also those of another teacher")
    _add_processes(parser, "threads that read and write (default: cores)")


def _targets(jobs: Any) -> None:
    parser = jobs.add_parser(
        "targets",
        help="ground truth of a split in one file",
        description="Write depth maps and intrinsics of a split into <split folder>/targets_<mode>.npz. KITTI:"
        " annotated depth, but for the split eigen metres ahead of the LiDAR, as published numbers have it; K is"
        " that of the rectified pictures. Nothing is written while an item lacks its truth."
        " The same command continues.",
        epilog="Example: monodepth prepare targets --root data/kitti_raw_sync --split eigen_benchmark",
    )
    _add_places(parser, "depth")
    add = parser.add_argument
    add("--type", choices=("kitti", "syns_patches"), default="kitti", help="data set (default kitti)")
    add("--split", metavar="NAME", help="of KITTI; required there")
    add("--splits-dir", **_DIR, help="folder of splits; default: in or beside the raw folder")
    add("--mode", choices=("train", "val", "test"), default="test", help="part of the split (default test)")
    add(
        "--source",
        choices=("annotated", "lidar", "lidar-forward"),
        help="annotated depth; LiDAR, metres along the optical axis; LiDAR, metres ahead of it. Default: by split",
    )
    add("--out", type=Path, metavar="NPZ", help="default: targets_<mode>.npz beside the split file")
    add("--padded", action="store_true", help="pad maps of different size, so that the file holds no pickle")
    add("--overwrite", action="store_true", help="replace an existing file")
    _add_processes(parser)


def _synthetic(jobs: Any) -> None:
    parser = jobs.add_parser(
        "synthetic",
        help="store synthetic drives as KITTI raw recordings",
        description="Store synthetic drives as KITTI raw recordings. The same command continues them.",
        epilog="Example: monodepth prepare synthetic --out data/kitti_raw_sync --drives 4 --frames 100 --annotated",
    )
    add, flag = parser.add_argument, argparse.BooleanOptionalAction
    add("--out", **_DIR, required=True, help="new folder, or one that this command began")
    add_number(parser, "--drives", 4, "drives, each a scene of its own", whole(1, 100_000))
    add_number(parser, "--frames", 100, "frames per drive")
    add_size(parser, "--size", "of the pictures", (1242, 375))
    add("--seed", type=seed_number, default=0, help="of all scenes (default 0)")
    add("--format", choices=("png", "jpg"), default="png", help="of the pictures (default png)")
    add("--lidar", action=flag, default=True, help="write LiDAR scans (default)")
    add("--annotated", action=flag, default=False, help="write exact depth as 16-bit PNG")
    add("--scene", choices=("road", "corridor", "mixed"), default="road", help="scenes (default road)")
    add("--motion", type=float, default=0.8, metavar="M", help="mean metres per frame (default 0.8)")
    add("--rotation", type=float, default=1.0, metavar="DEG", help="largest angle of the camera (default 1)")
    add_number(parser, "--moving-objects", 0, "moving cars and people per drive", whole(0, 1000))
    add("--standing", type=float, default=0.0, metavar="P", help="share of drives without motion (default 0)")
    add("--split", default="synthetic", metavar="NAME", help="splits/<NAME>/*_files.txt (default synthetic)")


def _video(jobs: Any) -> None:
    parser = jobs.add_parser(
        "video",
        help="films as a folder of frames",
        description="Decode films, drop frames in which the camera stands, cut them into clips where the scene"
        " changes, and report frame rate, motion, parallax, sharpness and a frame gap for training, in print and as a"
        " page with pictures, survey.html. Warn of what usually goes wrong. A film that cannot be decoded is left out"
        " and named. The same command skips finished films and continues the others.",
        epilog="Example: monodepth prepare video drives/ --out data/my_frames",
    )
    add = parser.add_argument
    add("videos", type=Path, nargs="+", metavar="VIDEO", help="films, or folders with films at any depth")
    add("--out", **_DIR, required=True, help="folder of clips: <film>-<number>/<10 digits>.jpg")
    add_number(parser, "--every", 1, "look at every N-th frame only")
    add("--report-only", action="store_true", help="write nothing")
    meaning = "films to decode at a time (default: by cores, memory and number of films)"
    add("--workers", type=whole(1, 1024), metavar="N", help=meaning)


def _miniature(jobs: Any) -> None:
    parser = jobs.add_parser(
        "miniature",
        help="a few made items in the layout of an evaluation set",
        description="Write three rendered pictures with exact depth where the page of an evaluation set looks for"
        " its files, and predictions that are the truth; print the files and the command that scores them, which must"
        " give an AbsRel of 0. Always the same bytes. It shows where the files of the real set belong.",
        epilog="Example: monodepth prepare miniature nyud",
    )
    add = parser.add_argument
    add("name", metavar="PAGE", help="a page of cfg/eval, or any page of a data set: nyud, sintel, kitti_eigen, ...")
    add("--out", **_DIR, help="folder of miniatures, each set in its own folder there (default: miniatures)")


def _add_places(parser: argparse.ArgumentParser, *parts: str) -> None:
    """Add --root, and --depth-root and --hints-root for the `parts` "depth" and "hints"."""
    add = parser.add_argument
    add("--root", metavar="DIR", help="folder that is or contains kitti_raw_sync; default: the usual places")
    for part, name in {"depth": "annotated depth", "hints": "depth hints"}.items():
        if part in parts:
            add(f"--{part}-root", metavar="DIR", help=f"{name}; default: in or beside the raw folder")


def _add_splits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--splits", nargs="+", metavar="NAME", help="only these splits; default: all")
    parser.add_argument("--splits-dir", **_DIR, help="folder of splits; default: in or beside the raw folder")


def _add_processes(parser: argparse.ArgumentParser, meaning: str = "processes (default: cores)") -> None:
    parser.add_argument("--jobs", type=whole(1, 1024), default=usable_cores(), metavar="N", help=meaning)


def num_bytes(text: str) -> int:
    """Read a number of bytes: 256MB, 1.5GB, 400kB. Raises ArgumentTypeError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(k|M|G)?B?", text, re.IGNORECASE)
    value = float(found[1]) * {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}[(found[2] or "").lower()] if found else 0.0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, e.g. 256MB or 1GB")
    return int(value)


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, do the job; return the exit code."""
    args = vars(parse(argv))
    name = args.pop("job")
    job = load_job(f"prepare_{name}")
    doing(f"preparing: {name}")
    try:
        return int(job.run(**args))
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
