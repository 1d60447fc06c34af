"""Curves of a page: places can be worked out by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

from trainer.tables.report.curves import BOTTOM, LEFT, RIGHT, TOP, draw, groups_of, thinned


def curve(values: list[float], steps: list[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    return np.array(steps or range(len(values))), np.array(values)


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_two_seeds_have_a_mean_and_a_band_of_one_standard_deviation() -> None:
    """Seeds at 1 and 3: mean 2, sd the root of 2; the plot reaches 4 % of the span beyond mean ± sd."""
    chart = draw("val/AbsRel", None, {"a": [{"val/AbsRel": curve([1.0, 1.0])}, {"val/AbsRel": curve([3.0, 3.0])}]})
    assert chart is not None
    (line,) = chart.lines
    middle = (TOP + BOTTOM) / 2
    assert places(line["mean"]) == [(LEFT, middle), (RIGHT, middle)]
    half = (BOTTOM - TOP) / 2 / 1.08
    (_, top), _, _, (_, bottom) = places(line["band"])
    assert (middle - top, bottom - middle) == (pytest.approx(half, abs=0.1), pytest.approx(half, abs=0.1))
    assert len(line["seeds"]) == 2
    assert chart.rows[0]["last"] == "2 ± 1.4 (step 1)"
    assert chart.unit == "fraction"
    assert chart.data["lines"][0]["sd"] == [pytest.approx(2**0.5, rel=1e-4)] * 2


def test_one_seed_has_no_band_and_a_gap_where_it_is_not_finite() -> None:
    chart = draw("val/MAE", None, {"a": [{"val/MAE": curve([1.0, float("nan"), 2.0, 3.0])}]})
    assert chart is not None
    (line,) = chart.lines
    assert (line["band"], line["seeds"]) == ("", [])
    assert line["mean"].count("M") == 2
    assert line["mean"].count("h0") == 2  # the first point stands alone, and is a dot
    assert chart.data["lines"][0]["mean"] == [1.0, None, 2.0, 3.0]
    assert chart.notes == ["values that are not finite leave gaps: 1"]
    assert draw("val/MAE", None, {"a": [{"val/MAE": curve([float("inf")])}]}) is None


def test_accuracies_are_best_where_they_are_largest() -> None:
    seed = {"val/Acc": curve([0.2, 0.9, 0.5]), "val/AbsRel": curve([0.2, 0.9, 0.5]), "lr": curve([0.2, 0.9, 0.5])}
    rows = {tag: draw(tag, None, {"a": [seed]}).rows[0] for tag in seed}  # type: ignore[union-attr]
    assert rows["val/Acc"]["best"] == "0.9 (step 1)"
    assert rows["val/AbsRel"]["best"] == "0.2 (step 0)"
    assert (rows["lr"]["best"], rows["lr"]["range"]) == ("", "0.2 to 0.9")  # a rate is neither good nor bad


def test_an_axis_is_logarithmic_where_values_differ_by_orders() -> None:
    wide, with_zero = curve([1.0, 10.0, 1000.0]), curve([0.0, 10.0, 1000.0])
    charts = [draw("loss", None, {"a": [{"loss": values}]}) for values in (wide, with_zero)]
    assert [chart.notes for chart in charts if chart] == [["logarithmic axis"], []]
    assert charts[0] is not None
    (_, low), (_, middle), (_, high) = places(charts[0].lines[0]["mean"])
    assert (low - middle) * 2 == pytest.approx(middle - high, abs=0.3)  # one decade, then two


def test_long_curves_are_averaged_in_groups_that_seeds_share() -> None:
    """Steps 10 to 40 in two groups, 10-25 and 26-40; a seed that stopped at 20 is only in the first."""
    whole, stopped = curve([1.0, 3.0, 5.0, 7.0], [10, 20, 30, 40]), curve([2.0, 2.0], [10, 20])
    (steps, values), (early, its) = thinned([whole, stopped], 2)
    assert (steps.tolist(), values.tolist()) == ([24, 40], [2.0, 6.0])
    assert (early.tolist(), its.tolist()) == ([24], [2.0])
    assert thinned([whole], 4) == [whole]
    chart = draw("a", None, {"a": [{"a": curve(list(range(100, 1100)))}]}, samples=100)
    assert chart is not None
    assert chart.notes == ["up to 1,000 points per curve, averaged to 100"]
    assert len(chart.data["lines"][0]["steps"]) == 100


def test_scalars_are_arranged_by_what_they_are() -> None:
    tags = [
        "best/Acc",
        "epoch",
        "lr/pose",
        "train/Acc",
        "train_losses/loss",
        "val/Acc",
        "val/MAE",
        "val_losses/loss",
        "x",
    ]
    assert groups_of(tags, "Acc") == {
        "Validation": [("val/Acc", "train/Acc"), ("val/MAE", None)],
        "Losses": [("val_losses/loss", "train_losses/loss")],
        "Learning rates": [("lr/pose", None)],
        "Everything else": [("x", None)],
    }
    assert groups_of(tags, "Acc", ["x"]) == {"Chosen curves": [("x", None)]}
