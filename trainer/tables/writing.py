"""Files of a table: Markdown, LaTeX, and CSV of the means, of every seed and of every pair of models."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.runtime import files
from trainer.tables.aggregate import Table
from trainer.tables.columns import Column
from trainer.tables.latex import latex
from trainer.tables.layout import markdown, mixed_fields
from trainer.tables.significance import Comparison


def file_names(tables: Sequence[Table]) -> list[str]:
    """Name the files of each table; tables of one name are numbered."""
    names = [table.name for table in tables]
    numbers = [names[:i].count(name) + 1 for i, name in enumerate(names)]
    return [f"{n}_{number}" if names.count(n) > 1 else n for n, number in zip(names, numbers, strict=True)]


def write_table(
    table: Table,
    folder: Path,
    name: str,
    comparisons: Iterable[Comparison] = (),
    column: Column | None = None,
    decimals: int | None = None,
) -> list[Path]:
    """Write `<name>.md`, `.tex`, `.csv`, `_seeds.csv` and `_pairs.csv`. Returns the paths.

    Numbers in CSV files have all their digits. Raises CannotWrite when the disk refuses.
    """
    texts = {
        f"{name}.md": markdown(table, column, decimals),
        f"{name}.tex": latex(table, decimals),
        f"{name}.csv": csv_text(wide_rows(table)),
        f"{name}_seeds.csv": csv_text(seed_rows(table)),
        f"{name}_pairs.csv": csv_text(pair_rows(comparisons)),
    }
    files.make_folder(folder)
    for file, text in texts.items():
        if text:
            files.write_text(folder / file, text)
        else:  # no pairs: a file of an earlier call would be wrong
            (folder / file).unlink(missing_ok=True)
    return [folder / file for file, text in texts.items() if text]


def wide_rows(table: Table) -> list[dict[str, Any]]:
    """One row per model: n, then mean and standard deviation of each metric; leaking and published rows last.

    A column `leak` tells leaking rows, where there are any.
    """
    rows = []
    for row in table.all_rows:
        line: dict[str, Any] = {"model": row.model, **row.shown, "n": row.n}
        line |= {"leak": row in table.leaking} if table.leaking else {}
        for column in table.columns:
            cell = row.cells.get(column)
            line[f"{column.key}_mean"] = cell.mean if cell else ""
            line[f"{column.key}_sd"] = cell.sd if cell and math.isfinite(cell.sd) else ""
        rows.append(line)
    return rows


def seed_rows(table: Table) -> list[dict[str, Any]]:
    """One row per model, seed and metric."""
    return [
        {
            "model": row.model,
            **{key: row.shown[key] for key in mixed_fields(table)},
            "seed": seed,
            "metric": column.key,
            "value": value,
            "unit": column.unit,
            "better": {1: "higher", -1: "lower", 0: ""}[column.direction],
        }
        for row in table.rows
        for column, cell in row.cells.items()
        for seed, value in cell.by_seed.items()
    ]


def pair_rows(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """One row per metric and pair of models."""
    return [
        {
            "metric": c.column.key,
            "better": c.better,
            "worse": c.worse,
            "p_welch": c.p,
            "p_holm": c.p_holm,
            "inside_seed_noise": c.is_noise,
        }
        for c in comparisons
    ]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows with the same keys as CSV, keys first; "" without rows."""
    if not rows:
        return ""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
