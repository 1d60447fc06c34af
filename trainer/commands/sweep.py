"""Train a list of configurations with several seeds, evaluate each run, tabulate all.

    monodepth sweep -c benchmark/garg benchmark/monodepth --seeds 42 195 335 --evaluate eval/kitti_eigen

Runs are <ckpt-dir>/<name of the page>/<seed>, one after the other. The same command continues a stopped sweep and does
only what is missing. Two sweeps started at the same time, on two GPUs say, share the work. `--slurm FILE` writes an
array script instead, one task per run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

# `sweep` starts this file under whatever launcher: import the project that it lies in.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from trainer.commands.cli import Parser, add_config_arguments, command, seed_number, whole

SEEDS = (42, 195, 335)  # of the published benchmark


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="monodepth sweep",
        description="Train every --cfg-file with every seed, evaluate, tabulate. The same command continues a stopped"
        " sweep and does only what is missing.",
        epilog="Example: monodepth sweep -c benchmark/garg benchmark/monodepth --evaluate eval/kitti_eigen",
    )
    add_config_arguments(parser)
    add = parser.add_argument
    where = "folder of the experiment (default models/<folder of the first page>)"
    add("-o", "--ckpt-dir", type=Path, metavar="DIR", help=where)
    add("--seeds", type=seed_number, nargs="+", default=SEEDS, metavar="SEED", help="default 42 195 335")
    default = "the test part of the data trained on"
    add("--evaluate", type=Path, nargs="+", default=[], metavar="YAML", help=f"an evaluation each (default: {default})")
    add("--no-evaluate", action="store_true", help="only train")
    for option, example in (
        ("--evaluate-args", 'more options of monodepth evaluate: "--crop garg --limit 100"'),
        ("--tables-args", 'more options of monodepth tables: "--reference benchmark"'),
        ("--launch", 'launcher of the training: "accelerate launch --config_file $(monodepth launch-file multi_gpu)"'),
    ):
        add(option, type=_quoted, default="", metavar="TEXT", help=example)
    add("--stop-on-failure", action="store_true", help="end with the first run that fails")
    add("--tables-only", action="store_true", help="tabulate the complete runs, list what the others lack")
    add("--dry-run", action="store_true", help="print the missing commands; run nothing")
    add("--slurm", type=Path, metavar="FILE", help="write an sbatch script for an array of all runs; run nothing")
    add(
        "--only",
        type=whole(0, 1_000_000),
        metavar="I",
        help="run I alone, counted from 0, without tables: a task of the array",
    )
    args = parser.parse_args(argv)
    from trainer.config.pages import experiment_of, find_page

    args.cfg_file, args.evaluate = ([find_page(page) for page in named] for named in (args.cfg_file, args.evaluate))
    args.ckpt_dir = args.ckpt_dir or experiment_of(args.cfg_file)
    args.argv = sys.argv[1:] if argv is None else list(argv)
    if len(set(args.seeds)) < len(args.seeds):
        parser.error(f"--seeds: each seed once, got {' '.join(map(str, args.seeds))}")
    return args


def _quoted(text: str) -> str:
    """Check that the text can be split into words as a shell does it."""
    try:
        shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
    return text


main = command(parse, "sweep", "looking for what is left to do")


if __name__ == "__main__":
    sys.exit(main())
