"""What a page says about tables and runs, as plain texts for its template."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from trainer.metrics.validation import shown_name
from trainer.tables.aggregate import Table, headline, rank
from trainer.tables.layout import BEST, SECOND, STRUCK, by_seed, decimals_of, grid, head, legend, number, units
from trainer.tables.report.runs import Run, mapping
from trainer.tables.significance import Comparison, flips


def run_row(run: Run) -> dict[str, Any]:
    """One run as a row: its state, where it stands, its best validation."""
    state, best = run.state, run.best()
    ratio = state.constant_ratio if state else None
    beside = f"; AbsRel {ratio:.2f} times that of a constant depth" if isinstance(ratio, float) else ""
    times = [datetime.fromtimestamp(t).astimezone().strftime("%Y-%m-%d %H:%M") for t in _times(run)]
    shares = run.events.points.get("train_health/waiting_share", ())
    return {
        "model": run.model,
        "seed": run.seed,
        "state": state.state if state else "unknown",
        "epochs": f"{_count(state.epoch)} of {mapping(run.config.get('trainer')).get('max_epochs', '?')}"
        if state
        else "-",
        "step": _count(state.step) if state else "-",
        "best": f"{shown_name(run.monitor)} {best[1]:.4g} (step {best[0]}{beside})" if best else "nothing validated",
        "learned": state.learned if state else None,
        "waiting": f"{shares[-1][1]:.0%}" if shares else "-",
        "times": times,
        "host": state.host if state else "-",
    }


def _times(run: Run) -> list[float]:
    return [time for time in (run.events.first, run.events.last) if 0 < time < 1e11]


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def table_view(table: Table, comparisons: Sequence[Comparison], most_rows: int) -> dict[str, Any]:
    """Lay out a table with its protocol, and how sure its order is."""
    column, lines = headline(table), grid(table)
    chosen = [c for c in comparisons if c.column == column]
    others = tuple(f"{c.key}: " for c in table.columns if c != column)
    turned = "{} of {}".format(*flips(table, column)) if column and chosen else ""
    return {
        "title": table.title,
        "head": head(table, "title"),
        "lines": [
            [(cell.text, {BEST: "best", SECOND: "second", STRUCK: "struck"}.get(cell.mark, "")) for cell in line]
            for line in lines[:most_rows]
        ],
        "ranked": len(table.rows),
        "more": max(0, len(lines) - most_rows),
        "legend": _sentence(legend(table, lines, "bold: best", "underlined: second best")),
        "units": _sentence(units(table)),
        "protocol": {k: v for k, v in table.protocol.items() if v},
        "metric": column.title if column else "",
        "seeds": by_seed(table, column) if column and most_rows >= len(table.rows) else None,
        "pairs": [(c.better, c.worse, f"{c.p:.2g}", f"{c.p_holm:.2g}", c.is_noise) for c in chosen[:most_rows]],
        "sure": f"{sum(not c.is_noise for c in chosen)} of {len(chosen)}" if chosen else "",
        "turned": turned,
        "warnings": [w for w in table.warnings if not w.startswith(others)][:most_rows],
        "notes": table.notes[:most_rows],
    }


def leader(tables: Sequence[tuple[Table, Sequence[Comparison]]]) -> dict[str, Any] | None:
    """The best row by the first metric, in words, of the table that says most; None where no table has such a metric.

    That with most configurations, of these the first on all items of its data set.
    """

    def says(one: tuple[Table, Sequence[Comparison]]) -> tuple[bool, int, bool]:
        return headline(one[0]) is not None, len(one[0].rows), " of " not in one[0].protocol.get("items", "")

    table, comparisons = max(tables, key=says, default=(Table({}, [], []), []))
    column = headline(table)
    ranked = rank(table, column) if column else []
    if column is None or not ranked:
        return None
    leads = [c for c in comparisons if c.column == column and c.better == ranked[0].label and c.adjacent]
    return {
        "metric": column.title,
        "value": number(ranked[0].cells[column], decimals_of(table, column)),
        "model": ranked[0].label,
        "of": len(ranked),
        "n": ranked[0].cells[column].n,
        "is_noise": any(c.is_noise for c in leads),
    }


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def environments(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """List what the runs were made with: (key, [(value, the runs that have it), ...]); no runs = all of them."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        about = {"trainer": run.hparams.get("trainer_version"), **mapping(run.hparams.get("environment"))}
        for key, value in about.items():
            if value is not None:
                found.setdefault(str(key), {}).setdefault(str(value), []).append(str(run))
    return [
        (key, [(value, [] if len(names) == len(runs) else names) for value, names in values.items()])
        for key, values in found.items()
    ]


def commands(runs: Sequence[Run], most: int) -> list[tuple[str, str]]:
    """The command that made each run, the first runs only."""
    found = []
    for run in runs[:most]:
        words = run.hparams.get("command")
        if isinstance(words, list) and words:
            found.append(
                (str(run), shlex.join(["monodepth", *map(str, words[1:])] if _is_ours(words) else map(str, words)))
            )
    return found


def _is_ours(words: Sequence[Any]) -> bool:
    """Whether the first word is the path of the console script's module."""
    return str(words[0]).endswith(("trainer/commands/__main__.py", "bin/monodepth"))
