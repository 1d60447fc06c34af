"""Train for debugging: a short run with a plain bar and a working `breakpoint()`.

5 epochs of 10 training and 10 validation batches, data loaded in this process, checkpoints in a temporary folder,
scalars at every step.
"""

from __future__ import annotations

import argparse
import bdb
import getpass
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import (
    Parser,
    add_config_arguments,
    add_number,
    add_profile,
    add_shared,
    fill_in,
    guarded,
    load_job,
    processes,
)
from trainer.runtime.processes import is_first_process
from trainer.runtime.streams import say

MODES = ("", "train.", "val.")
EMPTIED = "but train-dev empties its folder at each start; with another -o it continues"
INTERRUPTED = 130  # exit code, as after Ctrl-C


def scratch() -> Path:
    """Return the folder of this user for runs that nobody keeps: several people may share a machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may know the number alone
        user = str(os.getuid())
    return Path(tempfile.gettempdir(), "monodepth_" + re.sub(r"[^\w.-]", "_", user))


SCRATCH = scratch()


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; the settings for debugging precede the user's --set, which win."""
    parser = Parser(prog="monodepth train-dev", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_config_arguments(parser)
    where = "default: a folder of yours under the temporary one, emptied at each start"
    add("-o", "--ckpt-dir", type=Path, default=SCRATCH, metavar="DIR", help=where)
    add("-n", "--name", default="dev", help="default dev")
    add("-v", "--version", default="0", help="default 0")
    add_shared(parser, "--seed")
    add_number(parser, "--epochs", 5)
    add_number(parser, "--batches", 10, "training and validation batches per epoch")
    add_number(parser, "--workers", 0, "loader processes; with 0 breakpoint() works in a dataset", processes)
    add("--grad-norm", action="store_true", help="log the gradient norm of every network, and show that of all")
    add("--timings", action="store_true", help="print the time of each part up to the first optimizer step")
    add_profile(parser)
    add("--detect-anomaly", action="store_true", help="name the operation that produced a NaN (slow)")
    args = fill_in(parser.parse_args(argv))
    args.progress = "tqdm"
    unused = {} if args.workers else {"persistent_workers": "~", "prefetch_factor": "~", "timeout": "0"}
    args.set = [
        f"trainer.max_epochs={args.epochs}",
        f"trainer.limit_train_batches={args.batches}",
        f"trainer.limit_val_batches={args.batches}",
        "trainer.log_every_n_steps=1",
        f"trainer.log_grad_norm={str(args.grad_norm).lower()}",
        f"trainer.detect_anomaly={str(args.detect_anomaly).lower()}",
        *(f"loader.{mode}num_workers={args.workers}" for mode in MODES),
        *(f"loader.{mode}{key}={value}" for mode in MODES for key, value in unused.items()),
        *args.set,
    ]
    return args


def empty(name: str, version: str) -> None:
    """Empty a scratch folder. Raises UserError when a run is using it."""
    from trainer.runtime.rundir import RunDir

    with RunDir(SCRATCH, name, version) as folder:
        for child in folder.path.iterdir():
            if child.is_dir():
                shutil.rmtree(child, ignore_errors=True)
            elif child.name != ".lock":
                child.unlink()


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, empty the scratch folder, train; return the exit code: 130 when the debugger was told to quit."""
    args = parse(argv)
    if is_first_process():
        print(f"folder: {args.ckpt_dir / args.name / args.version}", flush=True)
    if args.ckpt_dir == SCRATCH and is_first_process():
        empty(args.name, args.version)
    job = load_job("train")
    try:
        return int(job.run(args, EMPTIED if args.ckpt_dir == SCRATCH else job.AGAIN))
    except bdb.BdbQuit:
        say("stopped in the debugger")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
