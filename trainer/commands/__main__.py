"""The console script `monodepth`, one entry to all commands; without installation `python -m trainer.commands`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from models_zoo.registry import did_you_mean
from trainer.commands.cli import guarded

COMMANDS = {
    "train": "train networks; the same command continues a stopped run",
    "train-dev": "train for debugging: short epochs, breakpoint() works, results in /tmp",
    "evaluate": "score a checkpoint or a file of predictions",
    "export-depth": "write the disparities of a data set to an NPZ file",
    "prepare": "check, convert or derive data: kitti, hints, lmdb, jpeg, targets, synthetic, video",
    "sweep": "train, evaluate and tabulate several configurations over several seeds",
    "generate-tables": "average results over seeds into tables and figures",
    "replay": "repeat the step at which a loss became NaN",
    "convert": "turn published weights into a checkpoint",
    "list": "list everything that a YAML file can name",
    "schema": "write the JSON schema of the YAML files",
    "bench": "time a training step or the loop",
}


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="monodepth",
        description="Train and evaluate monocular depth networks.",
        epilog="commands:\n" + "".join(f"  {name:16} {text}\n" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="monodepth COMMAND ...   (monodepth COMMAND --help lists its options)",
    )
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    given = list(sys.argv[1:] if argv is None else argv)
    name = parser.parse_args(given[:1]).command.replace("_", "-")
    if name not in COMMANDS:
        parser.error(f"{given[0]!r} is not a command. {did_you_mean(name, COMMANDS)}")
    command = importlib.import_module(f"trainer.commands.{name.replace('-', '_')}")
    return int(command.main(given[1:]))


if __name__ == "__main__":
    sys.exit(main())
