"""One HTML page about runs: curves, tables, pictures, settings, warnings. It holds all it shows and asks for nothing.

`page.html.j2` is the page, `page.css` its looks, `page.js` what a reader can point at and slide. What does not
fit is left out by the rules of `Limits`, and the page says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from trainer.runtime.errors import UserError, listed
from trainer.tables.aggregate import Table
from trainer.tables.report.curves import BOTTOM, CROWD, HEIGHT, LEFT, RIGHT, SAMPLES, WIDTH, Chart, draw, groups_of
from trainer.tables.report.gallery import Gallery, hang
from trainer.tables.report.rendering import MOST_BYTES, render
from trainer.tables.report.runs import Run, watch
from trainer.tables.report.settings import Default, differences
from trainer.tables.report.views import commands, environments, leader, run_row, table_view
from trainer.tables.significance import Comparison

MARK = "monodepth report"  # what made it, in its head
TEMPLATE = "page.html.j2"
COLOURS = 8
SHARES = (1.0, 0.5, 0.2, 0.05, 0.0)  # of Limits, tried in this order

Compared = tuple[Table, Sequence[Comparison]]


class Limits(NamedTuple):
    """What a page may hold."""

    picture_bytes: int = 5_500_000
    points: int = 300_000  # of all curves
    models: int = 24  # configurations in curves and settings
    rows: int = 500  # of a table or list
    charts: int = 80
    tables: int = 40  # of a section

    def shrunk(self, share: float) -> Limits:
        """Take a share of everything; a few of each kind stay."""
        few = (max(8, int(share * number)) for number in self[2:])
        return Limits(int(share * self.picture_bytes), int(share * self.points), *few)


@dataclass(frozen=True)
class Content:
    """What a page is about.

    Args:
        root: the folder of the runs.
        tables: the tables of each section, by its heading, with the comparisons of their rows.
        default_of: what the settings of a run are compared with.
        title: heading; "" = the name of the folder.
        tags: scalars to draw; none = all. most_items: images per sheet, 0 = no pictures.
        remarks: about the tables. notes: what else a reader should know.
    """

    root: Path
    runs: Sequence[Run]
    tables: Mapping[str, Sequence[Compared]]
    default_of: Callable[[Run], Default]
    title: str = ""
    tags: Sequence[str] = ()
    most_items: int = 4
    remarks: Sequence[str] = ()
    notes: Sequence[str] = ()


def make_page(content: Content) -> str:
    """Make the page as HTML text of at most MOST_BYTES: with as large a share of the pictures and curves as fits.

    Raises UserError when even the least of it is larger.
    """
    for share in SHARES:
        html = _render(content, Limits().shrunk(share))
        if len(html.encode()) <= MOST_BYTES:
            return html
    raise UserError(f"{content.root}: its report is larger than {MOST_BYTES / 1e6:g} MB. Choose --models and --seeds")


def _name(content: Content) -> str:
    """Name a folder, and a run by its configuration and version."""
    root = content.root.absolute()
    return f"{root.parent.name}, {root.name}" if [run.path.absolute() for run in content.runs] == [root] else root.name


def _render(content: Content, limits: Limits) -> str:
    return render(
        TEMPLATE,
        styles=("page.css",),
        scripts=("page.js",),
        **_facts(content, limits),
        title=content.title or _name(content),
        root=content.root,
        mark=MARK,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        size=(WIDTH, HEIGHT),
        plot=(LEFT, RIGHT, BOTTOM),
        colours=COLOURS,
        rows=limits.rows,
    )


def _facts(content: Content, limits: Limits) -> dict[str, Any]:
    """What the template shows, within limits."""
    runs, tables, rows = content.runs, content.tables, limits.rows
    models = list(dict.fromkeys(run.model for run in runs))
    drawn = [run for run in runs if run.model in models[: limits.models]]
    sections, left_out = charts(drawn, content.tags, limits)
    gallery = hang(runs, limits.picture_bytes, content.most_items) if content.most_items else Gallery()
    left_out += [f"pictures of {listed(gallery.left_out, 5)}"] * bool(gallery.left_out)
    for number, total, what in (
        (limits.models, len(models), "configurations in curves and settings"),
        (rows, len(runs), "runs in the table"),
        (limits.tables, max(map(len, tables.values()), default=0), "tables of results"),
    ):
        left_out += [f"{total - number} of {total} {what}"] * (total > number)
    return {
        "models": models[: limits.models],
        "states": Counter(run.state.state if run.state else "unknown" for run in runs),
        "runs": [run_row(run) for run in runs[:rows]],
        "num_runs": len(runs),
        "num_models": len(models),
        "single": [model for model, count in Counter(run.model for run in runs).items() if count == 1],
        "charts": sections,
        "is_crowded": min(len(models), limits.models) > CROWD,
        "tables": {
            title: [table_view(*one, rows) for one in some[: limits.tables]] for title, some in tables.items() if some
        },
        "leaders": {title: lead for title, some in tables.items() if (lead := leader(some))},
        "remarks": content.remarks,
        "gallery": gallery,
        "most_items": content.most_items,
        "settings": differences(drawn, content.default_of),
        "warnings": [(str(run), step, text) for run in runs for step, text in watch(run)][:rows],
        "environments": environments(drawn),
        "commands": commands(drawn, limits.models),
        "notes": [*content.notes, *(f"{run}: {problem}" for run in runs for problem in run.problems)][:rows],
        "left_out": left_out,
    }


def charts(runs: Sequence[Run], tags: Sequence[str], limits: Limits) -> tuple[dict[str, list[Chart]], list[str]]:
    """Draw the curves of the runs, by section; also say what was left out."""
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        curves.setdefault(run.model, []).append(run.events.curves)
    known = {tag for seeds in curves.values() for seed in seeds for tag in seed}
    monitor = Counter(run.monitor for run in runs).most_common(1)[0][0]
    groups = groups_of(sorted(known), monitor, tags)
    wanted = [(title, pair) for title, pairs in groups.items() for pair in pairs]
    per_chart = sum(6 + (len(seeds) if len(curves) <= CROWD else 0) for seeds in curves.values())  # 6: mean, band, data
    lines = per_chart * min(len(wanted), limits.charts)
    samples = max(10, min(SAMPLES, limits.points // max(lines, 1)))
    drawn: dict[str, list[Chart]] = {}
    for title, (tag, train) in wanted[: limits.charts]:
        if chart := draw(tag, train, curves, samples):
            drawn.setdefault(title, []).append(chart)
    lost = len(wanted) - limits.charts
    return drawn, [f"curves of {lost} scalars"] * (lost > 0)
