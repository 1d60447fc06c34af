"""The console script `monodepth`, one entry to all commands; without installation `python -m trainer.commands`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from models_zoo.registry import did_you_mean
from trainer import __version__
from trainer.commands.cli import guarded

COMMANDS = {
    "train": "train networks; the same command continues a stopped run",
    "train-dev": "train for debugging: short epochs, breakpoint() works, results in /tmp",
    "depth-movie": "learn depth from a film of your own and show both side by side",
    "predict": "predict depth of pictures, films, a camera or a stream",
    "evaluate": "score a checkpoint or a file of predictions",
    "calibrate": "measure how depth becomes metres, and keep that in a checkpoint",
    "export": "write the depth network for other programs: ONNX, PyTorch alone, transformers",
    "export-depth": "write the disparities of a data set to an NPZ file",
    "prepare": "check, convert or derive data: kitti, hints, lmdb, jpeg, targets, synthetic, video",
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
    "bench": "time a training step, the loop, predictions or exported networks",
}
MODULES = {"tables": "generate_tables"}  # where the name of a command is not that of its file
ALIASES = {"generate-tables": "tables"}

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
    parser.add_argument("--version", action="version", version=f"monodepth {__version__}")
    parser.add_argument(
        "--completion", action="version", version=COMPLETION.replace("@COMMANDS@", " ".join(COMMANDS)),
        help='print the completion of bash and zsh: eval "$(monodepth --completion)" in .bashrc or .zshrc',
    )  # fmt: skip
    given = list(sys.argv[1:] if argv is None else argv)
    name = parser.parse_args(given[:1]).command.replace("_", "-")
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        parser.error(f"{given[0]!r} is not a command. {did_you_mean(name, COMMANDS)}")
    command = importlib.import_module(f"trainer.commands.{MODULES.get(name, name).replace('-', '_')}")
    return int(command.main(given[1:]))


if __name__ == "__main__":
    sys.exit(main())
