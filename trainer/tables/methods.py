"""Three rows per method: reported, official weights, trained here. Close rows mean that the chain can be trusted.

Reported numbers that the authors' own weights do not reach are about another protocol; official weights that training
here does not reach are about the training.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainer.tables.aggregate import PUBLISHED, Row, Table
from trainer.tables.results import OFFICIAL

REPORTED, HERE = "reported", "trained here"
ORIGINS = (REPORTED, OFFICIAL, HERE)
_OWN = ("origin", "checkpoint")  # fields in which the rows of a method may differ


def by_method(tables: Sequence[Table]) -> list[Table]:
    """Make a table of methods out of the tables of each protocol; unranked, rows as `Table.references`.

    The rows of a method are called alike: the row of a reference, the checkpoint that `monodepth convert` wrote, the
    folder of our runs. Notes say which of them is missing. A method of references alone has no rows here. Tables
    without a method that has two of the three give none.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Table]] = {}
    for table in tables:
        key = tuple(sorted((k, v) for k, v in table.protocol.items() if k not in _OWN))
        groups.setdefault(key, []).append(table)
    return list(filter(None, map(_joined, groups.values())))


def _joined(group: Sequence[Table]) -> Table | None:
    rows: dict[str, list[Row]] = {}
    for table in group:
        for row in table.rows:
            rows.setdefault(row.model, []).append(_with_origin(row, _origin(table, group)))
    for name in rows:
        published = {id(r): r for table in group for r in table.references if r.model == f"{name}{PUBLISHED}"}
        rows[name] += [_with_origin(row, REPORTED) for row in _distinct(list(published.values()))]
    ordered = {name: sorted(of, key=_place) for name, of in sorted(rows.items())}
    if not any(len({_place(row) for row in of}) > 1 for of in ordered.values()):
        return None
    notes = []
    for name, of in ordered.items():
        missing = [origin for i, origin in enumerate(ORIGINS) if i not in {_place(row) for row in of}]
        notes += [f"{name}: no row of {', '.join(missing)}"] if missing else []
    protocol = {k: v for k, v in group[0].protocol.items() if k not in _OWN}
    columns = list(dict.fromkeys(column for table in group for column in table.columns))
    flat = [row for of in ordered.values() for row in of]
    return Table({**protocol, "rows": "three per method"}, columns, [], references=flat, notes=notes)


def _origin(table: Table, group: Sequence[Table]) -> str:
    """Where the rows of a table come from, with the checkpoint where tables of ours differ in it."""
    if table.protocol.get("origin") == OFFICIAL:
        return OFFICIAL
    checkpoints = {t.protocol.get("checkpoint") for t in group if t.protocol.get("origin") != OFFICIAL}
    return f"{HERE}, {table.protocol.get('checkpoint')}" if len(checkpoints) > 1 else HERE


def _with_origin(row: Row, origin: str) -> Row:
    model = row.model.removesuffix(PUBLISHED)
    return Row(model, row.cells, row.seeds, {"origin": origin, **row.shown})


def _place(row: Row) -> int:
    return next(i for i, origin in enumerate(ORIGINS) if row.shown["origin"].startswith(origin))


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """Rows without repetition: several tables of a group have the same references."""
    kept: list[Row] = []
    for row in rows:
        if not any(row.shown == other.shown and row.cells == other.cells for other in kept):
            kept.append(row)
    return kept
