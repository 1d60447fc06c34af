"""What the commands share: options and their defaults, errors shown as sentences."""

from __future__ import annotations

import argparse
import atexit
import functools
import gc
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from models_zoo.registry import did_you_mean
from trainer.config.foreign_names import advice
from trainer.runtime import files
from trainer.runtime.environment import spin_briefly
from trainer.runtime.errors import UserError, exhausted
from trainer.runtime.processes import is_first_process, parent
from trainer.runtime.streams import (
    breaking_silence,
    doing,
    explain_slowness,
    leave,
    open_closed_streams,
    outliving,
    say,
)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are sentences, without a list of all options, and know the options of other programs."""

    given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        jobs = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        if job := next((choices[word] for choices in jobs for word in self.given if word in choices), None):
            job.error(message)  # argparse leaves options that a job does not know to the parser above it
        lines = [f"{self.prog}: error: {message}", *self._about_jobs(message)]
        own, foreign = self._own_and_foreign()
        stray = [*takewhile(lambda word: not word.startswith("-"), own)] if self._takes_options_alone() else []
        names = [word for word in stray if "=" not in word]
        option = next((name for name in ("--ckpt", "-c") if f" {name}" in message), "")
        if names and option:
            lines.append(f"put {option} in front: {option} {shlex.join(names)}")
        elif option == "-c" and "--set" in self._option_string_actions:
            lines.append("-c names a page: `monodepth cfg list` shows all, -c synthetic/monodepth2_MS is the demo")
        own = [*([option, *names] if names and option else []), *own[len(stray) :]]
        foreign += [f"--{word}" for word in stray if "=" in word]
        hints = advice(foreign, self.prog, self._option_string_actions, own, _refused)
        for_a_person = [hint for hint in hints if not re.match(r"first |use |\S+: not here", hint)]
        if any(re.search(r"[a-z]\.[a-z]", hint) for hint in for_a_person):
            hints.append("(keys with a dot follow --set: --set trainer.max_epochs=20)")
        what = "commands" if jobs or " " not in self.prog else "options"
        self.exit(2, "\n".join([*lines, *hints, f"`{self.prog} --help` lists all {what}\n"]))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}. {did_you_mean(value, action.choices)}")

    def _takes_options_alone(self) -> bool:
        return all(action.option_strings for action in self._actions)

    def _about_jobs(self, message: str) -> list[str]:
        """List the choices where the name of a job is missing."""
        groups = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return [
            f"{name} is one of {', '.join(group.choices)}"
            for group in groups
            if (name := str(group.metavar or group.dest)) in message.partition("are required: ")[2].split(", ")
        ]

    def _own_and_foreign(self) -> tuple[list[str], list[str]]:
        """Split the command line into the options of this parser and others, with the words that follow them."""
        own, foreign, is_own = list[str](), list[str](), True
        for word in self.given:
            if re.match(r"-\D", word):
                name = word.partition("=")[0]
                is_own = any(option.startswith(name) for option in self._option_string_actions)  # may be shortened
            (own if is_own else foreign).append(word)
        return own, foreign


def _refused(setting: str, command: str) -> str:
    from trainer.config import refused

    return str(refused(setting, command))


class Overrides(argparse.Action):
    """Collects the KEY=VALUE words of all `--set`; warns of one that takes back another."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        from trainer.config import override_conflict

        given = list(getattr(namespace, self.dest) or [])
        for later in values:
            found = filter(None, (override_conflict(earlier, later) for earlier in dict.fromkeys(given)))
            if is_first_process():
                for sentence in found:
                    say(f"warning: {sentence}")
            given.append(later)
        setattr(namespace, self.dest, given)


