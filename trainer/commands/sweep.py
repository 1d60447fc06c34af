"""Train a list of configurations with several seeds, evaluate each run, tabulate all.

    sweep -c cfg/benchmark/garg.yaml cfg/benchmark/monodepth.yaml -d cfg/benchmark/default.yaml -o models/benchmark \
          --seeds 42 195 335 --evaluate cfg/eval/kitti_eigen.yaml

Runs are <ckpt-dir>/<stem of the YAML>/<seed>, one after the other. The same command continues a stopped sweep and does
only what is missing. Two sweeps started at the same time, on two GPUs say, share the work. `--slurm FILE` writes an
array script instead, one task per run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a file by a task of an array: find the project that it lies in
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from trainer.commands.cli import add_config_arguments, guarded, program

SEEDS = (42, 195, 335)  # of the published benchmark


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=program("sweep"),
        description="Train every --cfg-file with every seed, evaluate, tabulate. The same command continues a stopped"
        " sweep and does only what is missing.",
        epilog="Example: sweep -c cfg/benchmark/garg.yaml cfg/benchmark/monodepth.yaml -d cfg/benchmark/default.yaml"
        " -o models/benchmark --evaluate cfg/eval/kitti_eigen.yaml",
    )
    add_config_arguments(parser)
    add = parser.add_argument
    add("-o", "--ckpt-dir", type=Path, required=True, metavar="DIR", help="folder of the experiment")
    add("--seeds", type=int, nargs="+", default=list(SEEDS), metavar="SEED", help="default 42 195 335")
    add(
        "--evaluate",
        type=Path,
        nargs="+",
        default=[],
        metavar="YAML",
        help="evaluations, one per file (default: the test part of the data trained on)",
    )
    add("--no-evaluate", action="store_true", help="only train")
    add(
        "--evaluate-args",
        type=_quoted,
        default="",
        metavar="TEXT",
        help='more options of evaluate: "--crop garg --limit 100"',
    )
    add(
        "--tables-args",
        type=_quoted,
        default="",
        metavar="TEXT",
        help='more options of generate_tables: "--reference benchmark"',
    )
    add(
        "--launch",
        type=_quoted,
        default="",
        metavar="COMMAND",
        help='put before launch/train.py: "accelerate launch --config_file launch/accelerate/multi_gpu.yaml"',
    )
    add("--stop-on-failure", action="store_true", help="do not go on to the next run when one fails")
    add(
        "--tables-only",
        action="store_true",
        help="tabulate the complete runs, list what the others lack; train and evaluate nothing",
    )
    add("--dry-run", action="store_true", help="print what is missing as commands; do nothing")
    add(
        "--slurm",
        type=Path,
        metavar="FILE",
        help="write an sbatch script for an array of all runs; do nothing else",
    )
    add(
        "--only",
        type=int,
        metavar="I",
        help="do only run I, counted from 0, without tables: a task of the array of --slurm",
    )
    args = parser.parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else list(argv)
    if len(set(args.seeds)) < len(args.seeds):
        parser.error(f"--seeds: each seed once, got {' '.join(map(str, args.seeds))}")
    return args


def _quoted(text: str) -> str:
    """A text that a shell could split into words."""
    try:
        shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
    return text


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, train, evaluate, tabulate; return 0, 1 when something failed, or 128 + signal."""
    args = parse(argv)
    from trainer.commands.jobs.sweep import run

    return run(args)


if __name__ == "__main__":
    sys.exit(main())
