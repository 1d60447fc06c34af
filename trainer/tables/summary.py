"""Mean rank, and mean improvement over one row, over many numbers, each ranked under its own protocol."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from models_zoo.registry import did_you_mean
from trainer.runtime.errors import UserError
from trainer.tables.aggregate import Cell, Row, Table
from trainer.tables.columns import Column

RANK = Column("mean rank", direction=-1)
WARNING = "ranks count every order, those inside the seed noise too"


@dataclass(frozen=True)
class _Number:
    """One metric of one table."""

    name: str
    cells: Sequence[Cell]  # one per row
    direction: int
    base: float  # what improvements are relative to; NaN without

    def gain(self, value: float) -> float:
        """Improvement over the base, in per cent."""
        return 100 * self.direction * (value - self.base) / abs(self.base)


def summarise(tables: Sequence[Table], relative_to: str | None = None) -> list[Table]:
    """Summarise tables of the same rows together: mean rank, and mean improvement over `relative_to` in per cent.

    A number counts when it has a direction and every row has it; notes name the others. Ties share the mean of their
    ranks. The improvement of a mean v over that of the row, b, is 100 (v - b) / |b|, with the sign turned where lower
    is better; its spread is over seeds, against the mean of that row. Tables of other rows have summaries of their own,
    those of one row none.

    Raises UserError when no table has the row with the label `relative_to`, ranked or published.
    """
    known = {row.label for table in tables for row in (*table.rows, *table.references)}
    if relative_to is not None and relative_to not in known:
        raise UserError(f"--relative-to {relative_to}: no table has this row. {did_you_mean(relative_to, known)}")
    groups: dict[tuple[str, ...], list[int]] = {}
    for i_table, table in enumerate(tables):
        if len(table.rows) > 1:
            groups.setdefault(tuple(row.label for row in table.rows), []).append(i_table)
    return [_summary(tables, group, relative_to) for group in groups.values()]


def ranks(values: Sequence[float], direction: int) -> list[float]:
    """Rank values from 1, the best; equal ones share the mean of their places.

    >>> ranks([0.1, 0.3, 0.1, 0.2], -1)
    [1.5, 4.0, 1.5, 3.0]
    """
    better = [sum(direction * other > direction * value for other in values) for value in values]
    return [b + (1 + values.count(value)) / 2 for b, value in zip(better, values, strict=True)]


def _summary(tables: Sequence[Table], group: Sequence[int], relative_to: str | None) -> Table:
    notes = [WARNING]
    numbers = [number for i in group for number in _numbers(tables[i], i + 1, relative_to, notes)]
    columns = {RANK: _mean_ranks(numbers)} if numbers else {}
    if relative_to is not None:
        compared = [number for number in numbers if abs(number.base) > 0]  # and not NaN
        left = [number.name for number in numbers if number not in compared]
        notes += [f"{name} is not compared: {relative_to} has 0 or none" for name in left]
        if compared:
            columns[Column(f"% better than {relative_to}", direction=1)] = _improvements(compared)
    notes += [f"table {i + 1}: {tables[i].title}" for i in group]  # a file of the summary stands alone
    summarised = f"{len(numbers)} number{'s'[: len(numbers) != 1]} of table{'s'[: len(group) > 1]} "
    summarised += ", ".join(str(i + 1) for i in group)
    rows = [
        Row(row.model, {c: cells[i_row] for c, cells in columns.items()}, row.seeds, row.shown)
        for i_row, row in enumerate(tables[group[0]].rows)
    ]
    return Table({"summary": summarised}, list(columns), rows, notes=notes)


def _numbers(table: Table, number: int, relative_to: str | None, notes: list[str]) -> Iterable[_Number]:
    """Yield the metrics that every row has; add the others to `notes`."""
    base = next((row for row in (*table.rows, *table.references) if row.label == relative_to), None)
    for column in table.columns:
        if not column.direction:
            continue
        name = f"{column.key} of table {number}"
        cells = [cell for row in table.rows if (cell := row.cells.get(column)) and math.isfinite(cell.mean)]
        if len(cells) < len(table.rows):
            notes.append(f"{name} does not count: not every row has it")
            continue
        known = base.cells.get(column) if base else None
        yield _Number(name, cells, column.direction, known.mean if known else math.nan)


def _mean_ranks(numbers: Sequence[_Number]) -> list[Cell]:
    """One cell per row; the number of seeds is the least behind any of its ranks."""
    placed = [ranks([cell.mean for cell in n.cells], n.direction) for n in numbers]
    return [
        Cell(statistics.fmean(places), math.nan, min(n.cells[i_row].n for n in numbers))
        for i_row, places in enumerate(zip(*placed, strict=True))
    ]


def _improvements(numbers: Sequence[_Number]) -> list[Cell]:
    """One cell per row: the mean over numbers, its spread over the seeds that have all of them."""
    gained = []
    for i_row, first in enumerate(numbers[0].cells):
        pairs = [(n, n.cells[i_row]) for n in numbers]
        mean = statistics.fmean(n.gain(cell.mean) for n, cell in pairs)
        by_seed = {
            seed: statistics.fmean(n.gain(cell.by_seed.get(seed, math.nan)) for n, cell in pairs)
            for seed in first.by_seed
        }
        gained.append(Cell(mean, Cell.of(by_seed).sd, min(cell.n for _, cell in pairs), by_seed))
    return gained
