"""The table of a suite: a row per data set and alignment, a column per metric; on a terminal, as Markdown and YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.evaluation.places import run_folder
from trainer.evaluation.results import write_result
from trainer.evaluation.suite import Row, Suite
from trainer.metrics.protocol import HEADLINES
from trainer.runtime.files import make_folder, write_text
from trainer.tables.columns import ARROWS, Column, column_of

ABS_REL = next(iter(HEADLINES))
_WIDTH = 60  # characters of a protocol, or of where to get the data


def grid(suite: Suite, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Lay out the rows as text: headings and cells. A metric that no row has gets no column."""
    columns = [key for key in suite.columns if any(number(row, key) is not None for row in rows)]
    shown = {key: next(described for row in rows if (described := _column(row, key))) for key in columns}
    titles = ["set", "images", "protocol", *(f"{c.shown} {ARROWS[c.direction]}".strip() for c in shown.values())]
    if ABS_REL in columns:
        titles.insert(titles.index(next(t for t in titles if t.startswith(shown[ABS_REL].shown))) + 1, "95 %")
    return titles, [_cells(row, columns) for row in rows]


def number(row: Row, key: str) -> float | None:
    """The mean of a metric; AbsRel is a fraction, whichever metric set gave it."""
    mean = row.result.get("mean") or {}
    if key == ABS_REL:
        return next((mean[k] * factor for k, factor in HEADLINES.items() if k in mean), None)
    return mean.get(key)


def protocol_words(row: Row) -> str:
    """Alignment, crop, range of depth and flip."""
    p = row.result["protocol"]
    flip = ", flip" if p["flip_post_processing"] else ""
    return f"{p['alignment']}, crop {p['crop']}, {p['min_depth_m']:g}-{p['max_depth_m']:g} m{flip}"


def show(suite: Suite, rows: Sequence[Row], console: Console) -> None:
    """Print the table, as wide as it is."""
    titles, lines = grid(suite, rows)
    table = Table(title=f"{suite.name}: mean over images")
    for title in titles:
        if title == "protocol":  # or where to get the data, which is long
            table.add_column(title, max_width=_WIDTH)
        else:
            table.add_column(Text(title), no_wrap=True, justify="left" if title == "set" else "right")
    for line in lines:
        table.add_row(*map(Text, line))
    whole = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, whole)
    console.print(table)


def save(
    suite: Suite, rows: Sequence[Row], checkpoint: Path, about: dict[str, Any], limit: int | None = None
) -> list[Path]:
    """Write `<run>/suites/<suite>_<checkpoint>.md` and `.yaml`; `about` the checkpoint. Returns the paths.

    Where a `limit` left out items of a set, `_<limit>items` is in the name, as it is in that of a result. Not to the
    folder of results: a table of a suite is no result. Without a number nothing is written, so that a table of before
    stays. Raises CannotWrite when the disk refuses.
    """
    if not any(row.result for row in rows):
        return []
    part = f"_{limit}items" if any(row.result["protocol"]["limit"] for row in rows if row.result) else ""
    base = run_folder(checkpoint) / "suites" / f"{suite.name}_{checkpoint.stem}{part}"
    markdown, data = Path(f"{base}.md"), Path(f"{base}.yaml")
    make_folder(base.parent)
    write_text(markdown, _markdown(suite, rows, about))
    head = {"suite": suite.name, "page": str(suite.path), "checkpoint": about}
    write_result(data, head, {"sets": [_facts(row) for row in rows]}, width=120)
    return [markdown, data]


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    if not row.result:
        state = f"{row.state}: {row.source}" if row.source else row.state
        return [row.set, "-", state, *("-" for _ in columns), *(["-"] if ABS_REL in columns else [])]
    cells = [row.set, _images(row.result["protocol"]), protocol_words(row)]
    for key in columns:
        value = number(row, key)
        cells.append("-" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}")
        if key == ABS_REL:
            cells.append(_interval(row))
    return cells


def _images(protocol: dict[str, Any]) -> str:
    """The number of images, "2 of 654" where the data set has more: that is not comparable with published numbers."""
    data, items = protocol["dataset"], protocol["items"]
    whole = data.get("native_items") or data["num_items"]
    return str(items) if items + protocol["skipped_without_valid_pixel"] == whole else f"{items} of {whole}"


def _interval(row: Row) -> str:
    """That of AbsRel over scenes where it is known, else over images."""
    known = row.result.get("interval") or {}
    for units in ("scenes", "images"):
        for key, factor in HEADLINES.items():
            if pair := (known.get(units) or {}).get(key):
                return f"{pair[0] * factor:.4f} to {pair[1] * factor:.4f} ({units})"
    return "-"


def _column(row: Row, key: str) -> Column | None:
    return column_of(key, row.result["protocol"]["metrics"]) if number(row, key) is not None else None


def _markdown(suite: Suite, rows: Sequence[Row], about: dict[str, Any]) -> str:
    titles, lines = grid(suite, rows)
    text = [f"# {suite.name}", "", f"{about['file']}, sha256 {about['sha256'][:16]}. Mean over images.", ""]
    text += [f"| {' | '.join(titles)} |", "|---|---:|---|" + "---:|" * (len(titles) - 3)]
    text += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
    for row in (row for row in rows if not row.result):
        text += ["", f"{row.set}, {row.state}: {' '.join(row.reason.split())}"]
    return "\n".join([*text, ""])


def _facts(row: Row) -> dict[str, Any]:
    if not row.result:
        known = {"set": row.set, "state": row.state, "reason": row.reason, "source": row.source}
        return {key: value for key, value in known.items() if value}
    keys = ("mean", "interval", "ratio_to_constant_depth", "factor", "remarks", "protocol")
    return {
        "set": row.set,
        "state": row.state,
        "result": str(row.file),
        **{key: row.result[key] for key in keys if key in row.result},
    }
