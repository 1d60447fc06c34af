"""The catalogue of what YAML files can name, as text and as Markdown."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from trainer.commands.cli import write_or_check
from trainer.commands.jobs import list_commands
from trainer.config.catalogue import Chapter, Entry, catalogue, common_fields, default_of, select
from trainer.config.fields import Field
from trainer.config.plugins import load_plugins

NARROWEST, WIDEST = 80, 120  # columns
HEADING = """\
# Catalogue

Everything that a YAML file can name. Written by `monodepth list --out docs/reference/catalogue.md`: do not edit.
`monodepth list <name>` shows one entry in the terminal; with `--plugins` it shows [yours](../extending/index.md).
"""


def run(args: argparse.Namespace) -> int:
    """Print the catalogue, write it to `args.out`, or check that file; return 1 when it differs."""
    if args.commands:
        return _commands(args)
    load_plugins(args.plugins)
    chapters = select(catalogue(), args.what)
    if args.out:
        text = "\n".join(as_markdown(chapters)) + "\n"
        return write_or_check(text, args.out, args.check, f"monodepth list --out {args.out}")
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    print("\n".join(as_markdown(chapters) if args.markdown else as_text(chapters, width)))
    return 0


def _commands(args: argparse.Namespace) -> int:
    text = "\n".join(list_commands.as_markdown()) + "\n"
    if args.out:
        return write_or_check(text, args.out, args.check, f"monodepth list --commands --out {args.out}")
    print(text, end="")
    return 0


def as_text(chapters: Sequence[Chapter], width: int) -> Iterator[str]:
    """Lay out chapters for a terminal, line by line, none wider than `width` where words allow."""
    for number, chapter in enumerate(chapters):
        if number:
            yield ""
        yield chapter.titles[0].upper()
        yield from _wrapped(chapter.intro.replace("`", ""), width, "  ")
        common = common_fields(chapter.entries)
        if common:
            yield from ["", "  all of them take"]
            yield from _arguments_text(common, width)
        for entry in chapter.entries:
            yield from ["", f"  {entry.key}"]
            yield from _wrapped(entry.summary, width, "    ")
            for name, text in {"source": entry.source or "none", **entry.facts}.items():
                yield from _wrapped(text, width, f"    {name + ':':<9} ", " " * 14)
            yield from _arguments_text(_own(entry, common), width)


def as_markdown(chapters: Sequence[Chapter]) -> Iterator[str]:
    """Lay out chapters as Markdown, line by line."""
    yield from HEADING.splitlines()
    for chapter in chapters:
        yield from ["", f"## {chapter.titles[0].capitalize()}", "", f"{chapter.intro.removesuffix('.')}."]
        common = common_fields(chapter.entries)
        if common:
            yield from ["", "All of them take", *_arguments_markdown(common)]
        for entry in chapter.entries:
            yield from ["", f"### `{entry.key}`", "", _escaped(entry.summary), ""]
            yield f"- source: {_linked(entry.source or 'none')}"
            yield from (f"- {name}: {text}" for name, text in entry.facts.items())
            yield from _arguments_markdown(_own(entry, common))


def _own(entry: Entry, common: Iterable[str]) -> dict[str, Field]:
    return {name: field for name, field in entry.fields.items() if name not in common}


def _arguments_text(fields: Mapping[str, Field], width: int) -> Iterator[str]:
    column = max(map(len, fields), default=0) + 2
    for name, field in fields.items():
        default = default_of(field)
        default = default if default == "required" else f"default {default}"
        meaning = f"{field.doc.rstrip('.')} " if field.doc else ""
        first = f"    {name:<{column}}"
        yield from _wrapped(f"{meaning}[{field.expected()}; {default}]", width, first, " " * len(first))


def _arguments_markdown(fields: Mapping[str, Field]) -> Iterator[str]:
    if fields:
        yield from ["", "| argument | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        cells = (f"`{name}`", field.expected(), default_of(field), field.doc.rstrip("."))
        yield f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _wrapped(text: str, width: int, first: str, then: str | None = None) -> list[str]:
    lines = textwrap.TextWrapper(width, first, break_long_words=False, break_on_hyphens=False)
    lines.subsequent_indent = first if then is None else then
    return lines.wrap(text)


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("**", r"\*\*")


def _linked(source: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[\g<0>](https://arxiv.org/abs/\1)", source)
