"""Prepare data: look over KITTI, convert it, make depth hints, evaluation targets, synthetic drives, frames of videos.

    prepare kitti check        what is there, what is missing, per split
    prepare lmdb | jpeg        KITTI as LMDB databases; its PNG pictures as JPEG
    prepare hints | targets    depth hints of stereo pairs; ground truth of a split for evaluation
    prepare synthetic | video  synthetic drives as KITTI recordings; a video as a folder of frames

The same command continues what was stopped. Exit code 1: done, but some inputs were missing or broken; they are named.
130: stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: make the project importable without installing it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from launch import (
    _prepare_hints,
    _prepare_jpeg,
    _prepare_kitti,
    _prepare_lmdb,
    _prepare_synthetic,
    _prepare_targets,
    _prepare_video,
)
from launch._cli import guarded

JOBS = (
    _prepare_kitti, _prepare_lmdb, _prepare_jpeg, _prepare_hints, _prepare_targets, _prepare_synthetic, _prepare_video
)  # fmt: skip


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; the result has the function to call as `run` and its arguments."""
    parser = argparse.ArgumentParser(prog="prepare", description="Prepare data.")
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    for job in JOBS:
        job.add_parser(jobs)
    return parser.parse_args(argv)


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, do the job; return the exit code."""
    args = vars(parse(argv))
    args.pop("job")
    try:
        code: int = args.pop("run")(**args)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
