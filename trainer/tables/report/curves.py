"""Learning curves as data for a page: the mean and the spread over seeds of each configuration, laid out as SVG paths.

Lengths are user units of an SVG of WIDTH x HEIGHT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.metrics.validation import VALIDATION, VALIDATION_METRICS, higher_is_better
from trainer.tables.events import TRACKED, Average, Curve, average

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 410, 10, 222  # of the plot
LOG_FROM, LOG_TO = 50.0, 1e6  # largest over smallest value between which an axis is logarithmic
SAMPLES = 400  # most points of a curve; longer ones are averaged in groups
CROWD = 6  # configurations in a chart above which it has neither seeds nor training
HIDDEN = ("best/", "epoch")  # scalars that repeat others


def thinned(curves: Sequence[Curve], most: int) -> list[Curve]:
    """Average neighbours so that curves have at most so many points, in groups of steps that are the same for all."""
    if all(len(steps) <= most for steps, _ in curves):
        return list(curves)
    first, last = min(steps.min() for steps, _ in curves), max(steps.max() for steps, _ in curves)
    ends = np.linspace(first - 1, last, most + 1)[1:].round()
    return [_grouped(*curve, ends) for curve in curves]


def _grouped(steps: np.ndarray, values: np.ndarray, ends: np.ndarray) -> Curve:
    """Average the values up to each end, the first after the one before."""
    groups, places = np.unique(np.searchsorted(ends, steps), return_inverse=True)
    with np.errstate(invalid="ignore"):
        sums = np.bincount(places, values)
    return ends[groups].astype(int), sums / np.bincount(places)


@dataclass
class Line:
    """One configuration and one scalar, drawn in colour number `colour`."""

    name: str
    colour: int
    average: Average
    seeds: list[Curve]
    is_train: bool = False  # dashed, without spread

    @property
    def label(self) -> str:
        return f"{self.name}, training" if self.is_train else self.name


@dataclass
class Chart:
    """One chart, ready to be drawn: SVG paths, ticks (place, text), a row of numbers per line, and data to point at."""

    title: str
    unit: str
    train: str = ""  # the scalar of the dotted lines
    lines: list[dict[str, Any]] = field(default_factory=list)  # colour, is_train, band, mean, seeds: paths
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Axis:
    """From values to a length: low at `start`, high at `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def place(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.is_log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        from matplotlib.ticker import LogLocator, MaxNLocator

        locator = LogLocator(numticks=count) if self.is_log else MaxNLocator(count, steps=[1, 2, 2.5, 5, 10])
        inside = [v for v in locator.tick_values(self.low, self.high) if self.low <= v <= self.high]
        if self.is_log and len(inside) < 2:
            inside = [self.low, math.sqrt(self.low * self.high), self.high]
        return [(round(self.place(v), 1), _short(v)) for v in inside]


def _short(value: float) -> str:
    """Write the number of a tick in at most seven characters: 0.35, 12500, 7.5e-4."""
    if value and not 1e-3 <= abs(value) < 1e5:
        number, _, power = f"{value:.2e}".partition("e")
        return f"{float(number):g}e{int(power)}"
    return f"{value:.5g}"


def groups_of(tags: Sequence[str], monitor: str, chosen: Sequence[str] = ()) -> dict[str, list[tuple[str, str | None]]]:
    """Arrange scalars as charts: {section: [(tag, tag of the training in the same chart or None), ...]}.

    `chosen` scalars make one section of their own.
    """
    if chosen:
        return {"Chosen curves": [(tag, None) for tag in chosen]}
    known, groups = set(tags), {}
    names = [monitor, *(name for name in VALIDATION_METRICS if name != monitor)]
    losses = sorted({t.rpartition("/")[2] for t in tags if t.startswith(("val_losses/", "train_losses/"))})
    losses.sort(key=lambda name: (name != "loss", name))
    for title, wanted, suffix in (("Validation", names, ""), ("Losses", losses, "_losses")):
        pairs = [(f"val{suffix}/{name}", f"train{suffix}/{name}") for name in wanted]
        groups[title] = [
            (val, train if train in known else None) if val in known else (train, None)
            for val, train in pairs
            if {val, train} & known
        ]
    groups["Learning rates"] = [(t, None) for t in sorted(tags) if t.startswith("lr")]
    drawn = {tag for pairs in groups.values() for pair in pairs for tag in pair}
    rest = [t for t in sorted(tags) if t not in drawn and not t.startswith(HIDDEN)]
    groups["Everything else"] = [(t, None) for t in rest]
    return {title: pairs for title, pairs in groups.items() if pairs}


def draw(
    tag: str, train: str | None, curves: Mapping[str, Sequence[Mapping[str, Curve]]], samples: int = SAMPLES
) -> Chart | None:
    """Draw one chart of one scalar, and of another one of the training, for {configuration: [curves of a seed, ...]}.

    samples: most points of a curve. Returns None when no value is finite.
    """
    is_crowded = len(curves) > CROWD
    train = None if is_crowded else train  # it lies below
    found = [
        (colour, name, key, [s[key] for s in seeds if key in s])
        for colour, (name, seeds) in enumerate(curves.items())
        for key in (train, tag)
        if key
    ]
    every = [curve for *_, own in found for curve in own]
    longest, short = max((len(steps) for steps, _ in every), default=0), iter(thinned(every, samples))
    lines = []
    for colour, name, key, own in found:
        own = [next(short) for _ in own]
        if own and len((mean := average(own)).steps):
            lines.append(Line(name, colour, mean, own, is_train=key == train))
    values = np.array([value for line in lines for part in _extent(line) for value in part])
    steps = [step for line in lines for curve in line.seeds for step in curve[0].tolist()]
    if not len(finite := values[np.isfinite(values)]):
        return None
    x, y = _axes(steps, finite)
    group, _, name = tag.rpartition("/")
    chart = Chart(tag, VALIDATION[name].unit if group in TRACKED and name in VALIDATION else "", train or "")
    chart.lines = [_paths(line, x, y, with_seeds=not is_crowded) for line in lines]
    chart.x_ticks, chart.y_ticks = x.ticks(4), y.ticks(5)
    chart.rows = [_row(line, group, name) for line in sorted(lines, key=lambda line: line.is_train)]
    chart.data = {
        "x": [x.low, x.high, LEFT, RIGHT],
        "y": [y.low, y.high, BOTTOM, TOP, y.is_log],
        "lines": [_points(line) for line in sorted(lines, key=lambda line: line.is_train)],
    }
    lost = sum(int((~np.isfinite(v)).sum()) for line in lines for _, v in line.seeds)
    chart.notes += [f"values that are not finite leave gaps: {lost}"] * bool(lost)
    chart.notes += [f"up to {longest:,} points per curve, averaged to {samples}"] * (longest > samples)
    chart.notes += ["logarithmic axis"] * y.is_log
    return chart


def _extent(line: Line) -> list[np.ndarray]:
    """The values that must be inside the plot."""
    mean, sd = line.average.mean, np.nan_to_num(line.average.sd)
    return [mean] if line.is_train else [mean - sd, mean + sd, *(values for _, values in line.seeds)]


def _axes(steps: Sequence[int], values: np.ndarray) -> tuple[_Axis, _Axis]:
    left, right = min(steps), max(steps)
    right = right if right > left else left + 1
    low, high = float(values.min()), float(values.max())
    is_log = low > 0 and LOG_FROM < high / low < LOG_TO
    if high <= low:
        low, high = (low - 0.05 * abs(low), low + 0.05 * abs(low)) if low else (0.0, 1.0)
    elif is_log:
        low, high = low / 1.2, high * 1.2
    else:
        margin = 0.04 * (high - low)
        low, high = (0.0 if low == 0 else low - margin), high + margin
    return _Axis(left, right, LEFT, RIGHT), _Axis(low, high, BOTTOM, TOP, is_log)


def _paths(line: Line, x: _Axis, y: _Axis, with_seeds: bool) -> dict[str, Any]:
    steps, mean, sd, _ = line.average
    drawn = {
        "colour": line.colour,
        "is_train": line.is_train,
        "mean": _path(steps, mean, x, y),
        "band": "",
        "seeds": [],
    }
    if not line.is_train and len(line.seeds) > 1:
        drawn["band"] = _band(steps, mean, sd, x, y)
        drawn["seeds"] = [_path(*curve, x, y) for curve in line.seeds] if with_seeds else []
    return drawn


def _path(steps: np.ndarray, values: np.ndarray, x: _Axis, y: _Axis) -> str:
    """A line through the finite points; one without neighbours is a dot."""
    parts, was_finite = [], False
    for step, value in zip(steps.tolist(), values.tolist(), strict=True):
        is_finite = math.isfinite(value) and (value > 0 or not y.is_log)
        if is_finite:
            parts.append(f"{'L' if was_finite else 'M'}{x.place(step):.1f} {y.place(value):.1f}")
            parts += [] if was_finite else ["h0"]
        was_finite = is_finite
    return "".join(parts)


def _band(steps: np.ndarray, mean: np.ndarray, sd: np.ndarray, x: _Axis, y: _Axis) -> str:
    """The area of mean ± sd where it is known."""
    parts, known = [], np.isfinite(mean) & np.isfinite(sd)
    for run in np.split(np.arange(len(steps)), np.flatnonzero(np.diff(known.astype(int))) + 1):
        if len(run) and known[run[0]]:
            low = mean[run] - sd[run]
            low = np.maximum(low, y.low) if y.is_log else low
            edge_steps, edge = np.append(steps[run], steps[run][::-1]), np.append(mean[run] + sd[run], low[::-1])
            pairs = zip(edge_steps.tolist(), edge.tolist(), strict=True)
            places = (f"{x.place(step):.1f} {y.place(value):.1f}" for step, value in pairs)
            parts.append(f"M{'L'.join(places)}Z")
    return "".join(parts)


def _row(line: Line, group: str, name: str) -> dict[str, Any]:
    """The latest value of a line, and its best one, or the range of a number that is neither good nor bad, as texts."""
    steps, mean, sd, _ = line.average
    finite = np.flatnonzero(np.isfinite(mean))
    row = {
        "label": line.label,
        "colour": line.colour,
        "is_train": line.is_train,
        "n": len(line.seeds),
        "best": "",
        "range": "",
    }
    if not len(finite):
        return {**row, "last": "-", "best": "-"}
    last = finite[-1]
    row["last"] = _value(steps[last], mean[last], sd[last])
    if group.partition("_")[0] not in TRACKED or group.partition("_")[2] not in ("", "losses"):
        return {**row, "range": f"{mean[finite].min():.4g} to {mean[finite].max():.4g}"}
    best = finite[(np.argmax if higher_is_better(name) else np.argmin)(mean[finite])]
    return {**row, "best": _value(steps[best], mean[best], sd[best])}


def _value(step: int, mean: float, sd: float) -> str:
    return f"{mean:.4g}{f' ± {sd:.2g}' * math.isfinite(sd)} (step {step})"


def _points(line: Line) -> dict[str, Any]:
    """What a reader can point at; not finite = None, which JSON knows."""
    steps, mean, sd, count = line.average

    def known(values: np.ndarray) -> list[float | None]:
        return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values.tolist()]

    return {
        "name": line.label,
        "colour": line.colour,
        "train": line.is_train,
        "steps": steps.tolist(),
        "mean": known(mean),
        "sd": [] if line.is_train else known(sd),
        "n": count.tolist(),
    }
