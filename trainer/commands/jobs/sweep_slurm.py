"""A sweep as an array script for SLURM."""

from __future__ import annotations

import argparse
import shlex
import string
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.runtime import files

TEMPLATE = Path(__file__).with_name("sweep_array.sbatch.in")


def write_script(args: argparse.Namespace, labels: Sequence[str]) -> None:
    """Write the script to `args.slurm`, one task for each label, and make the folder of its logs."""
    logs = args.ckpt_dir / "slurm"
    files.make_folder(logs)
    files.make_folder(args.slurm.absolute().parent)
    sweep = command_line(args)
    tables = [*sweep, *([f"--tables-args={args.tables_args}"] if args.tables_args else []), "--tables-only"]
    output = str(logs.absolute()).replace("%", "%%") + "/%A_%a.log"
    text = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        file=shlex.quote(str(args.slurm)),
        name=shlex.quote(args.slurm.stem),
        last=len(labels) - 1,
        output=shlex.quote(output),
        cwd=shlex.quote(str(Path.cwd())),
        sweep=shlex.join(sweep),
        table=shlex.join(tables),
        tasks="\n".join(f"#   {i_task}: {label}" for i_task, label in enumerate(labels)),
    )
    files.write_text(args.slurm, text)
    print(f"wrote {args.slurm}: {len(labels)} tasks. Start them: sbatch {shlex.quote(str(args.slurm))}")


def command_line(args: argparse.Namespace) -> list[str]:
    """The command of this sweep, from its parsed arguments."""
    lists = {
        "-c": args.cfg_file,
        "-d": args.cfg_default,
        "--set": args.set,
        "--plugins": args.plugins,
        "-o": [args.ckpt_dir],
        "--seeds": args.seeds,
        "--evaluate": args.evaluate,
    }
    command = [sys.executable, str(TEMPLATE.parents[1] / "sweep.py")]
    for option, values in lists.items():
        command += [option, *map(str, values)] if values else []
    for option, text in {"--evaluate-args": args.evaluate_args, "--launch": args.launch}.items():
        command += [f"{option}={text}"] if text else []
    return command + (["--no-evaluate"] if args.no_evaluate else [])
