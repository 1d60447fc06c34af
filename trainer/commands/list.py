"""List what YAML files can name: networks, decoders, losses, data sets and more, with arguments and sources.

python launch/list.py                       everything
python launch/list.py losses                one chapter
python launch/list.py loss.disp_smooth      one entry; `disp_smooth` alone finds it, too
python launch/list.py --out docs/catalogue.md            writes everything as Markdown
python launch/list.py --out docs/catalogue.md --check    fails when that file is out of step with the code
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands.cli import add_plugins_argument, guarded, program, write_or_check

if TYPE_CHECKING:
    from trainer.config.catalogue import Chapter, Entry
    from trainer.config.fields import Field

NARROWEST, WIDEST = 80, 120  # columns
COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "catalogue.md"
HEADING = """\
# Catalogue

Everything that a YAML file can name. Written by `python launch/list.py --out docs/catalogue.md`: do not edit.
`python launch/list.py <name>` shows one entry in the terminal; with `--plugins` it shows yours (plugins.md).
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=program("list"),
        description="List what YAML files can name, with arguments, defaults and sources.",
        epilog="Example: list losses; list img_recon --plugins my_module",
    )
    add = parser.add_argument
    add(
        "what", nargs="*", help="chapters (losses) or entries (loss.img_recon, img_recon); default everything"
    )
    add_plugins_argument(parser)
    add("--markdown", action="store_true", help="print Markdown")
    add("--out", type=Path, metavar="MD", help="write Markdown to this file")
    add(
        "--check",
        action="store_true",
        help="write nothing; fail when --out (default docs/catalogue.md) is out of step",
    )
    args = parser.parse_args(argv)
    out = args.out or (COMMITTED if args.check else None)
    if out is not None and out.resolve() == COMMITTED and (args.what or args.plugins):
        parser.error(
            "docs/catalogue.md holds everything, and nothing of plugins: write to another file with --out"
        )
    return args


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Print, write or check the catalogue; return the exit code: 1 when `--check` finds a difference."""
    args = parse(argv)
    from trainer.config.catalogue import catalogue, select
    from trainer.config.plugins import load_plugins

    load_plugins(args.plugins)
    chapters = select(catalogue(), args.what)
    if not (args.markdown or args.out or args.check):
        width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
        print("\n".join(as_text(chapters, width)))
        return 0
    text = "\n".join(as_markdown(chapters)) + "\n"
    out: Path = args.out or COMMITTED
    if args.out or args.check:
        return write_or_check(text, out, args.check, f"python launch/list.py --out {out}")
    print(text, end="")
    return 0


def as_text(chapters: Sequence[Chapter], width: int) -> Iterator[str]:
    """Lay out chapters for a terminal, line by line, none wider than `width` where words allow."""
    from trainer.config.catalogue import common_fields

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
    from trainer.config.catalogue import common_fields

    yield from HEADING.splitlines()
    for chapter in chapters:
        yield from ["", f"## {chapter.titles[0].capitalize()}", "", _sentence(chapter.intro)]
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
    from trainer.config.catalogue import default_of

    column = max(map(len, fields), default=0) + 2
    for name, field in fields.items():
        required = default_of(field)
        default = required if required == "required" else f"default {required}"
        meaning = f"{field.doc.rstrip('.')} " if field.doc else ""
        first = f"    {name:<{column}}"
        yield from _wrapped(f"{meaning}[{field.expected()}; {default}]", width, first, " " * len(first))


def _arguments_markdown(fields: Mapping[str, Field]) -> Iterator[str]:
    from trainer.config.catalogue import default_of

    if fields:
        yield from ["", "| argument | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        cells = (f"`{name}`", field.expected(), default_of(field), field.doc.rstrip("."))
        yield f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _wrapped(text: str, width: int, first: str, then: str | None = None) -> list[str]:
    indent = first if then is None else then
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("**", r"\*\*")


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _linked(source: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[\g<0>](https://arxiv.org/abs/\1)", source)


if __name__ == "__main__":
    sys.exit(main())
