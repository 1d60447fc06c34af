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

from trainer.commands.cli import guarded, program
from trainer.commands.jobs import (
    prepare_hints,
    prepare_jpeg,
    prepare_kitti,
    prepare_lmdb,
    prepare_synthetic,
    prepare_targets,
    prepare_video,
)

JOBS = (
    prepare_kitti, prepare_lmdb, prepare_jpeg, prepare_hints, prepare_targets, prepare_synthetic, prepare_video
)  # fmt: skip


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; the result has the function to call as `run` and its arguments."""
    parser = argparse.ArgumentParser(prog=program("prepare"), description="Prepare data.")
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