def seed_number(text: str) -> int:
    """Read a seed. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) < 2**63):
        shown = text if len(text) <= 30 else f"{text[:30]} ..."
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2^63 - 1, got {shown!r}")
    return int(text)


def whole(least: int, most: int) -> Callable[[str], int]:
    """Make the `type` of an option that takes whole numbers from `least` to `most`."""

    def number(text: str) -> int:
        value = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(most)) else -1
        if not least <= value <= most:
            shown = text if len(text) <= 30 else f"{text[:30]} ..."
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most:,}, got {shown!r}")
        return value

    return number


positive = whole(1, 1_000_000)
_ANY_SIDE = (1, 99_999)


def size(least: int = _ANY_SIDE[0], most: int = _ANY_SIDE[1], step: int = 1) -> Callable[[str], tuple[int, int]]:
    """Make the `type` of an option that takes a width and a height, 640x192 or 640,192: multiples of `step`."""
    bounds = "" if (least, most) == _ANY_SIDE else f" from {least} to {most:,}"
    rule = f"{bounds}, multiples of {step}," if step > 1 else bounds

    def sides(text: str) -> tuple[int, int]:
        found = re.fullmatch(r"\s*(\d{1,5})\s*[x,]\s*(\d{1,5})\s*", text, re.ASCII | re.IGNORECASE)
        width, height = (int(found[1]), int(found[2])) if found else (-1, -1)
        if not all(least <= side <= most and side % step == 0 for side in (width, height)):
            shown = text if len(text) <= 30 else f"{text[:30]} ..."
            raise argparse.ArgumentTypeError(f"expected width and height{rule} as in 640x192, got {shown!r}")
        return width, height

    return sides


any_size = size()


CHECKPOINT = (
    "a .safetensors file, a run folder (its best checkpoint), a shared folder, or a model on the Hub, user/name"
)
processes = whole(0, 1024)  # as loader.num_workers
_FILES = {"type": Path, "nargs": "+", "metavar": "YAML"}
_WORDS = {"action": "extend", "nargs": "+", "default": []}
_PLUGINS = (
    "your modules that register losses, decoders, datasets or networks: names as for import, searched for here and on"
    " PYTHONPATH, or .py files"
)
_PAGES = "pages (YAML files) of this run, your own or some that `monodepth cfg list` names; later ones win"
_BASE = "what they build on; later ones win (default: the default.yaml beside the first page; -d alone: nothing)"
# Options that several commands have.
_SHARED: dict[str, dict[str, Any]] = {
    "--cfg-file": {**_FILES, "help": _PAGES},
    "--cfg-default": {**_FILES, "nargs": "*", "help": _BASE},
    "--set": {**_WORDS, "action": Overrides, "metavar": "KEY=VALUE", "help": "override a key"},
    "--plugins": {**_WORDS, "metavar": "MODULE", "help": _PLUGINS},
    "--hparams": {"type": Path, "metavar": "YAML", "help": "corrected hparams.yaml, instead of the embedded one"},
    "--seed": {"type": seed_number, "metavar": "N", "default": 42, "help": "seed of everything random (default 42)"},
    "--batch-size": {
        "type": whole(1, 100_000),
        "metavar": "N",
        "help": "images per pass of the network (default %(default)s)",
    },
    "--num-workers": {"type": processes, "metavar": "N", "default": 0, "help": "processes that load items (default 0)"},
}
_SHORT = {"--cfg-file": "-c", "--cfg-default": "-d", "--seed": "-s"}


def add_shared(parser: Any, name: str, **changes: Any) -> None:
    """Add an option of `_SHARED` to a parser or a group of it, with changes to the arguments of `add_argument`."""
    parser.add_argument(*filter(None, (_SHORT.get(name), name)), **{**_SHARED[name], **changes})


def add_number(
    parser: Any, name: str, default: int, meaning: str = "", number: Callable[[str], int] = positive
) -> None:
    """Add an option that takes a whole number; its help is what the number means and the default."""
    shown = f"{meaning} (default {default})" if meaning else f"default {default}"
    parser.add_argument(name, type=number, default=default, metavar="N", help=shown)


def add_size(
    parser: Any,
    name: str,
    meaning: str,
    default: tuple[int, int] | None = None,
    sides: Callable[[str], tuple[int, int]] = any_size,
) -> None:
    """Add an option that takes a width and a height; its help is what is meant and the default, if it is a size."""
    shown = f"{meaning} (default {default[0]}x{default[1]})" if default else meaning
    parser.add_argument(name, type=sides, default=default, metavar="WxH", help=shown)


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Add --profile."""
    traced = "write a trace of N optimizer steps, after some to warm up, to profile/ of the run (torch.profiler)"
    parser.add_argument("--profile", type=whole(1, 1000), metavar="N", help=traced)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --cfg-file, --cfg-default, --set and --plugins."""
    add_shared(parser, "--cfg-file", required=True)
    add_shared(parser, "--cfg-default")
    add_shared(parser, "--set", help="override a key, e.g. trainer.max_epochs=1 loss.disp_smooth=~")
    add_shared(parser, "--plugins")


def fill_in(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in what the pages say where options do not: what they build on, and the folder, name and version of a run.

    Returns the same `args`. Options that a command does not have are left alone.
    """
    from trainer.config import pages

    args.cfg_file = [pages.find_page(page) for page in args.cfg_file]
    implied: dict[str, Any] = {
        "cfg_default": pages.default_beside(args.cfg_file),
        "ckpt_dir": pages.experiment_of(args.cfg_file),
        "name": "+".join(page.stem for page in args.cfg_file),
        "version": str(getattr(args, "seed", "")),
    }
    for key, value in implied.items():
        if getattr(args, key, "") is None:
            setattr(args, key, value)
    return args


