"""The tables "What goes wrong" quote what the program prints: each quotation shares a text with the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.world import ROOT

HEADING = "\n## What goes wrong\n"
LEAST = 12  # characters that a quotation and a text of the program must share in one piece
PAGES = [page for page in sorted((ROOT / "docs/tasks").glob("*.md")) if HEADING in page.read_text(encoding="utf-8")]


@cache
def texts() -> str:
    """Constant pieces of all strings in the sources, a line each."""
    found: set[str] = set()
    for path in (p for package in ("trainer", "models_zoo") for p in (ROOT / package).rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return "\n".join(text.replace("`", "") for text in found if len(text) >= LEAST)


def quotations(text: str) -> Iterator[str]:
    """Texts in backquotes in the first column of the tables of a section, without the command names inside."""
    section = text.split(HEADING, 1)[1].split("\n## ", 1)[0]
    for row in (line for line in section.splitlines() if line.startswith("| ")):
        first = re.split(r"(?<!\\)\|", row)[1].replace(r"\|", "|")
        yield from (quoted for quoted in re.findall(r"`([^`]+)`", first) if len(quoted) >= LEAST)


def is_printed(quoted: str) -> bool:
    return any(quoted[i : i + LEAST] in texts() for i in range(len(quoted) - LEAST + 1))


def test_what_nobody_prints_is_noticed() -> None:
    assert is_printed("loss.img_recom is not a loss. Did you mean 'img_recon'?")
    assert not is_printed("flux capacitors hum quietly")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_quoted_messages_exist(page: Path) -> None:
    quoted = list(quotations(page.read_text(encoding="utf-8")))
    assert quoted
    assert [text for text in quoted if not is_printed(text)] == []
