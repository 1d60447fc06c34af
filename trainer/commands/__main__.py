"""The console script `monodepth`, one entry to all commands; without installation `python -m trainer.commands`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from models_zoo.registry import did_you_mean
from trainer import __version__
from trainer.commands.cli import Parser, guarded
from trainer.runtime.errors import UserError

COMMANDS = {
    "train": "train networks; the same command continues a stopped run",
    "train-dev": "train for debugging: short epochs, breakpoint() works, results in /tmp",
    "depth-movie": "learn depth from a film of your own and show both side by side",
    "predict": "predict depth of pictures, films, a camera or a stream",
    "evaluate": "score a checkpoint or a file of predictions",
    "calibrate": "measure how depth becomes metres, and keep that in a checkpoint",
    "export": "write the depth network for other programs: ONNX, PyTorch alone, transformers",
    "export-depth": "write the disparities of a data set to an NPZ file",
    "prepare": "check, convert, decode, label or make data, from KITTI to films of your own",
    "sweep": "train, evaluate and tabulate several configurations over several seeds",
    "compare": "compare result files image by image, with a paired test",
    "tables": "average results over seeds into tables and figures",
    "report": "make one HTML page about a run or an experiment",
    "replay": "repeat the step at which a loss became NaN",
    "convert": "turn published weights into a checkpoint",
    "share": "write or push a trained network with a model card",
    "list": "list everything that a YAML file can name",
    "cfg": "list or copy the YAML pages that come with the trainer",
    "launch-file": "print the path of a file for `accelerate launch --config_file`",
    "doctor": "report versions and devices, and try what training needs: for bug reports",
    "schema": "write the JSON schema of the YAML files",
    "bench": "measure how long things take on this machine",
}
MODULES = {"tables": "generate_tables"}  # where the name of a command is not that of its file
ALIASES = {"generate-tables": "tables"}
ADDED = "monodepth.commands"  # entry points with which other packages add commands: docs/extending/index.md

COMPLETION = """\
[ -z "$ZSH_VERSION" ] || { autoload -U +X compinit bashcompinit && compinit && bashcompinit; }
_monodepth() {
  local word="${COMP_WORDS[COMP_CWORD]}" words
  case "$COMP_CWORD,$word,${COMP_WORDS[COMP_CWORD-1]}" in
    1,*) words="@COMMANDS@" ;;
    *,-*,*) words=$("${COMP_WORDS[0]}" "${COMP_WORDS[1]}" --help 2>/dev/null | grep -oe '--[a-z][a-z-]*' | sort -u) ;;
    *,-c | *,-d | *,--cfg-file | *,--cfg-default) words=$("${COMP_WORDS[0]}" cfg list --names 2>/dev/null) ;;
    *,launch-file) words=$("${COMP_WORDS[0]}" launch-file | cut -d' ' -f1) ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _monodepth monodepth"""


def added_commands() -> dict[str, EntryPoint]:
    """Find the commands of other installed packages, by name; they replace none of ours."""
    found = {entry.name: entry for entry in entry_points(group=ADDED)}
    return {name: entry for name, entry in found.items() if name not in (*COMMANDS, *ALIASES)}


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    name = given[0].replace("_", "-") if given else ""
    name = ALIASES.get(name, name)
    added = {} if name in COMMANDS else added_commands()
    listed = {**COMMANDS, **{key: f"of the package {_package(entry)}" for key, entry in added.items()}}
    parser = Parser(
        prog="monodepth",
        description="Train and evaluate monocular depth networks.",
        epilog="commands:\n" + "".join(f"  {name:16} {text}\n" for name, text in listed.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="monodepth COMMAND ...   (monodepth COMMAND --help lists its options)",
    )
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    parser.add_argument("--version", action="version", version=f"monodepth {__version__}")
    parser.add_argument(
        "--completion", action="version", version=COMPLETION.replace("@COMMANDS@", " ".join(listed)),
        help='print the completion of bash and zsh: eval "$(monodepth --completion)" in .bashrc or .zshrc',
    )  # fmt: skip
    parser.parse_args(given[:1])
    if name in added:
        return int(_loaded(name, added[name])(given[1:]))
    if name not in COMMANDS:
        parser.error(f"{given[0]!r} is not a command. {did_you_mean(name, listed)}")
    command = importlib.import_module(f"trainer.commands.{MODULES.get(name, name).replace('-', '_')}")
    return int(command.main(given[1:]))


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value


def _loaded(name: str, entry: EntryPoint) -> Any:
    """Import the function of an added command. Raises UserError with the reason when that fails."""
    try:
        return entry.load()
    except Exception as error:
        raise UserError(
            f"monodepth {name}: {entry.value} of the package {_package(entry)} cannot be imported:"
            f" {type(error).__name__}: {error}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
