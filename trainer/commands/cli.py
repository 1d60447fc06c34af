"""What the command lines share: configuration arguments, and errors that are shown as sentences."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from trainer.runtime.processes import is_first_process


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
    errors = sys.modules.get("trainer.runtime.errors")
    return errors is not None and isinstance(error, errors.UserError)


def _tell(error: BaseException) -> None:
    """Print once what all processes run into before they meet, and whatever befalls one of them later."""
    met = _have_met()
    if os.environ.get("LOCAL_RANK", "0") == "0" or met:  # the first of every machine: their disks may differ
        where = f" [process {os.environ['RANK']}]" if met or not is_first_process() else ""
        say(f"error{where}: {error}")


class Outliving:
    """A text stream that drops what it cannot write, because nobody reads it any more or its disk is full."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, or nothing; return its length."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def outliving() -> Iterator[None]:
    """Let stdout and stderr drop what they cannot write, until the end of the process, whose exit code they leave."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Outliving(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            _silence_if_broken(stream)


def say(text: str) -> None:
    """Print lines to stderr in one piece: those of two processes do not mix, and a broken stderr changes nothing."""
    Outliving(sys.stderr).write(f"{text}\n")
    _silence_if_broken(sys.stderr)


def leave(code: int) -> NoReturn:
    """End a process of several at once, when everything is saved and closed.

    An ordinary return would free the DDP wrapper, and with it the last hold on the process group, whose destructor
    joins a thread that may be waiting for the interpreter: now and then a rank hung there for ever, its work done, and
    when it had failed, the others waited for it.
    """
    Outliving(sys.stdout).flush()
    Outliving(sys.stderr).flush()
    os._exit(code)


def _silence_if_broken(stream: TextIO) -> None:
    """Point a stream that cannot be written to at nothing: Python flushes it at its end and would exit with 120."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError, ValueError):  # one that is no file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
