"""Boxes, arrows, bars and small pictures as the text of an SVG, legible on white and dark pages and on a phone.

A drawing brings its own background and follows the reader's system, light or dark. It loads nothing.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape, unescape

WIDTH = 480  # of every drawing, in units; shown at `SHOWN` pixels where the page is wide enough
SHOWN, MARGIN, PAD, LINE = 640, 12, 10, 18
NAMES, NOTES, HEADS = 7.3, 6.1, 7.4  # mean width of a letter, by style
KINDS = ("data", "net", "geo", "loss", "plain")  # the colours of boxes
STYLE = """
svg{--card:#fbfcfd;--ink:#1c2530;--soft:#54616e;--line:#8794a1;--plain:#eef1f4;
--data:#dcf1ee;--data-line:#2f8f83;--net:#e3e6fb;--net-line:#5a66c4;
--geo:#fcefd2;--geo-line:#b1801c;--loss:#fbe1e4;--loss-line:#bd5163}
@media(prefers-color-scheme:dark){svg{--card:#1f2530;--ink:#eef2f6;--soft:#b3bec9;--line:#7f8b98;--plain:#2b3340;
--data:#17423f;--data-line:#53b8aa;--net:#2b3166;--net-line:#8f9af0;
--geo:#4a3a15;--geo-line:#d6a846;--loss:#532730;--loss-line:#e28393}}
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink)}
.head{font-weight:650;font-size:14px}.note{fill:var(--soft);font-size:12px}
.name{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.card{fill:var(--card);stroke:var(--line);stroke-opacity:.35}
.way{fill:none;stroke:var(--line);stroke-width:1.8}.tip{fill:var(--line)}.rule{stroke:var(--line);stroke-opacity:.5}
.plain{fill:var(--plain);stroke:var(--line)}
""" + "".join(f".{k}{{fill:var(--{k});stroke:var(--{k}-line)}}.bar-{k}{{fill:var(--{k}-line)}}" for k in KINDS[:-1])


@dataclass(frozen=True)
class Box:
    """A place on a drawing."""

    x: float
    y: float
    w: float
    h: float
    lines: int = 0  # of text

    @property
    def bottom(self) -> float:
        return self.y + self.h

    @property
    def middle(self) -> float:
        return self.x + self.w / 2


@dataclass
class Drawing:
    """A drawing that grows downwards; `y` is where the next thing goes."""

    title: str
    y: float = MARGIN
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        """Write one line, its base at y."""
        how = f'class="{style}" text-anchor="{anchor}" xml:space="preserve"'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" {how}>{escape(words)}</text>')

    def rect(self, x: float, y: float, w: float, h: float, style: str, radius: float = 6) -> Box:
        """Draw a rectangle."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{radius:g}" class="{style}"/>')
        return Box(x, y, w, h)

    def paragraph(self, words: str, x: float = MARGIN, w: float = WIDTH - 2 * MARGIN) -> None:
        """Write a note below what is there, in as many lines as it takes."""
        for line in textwrap.wrap(words, int(w / NOTES)):
            self.text(x, self.y + 12, line, "note")
            self.y += LINE - 2
        self.y += 4

    def box(
        self,
        kind: str,
        head: str,
        rows: Sequence[tuple[str, str]] = (),
        x: float = MARGIN,
        w: float = WIDTH - 2 * MARGIN,
        column: float | None = 0,
        least: int = 0,
    ) -> Box:
        """Draw a titled box at `y`, which stays. Each row is a name and a note.

        column: where notes begin; 0 = below their names, None = beside the longest name.
        least: number of lines that it is made for at least, so that neighbours end alike.
        """
        lines: list[tuple[str, str]] = []
        if column is None:
            column = NAMES * max(len(name) for name, _ in rows) + 8
        for name, note in rows:
            named = textwrap.wrap(name, int((w - 2 * PAD) / NAMES)) or [""]
            noted = textwrap.wrap(note, int((w - 2 * PAD - column) / NOTES)) or [""]
            if column:  # side by side
                lines += [(a, b) for a, b in zip(named + [""] * len(noted), noted + [""] * len(named)) if a or b]  # noqa: B905
            else:
                lines += [(a, "") for a in named if a] + [("", b) for b in noted if b]
        count = max(len(lines), least)
        at = self.rect(x, self.y, w, 2 * PAD + LINE * (count + 1) - 4, kind)
        self.text(x + PAD, self.y + PAD + 11, head, "head")
        for i, (name, note) in enumerate(lines, 1):
            base = self.y + PAD + 11 + i * LINE
            if name:
                self.text(x + PAD, base, name, "name")
            if note:
                self.text(x + PAD + column, base, note, "note")
        return replace(at, lines=count)

    def below(self, *boxes: Box, gap: float = 26) -> None:
        """Go on below the lowest of some boxes."""
        self.y = max(box.bottom for box in boxes) + gap

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw a line through some points, upright or level, with a tip that points down or to the right."""
        path = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
        (x0, _), (x, y) = points[-2:]
        tip = f"M{x:g} {y:g}l-4.5 -8h9z" if x0 == x else f"M{x:g} {y:g}l-8 -4.5v9z"
        self.parts.append(f'<path d="{path}" class="way"/><path d="{tip}" class="tip"/>')

    def picture(self, x: float, y: float, w: float, h: float, data: str) -> Box:
        """Show a picture, given as a data URI."""
        self.parts.append(f'<image x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" href="{data}"/>')
        return Box(x, y, w, h)

    def __str__(self) -> str:
        height = self.y + MARGIN
        size = f'width="{SHOWN}" height="{height * SHOWN / WIDTH:.0f}" viewBox="0 0 {WIDTH} {height:g}"'
        card = f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1:g}" rx="9" class="card"/>'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{escape(self.title)}</title>'
        return "\n".join([head, f"<style>{STYLE}</style>", card, *self.parts, "</svg>\n"])


def words_of(text: str) -> list[str]:
    """List what an SVG says, line by line."""
    return [unescape(line) for line in re.findall(r"<text[^>]*>([^<]*)</text>", text)]
