"""Many numbers in one: mean rank, and mean improvement over one row. Each number is ranked under its own protocol."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from models_zoo.registry import did_you_mean
from trainer.tables.aggregate import Cell, Row, Table
from trainer.tables.columns import Column
from trainer.types import UserError

RANK = Column("mean rank", direction=-1)
WARNING = "a rank takes every order at its word, those inside the seed noise too"


@dataclass(frozen=True)
class _Number:
    """One metric of one table, of all its rows."""

    name: str
    cells: Sequence[Cell | None]  # one per row
    direction: int
    base: float | None = None  # what improvements are relative to

    @property
    def is_full(self) -> bool:
        return all(cell is not None and math.isfinite(cell.mean) for cell in self.cells)

    def gain(self, value: float) -> float:
        """Improvement over the base, in per cent."""
        base = self.base or math.nan
        return 100 * self.direction * (value - base) / abs(base)


def summarise(tables: Sequence[Table], relative_to: str | None = None) -> list[Table]:
    """Summarise tables of the same rows together: mean rank, and mean improvement over `relative_to` in per cent.

    A number counts when it has a direction and every row has it; what is left out is named. Ties share the mean of
    their ranks. The improvement of a mean v over that of the row, b, is 100 (v - b) / |b|, with the sign turned where
    lower is better; its spread is over seeds, against the mean of that row. Tables of other rows are summarised apart,
    those of one row not at all.

    Args:
        relative_to: label of a row, ranked or published.

    Raises UserError when no table has the row `relative_to`.
    """
    known = {row.label for table in tables for row in (*table.rows, *table.references)}
    if relative_to is not None and relative_to not in known:
        raise UserError(
            f"--relative-to {relative_to}: no table has this row. {did_you_mean(relative_to, known)}"
        )
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
    numbers = [number for i in group for number in _numbers(tables[i], i + 1, relative_to)]
    full = [number for number in numbers if number.is_full]
    notes = [WARNING, *(f"{n.name} does not count: not every row has it" for n in numbers if not n.is_full)]
    columns = {RANK: _mean_ranks(full)} if full else {}
    if relative_to is not None:
        compared = [number for number in full if number.base]
        notes += [f"{n.name} is not compared: {relative_to} has no such number" for n in full if not n.base]
        if compared:
            columns[Column(f"% better than {relative_to}", direction=1)] = _improvements(compared)
    told = f"{len(full)} number{'s'[: len(full) != 1]} of table{'s'[: len(group) > 1]} "
    told += ", ".join(str(i + 1) for i in group)
    rows = [
        Row(row.model, {c: cells[i_row] for c, cells in columns.items()}, row.seeds, row.shown)
        for i_row, row in enumerate(tables[group[0]].rows)
    ]
    return Table({"summary": told}, list(columns), rows, notes=notes)


def _numbers(table: Table, number: int, relative_to: str | None) -> Iterable[_Number]:
    base = next((row for row in (*table.rows, *table.references) if row.label == relative_to), None)
    for column in table.columns:
        if column.direction:
            cell = base.cells.get(column) if base else None
            known = cell.mean if cell and math.isfinite(cell.mean) else None
            cells = [row.cells.get(column) for row in table.rows]
            yield _Number(f"{column.key} of table {number}", cells, column.direction, known)


def _mean_ranks(numbers: Sequence[_Number]) -> list[Cell]:
    """One cell per row; the number of seeds is the least behind any of its ranks."""
    cells = [[cell for cell in number.cells if cell] for number in numbers]
    placed = [ranks([cell.mean for cell in row], n.direction) for row, n in zip(cells, numbers, strict=True)]
    return [
        Cell(statistics.fmean(places), math.nan, min(cell.n for cell in mine))
        for places, mine in zip(zip(*placed, strict=True), zip(*cells, strict=True), strict=True)
    ]


def _improvements(numbers: Sequence[_Number]) -> list[Cell]:
    """One cell per row: the mean over numbers, its spread over the seeds that have all of them."""
    gained = []
    for mine in zip(*([cell for cell in n.cells if cell] for n in numbers), strict=True):
        pairs = list(zip(numbers, mine, strict=True))
        mean = statistics.fmean(n.gain(cell.mean) for n, cell in pairs)
        by_seed = {
            seed: statistics.fmean(n.gain(cell.by_seed.get(seed, math.nan)) for n, cell in pairs)
            for seed in mine[0].by_seed
        }
        gained.append(Cell(mean, Cell.of(by_seed).sd, min(cell.n for cell in mine), by_seed))
    return gained
