"""Group results into tables: one per protocol, one row per model, mean and standard deviation over its seeds."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from models_zoo.registry import did_you_mean
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import RunDir
from trainer.tables.columns import Column
from trainer.tables.results import OFFICIAL, Result

PUBLISHED = " (published)"  # ending of the name of a row that is not ours


@dataclass(frozen=True)
class Cell:
    """One metric of one model over its seeds. A seed whose value is not finite does not count."""

    mean: float
    sd: float  # sample standard deviation; NaN with fewer than two seeds
    n: int
    by_seed: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, by_seed: Mapping[str, float]) -> Cell:
        """Average the finite values of the seeds; NaN without any."""
        known = [v for v in by_seed.values() if math.isfinite(v)]
        mean = statistics.fmean(known) if known else math.nan
        sd = statistics.stdev(known) if len(known) > 1 else math.nan
        return cls(mean, sd, len(known), by_seed)


@dataclass(frozen=True)
class Row:
    """One model."""

    model: str
    cells: Mapping[Column, Cell]
    seeds: tuple[str, ...] = ()
    shown: Mapping[str, str] = field(default_factory=dict)  # protocol fields in which rows may differ

    @property
    def label(self) -> str:
        """The model, with the fields in which its rows differ."""
        shown = ", ".join(filter(None, self.shown.values()))
        return f"{self.model} ({shown})" if shown else self.model

    @property
    def n(self) -> int:
        """Number of seeds."""
        return max((cell.n for cell in self.cells.values()), default=0)


@dataclass
class Table:
    """Models under one protocol, in the order of their names unless sorted."""

    protocol: dict[str, str]  # fields that all rows share
    columns: list[Column]
    rows: list[Row]
    leaking: list[Row] = field(default_factory=list)  # scored on frames of their training, neither ranked nor compared
    references: list[Row] = field(default_factory=list)  # published, neither ranked nor compared
    notes: list[str] = field(default_factory=list)  # what is missing or odd
    warnings: list[str] = field(default_factory=list)  # orders inside the seed noise

    @property
    def title(self) -> str:
        """The protocol in one line."""
        if "summary" in self.protocol:
            return f"summary of {self.protocol['summary']}"
        by = [f"{self.protocol['metric']} by {self.protocol['by']}"] if "by" in self.protocol else []
        brief = by + [self.protocol[key] for key in ("dataset", "pixels", "origin", "rows") if self.protocol.get(key)]
        names = {"checkpoint": "", "poses": "", "alignment": "alignment ", "crop": "crop ", "depth": ""}
        names |= {"items": "items ", "uncertainty": "uncertainty "}
        brief += [f"{name}{self.protocol[key]}" for key, name in names.items() if self.protocol.get(key)]
        size = self.protocol.get("size")
        return ", ".join([*brief, f"input {size}"] if size else brief)

    @property
    def all_rows(self) -> list[Row]:
        """The rows as they are shown: ranked, leaking, published."""
        return [*self.rows, *self.leaking, *self.references]

    @property
    def has_spread(self) -> bool:
        """True when a row of ours has several seeds; with one each there is nothing to compare a difference with."""
        return any(row.n > 1 for row in self.rows)

    @property
    def name(self) -> str:
        """A short name for files."""
        if "summary" in self.protocol:
            return "summary"
        keys = (
            "dataset",
            "checkpoint",
            "poses",
            "alignment",
            "uncertainty",
            "pixels",
            "origin",
            "metric",
            "by",
            "rows",
        )
        name = "_".join(filter(None, (self.protocol.get(key, "") for key in keys)))
        return re.sub(r"[\W_]+", "_", name).strip("_")


def make_tables(
    results: Sequence[Result],
    root: Path,
    *,
    seeds: Sequence[str] | None = None,
    mix: Iterable[str] = (),
    models: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> list[Table]:
    """Make one table per protocol.

    Args:
        root: folder of the results; notes name the runs there without a result.
        seeds: versions expected of every model; None = those that any has.
        mix: protocol fields in which the rows of one table may differ; they become columns.
        models: names to keep. metrics: keys to keep, in this order.

    Raises UserError for unknown names, and when one seed has two results under one protocol.
    """
    mix = list(mix)
    labels = labels_of(results, root)
    _check("model", models or (), labels.values())
    _check("field of the protocol", mix, {key for r in results for key in r.protocol})
    kept = [r for r in results if (models is None or labels[r.folder] in models)]
    kept = [r for r in kept if seeds is None or r.seed in (*seeds, OFFICIAL)]
    if not kept:
        raise UserError(f"{root}: no result of the seeds {', '.join(seeds or ())}")
    expected = list(seeds) if seeds is not None else sorted({r.seed for r in kept} - {OFFICIAL}, key=by_number)
    groups: dict[tuple[tuple[str, str], ...], list[Result]] = {}
    for result in kept:
        key = tuple((k, v) for k, v in result.protocol.items() if k not in mix)
        groups.setdefault(tuple(sorted(key)), []).append(result)
    tables = [_table(group, labels, expected, mix, metrics) for group in groups.values()]
    if metrics:
        _check("metric", metrics, {c.key for r in kept for c in r.values})
        tables = [table for table in tables if table.columns]
    return sorted(tables, key=lambda table: table.title)


def name_differences(tables: Sequence[Table], mix: Sequence[str] = ()) -> list[str]:
    """Describe how the protocol of each table differs from that of the first of its data set, and how to join both.

    `mix` are the fields in which rows differ already. Another data set is in the title of its table.
    """
    lines: list[str] = []
    first_of: dict[str | None, tuple[int, Mapping[str, str]]] = {}
    for number, table in enumerate(tables, start=1):
        other, first = first_of.setdefault(table.protocol.get("dataset"), (number, table.protocol))
        keys = [k for k in {**first, **table.protocol} if first.get(k) != table.protocol.get(k)]
        if keys:
            differences = ", ".join(_difference(k, table.protocol.get(k), first.get(k)) for k in keys)
            again = ", or evaluate with the same --alignment" if keys == ["alignment"] else ""
            joined = f"; --mix {' '.join([*mix, *keys])} puts them side by side{again}"
            lines.append(f"table {number} is apart from table {other}: {differences}{joined}")
    return lines


def _difference(key: str, value: str | None, first: str | None) -> str:
    """Name a field that differs; of a list, as the many settings of a data set are, only what differs."""
    parts, others = ((text or "none").split(", ") for text in (value, first))
    ours = ", ".join(part for part in parts if part not in others) or "fewer"
    theirs = ", ".join(part for part in others if part not in parts) or "fewer"
    return f"{key} {ours} (not {theirs})"


def rank(table: Table, column: Column) -> list[Row]:
    """Rows with a finite mean from best to worst; none for a metric without a direction."""
    known = [row for row in table.rows if column in row.cells and math.isfinite(row.cells[column].mean)]
    if not column.direction:
        return []
    return sorted(known, key=lambda row: -column.direction * row.cells[column].mean)


def sort_rows(table: Table, key: str) -> None:
    """Sort rows by a metric, best first; those without it come last, in their former order."""
    column = headline(table, key)
    if column is not None:
        places = {row.label: place for place, row in enumerate(rank(table, column))}
        table.rows.sort(key=lambda row: places.get(row.label, len(places)))


def best_two(table: Table, column: Column) -> tuple[set[str], set[str]]:
    """Labels of the best and of the second best rows; ties share a place. None where no row is better than another."""
    ranked = rank(table, column)
    values = list(dict.fromkeys(row.cells[column].mean for row in ranked))
    if len(values) < 2:
        return set(), set()
    places = [{r.label for r in ranked if r.cells[column].mean == value} for value in values[:2]]
    return places[0], places[1]


def headline(table: Table, name: str | None = None) -> Column | None:
    """The column by which rows are ranked: the one with the key `name`, or the first that has a direction."""
    return next((c for c in table.columns if (c.direction if name is None else c.key == name)), None)


def _table(
    results: list[Result],
    labels: Mapping[Path, str],
    expected: Sequence[str],
    mix: Sequence[str],
    metrics: Sequence[str] | None,
) -> Table:
    columns = list(dict.fromkeys(column for r in results for column in r.values))
    if metrics:
        columns = [c for name in metrics for c in columns if name == c.key]
    by_row: dict[tuple[bool, str, tuple[str, ...]], dict[str, Result]] = {}
    folders = {}
    for result in results:
        label = labels[result.folder]
        folders[label] = result.folder
        shown = tuple(result.protocol.get(k, "") for k in mix)
        _keep(by_row.setdefault((bool(result.leak), label, shown), {}), result, label)
    rows: dict[bool, list[Row]] = {False: [], True: []}
    notes = []
    for (leaks, label, shown), seeds in sorted(by_row.items()):
        versions = sorted(seeds, key=by_number)
        cells = {
            c: Cell.of({s: seeds[s].values[c] for s in versions if c in seeds[s].values})
            for c in columns
            if any(c in r.values for r in seeds.values())
        }
        row = Row(label, cells, tuple(versions), dict(zip(mix, shown, strict=True)))
        rows[leaks].append(row)
        notes += _odd(row)
        if leaks:
            said = dict.fromkeys(seeds[seed].leak for seed in versions)
            notes.append(f"{row.label} is struck through and not ranked: {'; '.join(said)}")
            continue
        missing = [
            seed
            for seed in expected
            if seed not in seeds and OFFICIAL not in seeds and (True, label, shown) not in by_row
        ]
        if missing:
            states = [f"{seed} ({_run_state(folders[label], seed)})" for seed in missing]
            notes.append(f"{row.label}: no result of seed{'s'[: len(missing) > 1]} {', '.join(states)}")
    protocol = {k: v for k, v in results[0].protocol.items() if k not in mix}
    return Table(protocol, columns, rows[False], leaking=rows[True], notes=notes)


def unevaluated(root: Path, results: Sequence[Result]) -> list[str]:
    """List the models below `root` that have runs but no result."""
    known = {result.folder for result in results}
    runs = sorted({path.parent for path in root.absolute().rglob("state.json")})
    lost: dict[Path, list[str]] = {}
    for run in runs:
        if run.parent not in known:
            lost.setdefault(run.parent, []).append(f"{run.name} ({_run_state(run.parent, run.name)})")
    return [f"{folder}: no result at all, of seeds {', '.join(seeds)}" for folder, seeds in lost.items()]


def _keep(seeds: dict[str, Result], result: Result, label: str) -> None:
    """Add a result, or the metrics that another file of the same seed, protocol and weights lacks.

    Raises UserError when the two have other numbers, or are of other weights.
    """
    other = seeds.setdefault(result.seed, result)
    if other is result or dict(other.values) == dict(result.values):
        return
    same = result.weights and result.weights == other.weights
    if same and all(other.values.get(column, value) == value for column, value in result.values.items()):
        seeds[result.seed] = replace(other, values={**other.values, **result.values})
    else:
        raise UserError(
            f"{label}, seed {result.seed}: {other.path} and {result.path} have one protocol but different numbers."
            " Delete the older, or choose with --file"
        )


def _odd(row: Row) -> list[str]:
    bad = {c: [s for s, v in cell.by_seed.items() if not math.isfinite(v)] for c, cell in row.cells.items()}
    return [
        f"{row.label}: {column.key} is not finite with seed {', '.join(seeds)}, which is left out"
        for column, seeds in bad.items()
        if seeds
    ]


def _run_state(folder: Path, seed: str) -> str:
    try:
        state = RunDir(folder.parent, folder.name, seed).read_state()
    except UserError:  # not a name of a run
        return "no run"
    return f"run {state.state}, epoch {state.epoch}" if state else "no run"


def labels_of(results: Iterable[Result], root: Path) -> dict[Path, str]:
    """Name the models of results; official weights may have the name of a model of ours."""
    by_origin: dict[bool, set[Path]] = {False: set(), True: set()}
    for result in results:
        by_origin[result.seed == OFFICIAL].add(result.folder)
    return {path: name for folders in by_origin.values() for path, name in model_names(folders, root).items()}


def model_names(folders: Iterable[Path], root: Path) -> dict[Path, str]:
    """Name each model by its folder, or by its path below `root` where two have one name."""
    folders, top = sorted(folders), root.absolute()
    names = [folder.name for folder in folders]
    paths = [f.relative_to(top) if f.is_relative_to(top) else f for f in folders]
    return {
        folder: name if names.count(name) == 1 else path.as_posix()
        for folder, name, path in zip(folders, names, paths, strict=True)
    }


def _check(kind: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    known = set(known)
    for name in wanted:
        if name not in known:
            near = next((key for key in sorted(known) if _letters(key) == _letters(name)), name)  # AbsRel, abs_rel
            raise UserError(f"{name!r} is not a {kind} of these results. {did_you_mean(near, known)}")


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def by_number(seed: str) -> tuple[int, str]:
    """Sort versions that are numbers by their value, before all others."""
    return (int(seed) if seed.isdecimal() else 10**12, seed)