def add_checkpoint_arguments(parser: argparse.ArgumentParser, section: str = "") -> None:
    """Add --hparams, --cfg-file, --set and --plugins, for the configuration in a checkpoint; `section` ends a help."""
    add_shared(parser, "--hparams")
    change = f"changes to the embedded configuration, above all its dataset; later files win{section}"
    add_shared(parser, "--cfg-file", default=[], help=change)
    add_shared(parser, "--set", help="change one key of it")
    add_shared(parser, "--plugins")


def write_or_check(text: str, path: Path, check: bool, command: str) -> int:
    """Write a generated file, or with `check` only compare it. Returns 1 when it differs: `command` writes it."""
    if not check:
        files.make_folder(path.parent)
        files.write_text(path, text)
        print(f"wrote {path}")
    elif not os.path.isfile(path) or path.read_text(encoding="utf-8") != text:
        print(f"{path} is out of step with the code. Run: {command}", file=sys.stderr)
        return 1
    return 0


def guarded(main: Callable[..., int]) -> Callable[..., int]:
    """Print a UserError as its message alone and return its exit code, 130 after Ctrl-C; let other errors raise.

    An elastic launcher gets the traceback of a process that dies, and prints it. One of several processes that have met
    leaves at once, because the others wait for it. A reader of the output that has gone (`list | head -1`) is no error;
    a disk that refuses it is one, once the work is done. A command that says nothing for seconds says what it is doing.
    """

    @functools.wraps(main)
    def guarding(*args: Any, **kwargs: Any) -> int:
        spin_briefly()
        parent()  # noted before torch is imported, which takes seconds
        open_closed_streams()
        launcher = _elastic_launcher()
        with outliving() as dropped, breaking_silence():
            try:
                code = main(*args, **kwargs) or 0
            except UserError as error:
                code = _print_error(error)
            except KeyboardInterrupt:
                code = 130
                if is_first_process():
                    say("stopped by Ctrl-C")
            except Exception as error:
                code = 1
                if known := exhausted(error):
                    _print_error(known)
                else:
                    if launcher is not None:
                        launcher.record_exception(error)
                    if not _have_met():
                        raise
                    sys.excepthook(type(error), error, error.__traceback__)
        if dropped and not code:
            say(f"error: the output could not be written: {dropped[0].strerror}. Everything else is done")
            code = 1
        if _have_met():
            leave(code)
        return code

    return guarding


def command(
    parse: Callable[..., argparse.Namespace], job: str, begins: str, *, is_timed: bool = False
) -> Callable[..., int]:
    """Make the `main` of a command: parse options, then import `jobs/<job>.py` and run it. Returns the exit code.

    `job` may name an option, "bench_{what}". `begins` says what the job does before its first output. `is_timed`: its
    speed matters, so a busy machine is remarked on.
    """

    @guarded
    def main(argv: Sequence[str] | None = None) -> int:
        args = parse(argv)
        if is_timed:
            explain_slowness()
        run = load_job(job.format(**vars(args))).run
        doing(begins)
        return int(run(args))

    return main


def load_job(name: str) -> ModuleType:
    """Import `jobs/<name>.py`, and PyTorch with it, without looking for garbage: that takes a fifth of the time.

    What was imported stays, so it is not looked through later either, nor once more when the interpreter ends.
    """
    module = f"trainer.commands.jobs.{name}"
    if module in sys.modules or not gc.isenabled():
        return import_module(module)
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.freeze()
        gc.enable()
        atexit.unregister(gc.freeze)
        atexit.register(gc.freeze)


def _elastic_launcher() -> Any:
    """Return what records an error for an elastic launcher; None when none has started this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    handler = get_error_handler()
    handler.initialize()
    return handler


def _have_met() -> bool:
    """True while this is one of several processes that exchange data; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def _print_error(error: UserError) -> int:
    """Print once what all processes run into before they meet, and everything after that. Returns the exit code."""
    met, local = _have_met(), os.environ.get("LOCAL_RANK", "0")
    if local == "0" or not local.isdecimal() or met:  # the first of every machine: their disks may differ
        where = f" [process {os.environ.get('RANK', '?')}]" if met or not is_first_process() else ""
        say(f"error{where}: {error}")
    return error.exit_code
