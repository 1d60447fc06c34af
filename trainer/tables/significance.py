"""How sure an order is: Welch's test between the seeds of two models, corrected for the number of pairs.

Three seeds say little: of the 78 orders of 13 published systems (arXiv:2208.01489), most are inside the seed noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.tables.aggregate import PUBLISHED, Cell, Table, rank
from trainer.tables.columns import Column

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """Two models and one metric."""

    column: Column
    better: str
    worse: str
    p: float  # Welch's t test, two-sided
    p_holm: float  # corrected for all pairs of this metric
    adjacent: bool  # neighbours in the order

    @property
    def is_noise(self) -> bool:
        """True when the difference is inside the seed noise."""
        return not self.p_holm < ALPHA


def compare(table: Table, column: Column) -> list[Comparison]:
    """Compare all pairs of models with two seeds or more."""
    ranked = [row for row in rank(table, column) if row.cells[column].n > 1]
    pairs = list(itertools.combinations(range(len(ranked)), 2))
    ps = [welch(ranked[i].cells[column], ranked[j].cells[column]) for i, j in pairs]
    corrected = holm(ps)
    return [
        Comparison(column, ranked[i].label, ranked[j].label, p, p_holm, j == i + 1)
        for (i, j), p, p_holm in zip(pairs, ps, corrected, strict=True)
    ]


def welch(a: Cell, b: Cell) -> float:
    """Two-sided p of equal means with unequal variances (Welch 1947), from means and standard deviations.

    Without any spread in both, different means are certain (0) and equal ones are equal (1).
    """
    from scipy.stats import ttest_ind_from_stats

    if a.sd == b.sd == 0:
        return 1.0 if a.mean == b.mean else 0.0
    return float(ttest_ind_from_stats(a.mean, a.sd, a.n, b.mean, b.sd, b.n, equal_var=False).pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p values for their number m (Holm 1979): the k-th smallest x (m - k + 1), never decreasing, at most 1."""
    corrected = [math.nan] * len(ps)
    largest = 0.0
    for k, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, ps[i] * (len(ps) - k)))
        corrected[i] = largest
    return corrected


def flips(table: Table, column: Column) -> tuple[int, int]:
    """Count the orders of two models that some choice of one seed each reverses, and all orders."""
    pairs = list(itertools.combinations([row.cells[column] for row in rank(table, column)], 2))
    turned = 0
    for a, b in pairs:
        seeds = itertools.product(a.by_seed.values(), b.by_seed.values())
        turned += any((x - y) * (a.mean - b.mean) < 0 for x, y in seeds if math.isfinite(x - y))
    return turned, len(pairs)


def warn_of_noise(table: Table) -> list[Comparison]:
    """Add to `table.warnings` the neighbours in the order of each metric whose difference is inside the seed noise.

    Notes compare ours with published rows. Returns all comparisons, also of distant pairs.
    """
    comparisons: list[Comparison] = []
    for column in filter(lambda c: c.direction, table.columns if table.has_spread else ()):
        single = [row.label for row in rank(table, column) if row.cells[column].n < 2]
        if len(table.rows) > 1 and single:
            table.warnings.append(f"{column.key}: no spread is known of {', '.join(single)}: one seed")
        found = compare(table, column)
        comparisons += found
        table.warnings += [
            f"{column.key}: {c.better} before {c.worse} is inside the seed noise (p = {c.p_holm:.2g}, Holm)"
            for c in found
            if c.adjacent and c.is_noise
        ]
    table.notes += compare_with_published(table)
    return comparisons


def compare_with_published(table: Table) -> list[str]:
    """Compare each model with its published row, if any, by the seeds of both."""
    ours = {row.model: row for row in table.rows}
    lines = []
    for published in table.references:
        row = ours.get(published.model.removesuffix(PUBLISHED))
        if row is None or row.shown != published.shown:
            continue
        for column, cell in published.cells.items():
            mine = row.cells.get(column)
            if mine is not None and mine.n > 1:
                p = welch(mine, cell)
                verdict = "differs from" if p < ALPHA else "agrees with"
                lines.append(
                    f"{row.model}: {column.key} {mine.mean:.4g} {verdict} the published {cell.mean:.4g}"
                    f" (p = {p:.2g}, Welch, uncorrected)"
                )
    return lines
