"""The time from `monodepth train` to the end of its first optimizer step, by parts, in fresh processes."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from trainer.commands import train
from trainer.commands.jobs.measuring import CLOCKS, Times, document, publish, result
from trainer.commands.jobs.timings import read_table
from trainer.runtime.errors import UserError

ONE_STEP = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=0")


def run(args: argparse.Namespace) -> int:
    """Start as often as --rounds says, once more to warm up, and print. Raises UserError when a start fails."""
    times: dict[str, Times] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for i_round in range(args.rounds + 1):
            laps = start(args, Path(scratch), str(i_round))
            for part, seconds in laps.items() if i_round else ():
                for clock, value in zip(CLOCKS, seconds, strict=True):
                    times.setdefault(part, {clock: [] for clock in CLOCKS})[clock].append(value)
    publish(args, document(args, {part: result(of, "s", lambda seconds: seconds) for part, of in times.items()}))
    return 0


def start(args: argparse.Namespace, folder: Path, version: str) -> dict[str, tuple[float, float]]:
    """Train one step in a process of its own; return wall-clock and CPU seconds by part."""
    pages = ["-c", *args.cfg_file, "-d", *args.cfg_default, "-o", folder, "-n", "start", "-v", version]
    changes = [*ONE_STEP, f"trainer.num_threads={args.threads}", *args.set]
    words = [train.__file__, *pages, "-s", args.seed, "--progress", "plain", "--timings", "--set", *changes]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"`monodepth train` ended with {done.returncode}: {last}")
    return read_table(done.stdout)
