"""What the command lines share: configuration arguments, and errors that are shown as sentences."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.commands.output import leave, say


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --cfg-file, --cfg-default, --set and --plugins."""
    add = parser.add_argument
    add(
        "-c",
        "--cfg-file",
        type=Path,
        nargs="+",
        required=True,
        metavar="YAML",
        help="this run; later files win",
    )
    add(
        "-d", "--cfg-default", type=Path, nargs="+", metavar="YAML", help="what it builds on; later files win"
    )
    add(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, e.g. trainer.max_epochs=1 loss.disp_smooth=~",
    )
    add_plugins_argument(parser)


def add_plugins_argument(parser: argparse.ArgumentParser) -> None:
    """Add --plugins, for `trainer.config.plugins.load_plugins`."""
    parser.add_argument(
        "--plugins",
        action="extend",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules of yours that register losses, decoders, datasets or networks: names as for import, looked"
        " up from here and on PYTHONPATH, or .py files",
    )


def is_first_process() -> bool:
    """True on the process that may speak, before Accelerate is there to ask."""
    return os.environ.get("RANK", "0") == "0"


def guarded(main: Callable[..., int]) -> Callable[..., int]:
    """Show a user's mistake as its message alone (exit code 2); let everything else raise.

    Under an elastic launcher the traceback of a process that dies is recorded, so that the launcher prints it. One of
    several processes that have met leaves at once, for the others wait for it.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> int:
        try:
            return main(*args, **kwargs) or 0
        except BaseException as error:
            if not _is_user_error(error):
                raise
            _tell(error)
            return 2

    @functools.wraps(main)
    def leaving(*args: Any, **kwargs: Any) -> int:
        try:
            code = _recorded(run)(*args, **kwargs)
        except Exception as error:
            if not _have_met():
                raise
            sys.excepthook(type(error), error, error.__traceback__)
            code = 1
        if _have_met():
            leave(code)
        return code

    return leaving


def _recorded(run: Callable[..., int]) -> Callable[..., int]:
    """Under an elastic launcher: leave it the traceback of what `run` raises."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return run
    from torch.distributed.elastic.multiprocessing.errors import record

    return lambda *args, **kwargs: 1 if (code := record(run)(*args, **kwargs)) is None else int(code)


def _have_met() -> bool:
    """True while this is one of several processes that exchange data; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def _is_user_error(error: BaseException) -> bool:
    """Tell a UserError without importing torch for a process that never needed it."""
    types = sys.modules.get("trainer.types")
    return types is not None and isinstance(error, types.UserError)


def _tell(error: BaseException) -> None:
    """Print once what all processes run into before they meet, and whatever befalls one of them later."""
    met = _have_met()
    if os.environ.get("LOCAL_RANK", "0") == "0" or met:  # the first of every machine: their disks may differ
        where = f" [process {os.environ['RANK']}]" if met or not is_first_process() else ""
        say(f"error{where}: {error}")
