"""Code blocks of the documentation: what they hold, and what is done with them.

A fenced block follows, if need be, a comment on a line of its own: `<!-- run -->` executes it in `make test`,
`<!-- run: long -->` in `make test-docs`, as do blocks without a comment; `<!-- no-run: reason -->` executes it nowhere.
A block of YAML or Python whose first line names a file (`# mean.yaml`) is that file in the folder where the commands of
the page run. Every `monodepth` line is parsed in any case. Generated pages have no blocks of ours.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("catalogue.md", "commands.md", "benchmarks.md")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)(?P<rest>.*)$")
COMMENT = re.compile(r"^ *<!-- (?P<verb>run|no-run)(?:: (?P<why>.+?))? -->$")
EXECUTED = ("sh", "python")  # others are shown, or read as data


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, its text, and the comment above it."""

    page: Path
    line: int  # of its first line of text, from 1
    language: str
    text: str
    verb: str = ""  # "run", "no-run" or "" without a comment
    why: str = ""  # "long" after run, or the reason

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_quick(self) -> bool:
        return self.verb == "run" and not self.why

    @property
    def is_executed(self) -> bool:
        return self.language in EXECUTED and self.verb != "no-run" and not self.file

    @property
    def file(self) -> str:
        """The file that the block is the text of, which its first line names: `# mean.yaml`; "" for none."""
        if self.language not in ("yaml", "python"):
            return ""
        named = re.match(r"# ([\w./-]+\.(?:yaml|py))[\n:, ]", self.text)
        return named[1] if named else ""


def pages() -> list[Path]:
    """README and the pages of docs/ that people write."""
    return [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.name not in GENERATED)]


def blocks_of(page: Path) -> list[Block]:
    """Read the blocks of a page, in order."""
    found, lines, number = [], page.read_text(encoding="utf-8").splitlines(), 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if not opening:
            number += 1
            continue
        comment = COMMENT.match(lines[number - 1]) if number else None
        indent, start = len(opening["indent"]), number + 1
        number = start
        while lines[number].strip() != "```":
            number += 1
        text = "\n".join(line[indent:] for line in lines[start:number]) + "\n"
        found.append(Block(page, start + 1, opening["language"], text, *_said(comment)))
        number += 1
    return found


def _said(comment: re.Match[str] | None) -> tuple[str, str]:
    return (comment["verb"], comment["why"] or "") if comment else ("", "")


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks_of(page)]


def shell_lines(text: str) -> Iterator[str]:
    """Commands of a block, one each: continuations joined, comments and blank lines left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def commands_in(line: str) -> Iterator[list[str]]:
    """Words of each call of a `monodepth` command in a line of shell, without `monodepth` itself.

    Also calls within $(...), behind variables and launchers, and those of a module or a script of launch/.
    """
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from commands_in(inner)
    plain = re.sub(r"\$\{?\w+\}?", "1", re.sub(r"\$\([^()]*\)", "1", line))
    plain = re.sub(r"\b\d>", ">", plain)
    lexer = shlex.shlex(plain, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    call: list[str] | None = None
    skip = False
    for word in lexer:
        if skip:  # the file behind < or >
            skip = False
        elif set(word) <= set("|&;"):
            if call is not None:
                yield call
            call = None
        elif set(word) <= set("<>&"):
            skip = True
        elif call is not None:
            call.append(word)
        elif word == "monodepth" or word == "trainer.commands":
            call = []
        elif script := re.fullmatch(r"(?:trainer\.commands\.|(?:\S*/)?launch/)(\w+?)(?:\.py)?", word):
            call = [script[1].replace("_", "-")]
    if call is not None:
        yield call


def counts(blocks: Iterable[Block]) -> str:
    """One line: how many blocks there are, and what happens to them."""
    told = Counter(map(_fate, blocks))
    reasons = Counter(block.why for block in blocks if _fate(block) == "no-run")
    why = "; ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    lines = sum(len(list(commands_in(line))) for b in blocks if b.language == "sh" for line in shell_lines(b.text))
    return (
        f"{sum(told.values())} code blocks: {told['run']} executed in `make test`, {told['docs']} in `make test-docs`,"
        f" {told['data']} read or shown as text, {told['no-run']} not executed"
        + (f" ({why})" if why else "")
        + f"; {lines} `monodepth` commands parsed"
    )


def _fate(block: Block) -> str:
    if block.language not in EXECUTED or block.file:
        return "data"
    return "no-run" if not block.is_executed else "run" if block.is_quick else "docs"
