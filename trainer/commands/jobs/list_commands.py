"""The reference of all commands as Markdown, from their parsers. Nothing here depends on the version of Python."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from unittest.mock import patch

from trainer.commands.__main__ import COMMANDS, MODULES

HEADING = """\
# Commands

All commands with their options. Written by `monodepth list --commands --out docs/reference/commands.md`: do not edit.
`monodepth COMMAND --help` shows the same in the terminal, `monodepth --completion` prints the completion of bash and
zsh. Every command ends with 0 when all is well, with 1 after a failure, with 2 after a mistake in its options or files,
and with 130 after Ctrl-C. `python -m trainer.commands COMMAND` is the same without the console script.
"""
STANDARD_GROUPS = {"positional arguments", "options", "optional arguments"}  # the last one is Python 3.9's


class _Built(BaseException):
    """Carries a parser out of the command that builds it, past whatever handles exceptions there."""


def parser_of(main: Callable[..., object]) -> argparse.ArgumentParser:
    """Return the parser that the `main` of a command builds, without running the command."""

    def stop(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Built(parser)

    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main([])
        except _Built as built:
            parser: argparse.ArgumentParser = built.args[0]
            return parser
    raise RuntimeError(f"{main.__module__} parses no options")


def module_of(name: str) -> str:
    """Name the module of a command: "train-dev" is "trainer.commands.train_dev"."""
    return f"trainer.commands.{MODULES.get(name, name).replace('-', '_')}"


def as_markdown() -> Iterator[str]:
    """Lay out all commands, line by line."""
    yield from HEADING.splitlines()
    yield from ["", "| command | what it does |", "|---|---|"]
    for name, summary in COMMANDS.items():
        yield f"| [`{name}`](#monodepth-{name}) | {_escaped(summary)} |"
    for name in COMMANDS:
        yield from _section(parser_of(import_module(module_of(name)).main), f"monodepth {name}", 2)


def _section(parser: argparse.ArgumentParser, name: str, level: int) -> Iterator[str]:
    jobs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield from ["", f"{'#' * level} {name}", "", *filter(None, [_escaped(parser.description or "")])]
    if not jobs:
        yield from ["", "```text", _usage(parser, name), "```"]
    if parser.epilog:
        examples = re.sub(r"^Examples?: (.+)", lambda found: f"Example: `{found[1]}`", parser.epilog)
        yield from ["", examples if examples != parser.epilog else _escaped(parser.epilog)]
    for group in parser._action_groups:
        listed = [action for action in group._group_actions if _is_listed(action)]
        if not listed:
            continue
        if group.title not in STANDARD_GROUPS:
            yield from ["", f"Options of {_escaped(group.title or '')}:"]
        kind = "option" if any(action.option_strings for action in listed) else "argument"
        yield from ["", f"| {kind} | value | meaning |", "|---|---|---|"]
        for action in listed:
            yield f"| {_names(action)} | {_value(action)} | {_meaning(parser, action)} |"
    for job in jobs:
        for word, below in job.choices.items():
            yield from _section(below, f"{name} {word}", 3)


def _is_listed(action: argparse.Action) -> bool:
    hidden = isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    return not hidden and action.help != argparse.SUPPRESS


def _usage(parser: argparse.ArgumentParser, name: str) -> str:
    """What must be there: `monodepth evaluate (--ckpt CKPT | --pred-file NPZ) [options]`."""
    exclusive = [group for group in parser._mutually_exclusive_groups if group.required]
    grouped = {id(action) for group in exclusive for action in group._group_actions}
    alone = [action for action in filter(_is_listed, parser._actions) if id(action) not in grouped]
    options = [f"{a.option_strings[-1]} {_shape(a)}".strip() for a in alone if a.option_strings and a.required]
    either = [f"({' | '.join(_call(action) for action in group._group_actions)})" for group in exclusive]
    places = [_shape(action) for action in alone if not action.option_strings]
    more = ["[options]"] if any(a.option_strings and not a.required for a in alone) else []
    return " ".join([name, *places, *either, *options, *more])


def _call(action: argparse.Action) -> str:
    return " ".join(filter(None, [*action.option_strings[-1:], _shape(action)]))


def _shape(action: argparse.Action) -> str:
    """Name the values of an option as a usage line does: `YAML [YAML ...]`; "" for a switch."""
    if action.nargs == 0:
        return ""
    word = action.metavar or (action.dest if not action.option_strings else action.dest.upper())
    words = list(word) if isinstance(word, tuple) else [str(word)]
    if action.choices is not None and action.metavar is None:
        words = ["{" + ",".join(map(str, action.choices)) + "}"]
    one = words[0]
    if isinstance(action.nargs, int):
        return " ".join(words if len(words) > 1 else words * action.nargs)
    return {"?": f"[{one}]", "*": f"[{one} ...]", "+": f"{one} [{one} ...]"}.get(str(action.nargs), one)


def _places(action: argparse.Action) -> str:
    """The name of an argument that is no option; "" for an option."""
    return "" if action.option_strings else str(action.metavar or action.dest)


def _names(action: argparse.Action) -> str:
    return ", ".join(f"`{name}`" for name in action.option_strings or [_places(action)])


def _value(action: argparse.Action) -> str:
    if action.choices is not None:
        return " ".join(f"`{choice}`" for choice in action.choices)
    shape = _shape(action)
    return f"`{shape}`" if shape and shape != _places(action) else ""


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    remarks = ["required"] if action.required and action.option_strings else []
    if "default" not in text and _tells(action.default):
        shown = " ".join(map(str, _listed(action.default)))
        remarks.append(f"default {shown}")
    return _escaped("; ".join(filter(None, [text, *remarks])))


def _tells(default: object) -> bool:
    """Whether a default says something: a switch that is off or a list without entries does not."""
    return default not in (None, False, argparse.SUPPRESS, [], (), "")


def _listed(default: object) -> Iterable[object]:
    return default if isinstance(default, list | tuple) else [default]


def _escaped(text: str) -> str:
    """Keep `<run>` and `|` as they are in a table of Markdown, outside of backquotes."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [part if part.startswith("`") else part.replace("<", "&lt;").replace("*", r"\*") for part in parts]
    return "".join(plain).replace("|", r"\|")
