"""A table as cells of text, with spreads and the marks of best and second best, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.metrics import with_unit
from trainer.tables.aggregate import Cell, Row, Table, best_two
from trainer.tables.columns import Column, Names, headings

PLAIN, BEST, SECOND, STRUCK = 0, 1, 2, 3
BLANK = "-"  # no number


@dataclass(frozen=True)
class Text:
    """One cell: its text and its mark, PLAIN, BEST, SECOND or STRUCK."""

    text: str
    mark: int = PLAIN


def decimals_of(table: Table, column: Column, decimals: int | None = None) -> int:
    """Digits after the point: `decimals`, else four where means and spreads are below 1, three below 10, two above."""
    if decimals is not None:
        return decimals
    cells = [row.cells[column] for row in table.all_rows if column in row.cells]
    numbers = [abs(v) for cell in cells for v in (cell.mean, cell.sd) if math.isfinite(v)]
    largest = max(numbers, default=0.0)
    return 4 if largest < 1 else 3 if largest < 10 else 2


def number(cell: Cell | None, digits: int, plus_minus: str = " ± ") -> str:
    """Mean and standard deviation, the mean alone with one seed, BLANK without a number."""
    if cell is None or not math.isfinite(cell.mean):
        return BLANK
    spread = f"{plus_minus}{cell.sd:.{digits}f}" if math.isfinite(cell.sd) else ""
    return f"{cell.mean:.{digits}f}{spread}"


def grid(table: Table, decimals: int | None = None, plus_minus: str = " ± ") -> list[list[Text]]:
    """Lay out the rows of `Table.all_rows`: model, fields in which rows differ, number of seeds, then the metrics."""
    marks = {column: best_two(table, column) for column in table.columns}
    digits = {column: decimals_of(table, column, decimals) for column in table.columns}
    lines = []
    ranked, known = len(table.rows), len(table.rows) + len(table.leaking)
    for i_row, row in enumerate(table.all_rows):
        mixed = (row.shown.get(key, "") for key in mixed_fields(table))
        cells = [Text(text) for text in (row.model, *mixed, seeds(row))]
        for column in table.columns:
            first, second = marks[column] if i_row < ranked else ((), ())
            plain = STRUCK if ranked <= i_row < known else PLAIN
            mark = BEST if row.label in first else SECOND if row.label in second else plain
            cells.append(Text(number(row.cells.get(column), digits[column], plus_minus), mark))
        lines.append(cells)
    return lines


def head(table: Table, names: Names = "key") -> list[str]:
    """Headings for the columns of `grid`; `names` as for `headings`."""
    return ["model", *mixed_fields(table), "n", *headings(table.columns, names=names).values()]


def legend(table: Table, lines: Sequence[Sequence[Text]], best: str, second: str) -> str:
    """Say what the numbers of `grid` are, and its marks, which look like `best` and `second`, if there are any."""
    marked = any(cell.mark in (BEST, SECOND) for line in lines for cell in line)
    several = table.has_spread or any(row.n > 1 for row in (*table.leaking, *table.references))
    what = "mean ± sample standard deviation over n seeds" if several else "1 seed, so no spread is known"
    struck = "; struck through: trained on what it is scored on" * bool(table.leaking)
    return what + f"; {best}, {second}" * marked + struck


def names_of_keys(table: Table) -> str:
    """Which key of result files each name in papers stands for, in one line; "" where they are equal."""
    named = [f"{with_unit(c.title, '')} is {c.key}" for c in table.columns if c.title != c.key]
    return f"keys: {', '.join(named)}" if named else ""


def mixed_fields(table: Table) -> list[str]:
    """Protocol fields in which the rows differ."""
    return list(table.all_rows[0].shown) if table.all_rows else []


def seeds(row: Row) -> str:
    """Number of seeds; a range where metrics have different numbers."""
    counts = {cell.n for cell in row.cells.values()} or {0}
    return str(row.n) if len(counts) == 1 else f"{min(counts)}-{max(counts)}"


def by_seed(table: Table, column: Column, decimals: int | None = None) -> tuple[list[str], list[list[str]]]:
    """One metric seed by seed, and max - min: headings and rows."""
    names = list(dict.fromkeys(seed for row in table.rows for seed in row.seeds))
    digits = decimals_of(table, column, decimals)
    lines = []
    for row in table.rows:
        values = row.cells[column].by_seed if column in row.cells else {}
        known = [v for v in values.values() if math.isfinite(v)]
        each = [f"{values[seed]:.{digits}f}" if seed in values else BLANK for seed in names]
        spread = f"{max(known) - min(known):.{digits}f}" if len(known) > 1 else BLANK
        lines.append([row.label, *each, spread])
    return ["model", *(f"seed {name}" for name in names), "max - min"], lines


def units(table: Table) -> str:
    """The units of the columns in one line, as far as known."""
    known = {c.unit for c in table.columns}
    if len(known) == 1:
        return f"unit: {', '.join(known)}" if any(known) else ""
    return f"units: {', '.join(f'{c.key} {c.unit}' for c in table.columns if c.unit)}"


def markdown(table: Table, column: Column | None, decimals: int | None = None) -> str:
    """Write the table, the seeds of the metric `column`, notes and warnings as a Markdown section."""
    style = {PLAIN: "{}", BEST: "**{}**", SECOND: "<u>{}</u>", STRUCK: "~~{}~~"}
    cells = grid(table, decimals)
    body = [[style[cell.mark].format(_escaped(cell.text)) for cell in line] for line in cells]
    parts = [f"## {table.title}", "", *_pipes([_escaped(h) for h in head(table, "title")], body), ""]
    about = legend(table, cells, "**best**", "<u>second best</u>")
    parts += [f"{about[0].upper()}{about[1:]}.", units(table)]
    if named := [f"{c.title} is `{c.key}`" for c in table.columns if c.title != c.key]:
        parts += [f"Keys: {', '.join(named)}."]
    parts += [f"Images: {table.protocol['images']}."] if "images" in table.protocol else []
    if column is not None and table.has_spread:
        titles, rows = by_seed(table, column, decimals)
        parts += ["", f"### {column.title}, seed by seed", ""]
        parts += _pipes([_escaped(t) for t in titles], [[_escaped(t) for t in row] for row in rows])
    for title, lines in (("Inside the seed noise", table.warnings), ("Notes", table.notes)):
        if lines:
            parts += ["", f"### {title}", "", *(f"- {_escaped(line)}" for line in lines)]
    protocol = [f"{k}: {v}" for k, v in table.protocol.items() if v]
    return "\n".join([*parts, "", f"Protocol: {'; '.join(protocol)}", ""])


def _pipes(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|---|{'---:|' * (len(titles) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")
