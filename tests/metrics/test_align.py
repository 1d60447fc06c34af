"""Alignments: against numpy's least squares, and at their limits."""

import numpy as np
import pytest
import torch

from trainer.metrics.align import ALIGNMENTS, Fit, invert, least_squares
from trainer.metrics.protocol import DepthProtocol


def sample(seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 80, 400)
    return truth, 1 / (0.3 / truth + 0.02 + rng.normal(0, 1e-3, 400))


def solve(x, y):
    return np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)[0]


def test_least_squares_against_numpy():
    truth, pred = sample()
    for name, x, y in (("lsqr_disp", 1 / pred, 1 / truth), ("lsqr_depth", pred, truth)):
        fit = ALIGNMENTS[name].fit(pred, truth)
        assert [fit.scale, fit.shift] == pytest.approx(solve(x, y), rel=1e-10)


def test_an_affine_disparity_is_made_perfect():
    truth = np.array([2.0, 5.0, 40.0])
    pred = 1 / (0.25 / truth + 0.1)
    fit = ALIGNMENTS["lsqr_disp"].fit(pred, truth)
    assert (fit.scale, fit.shift) == (pytest.approx(4), pytest.approx(-0.4))
    assert fit.apply(pred) == pytest.approx(truth)
    fit = ALIGNMENTS["lsqr_depth"].fit(3 * truth + 7, truth)
    assert fit.apply(3 * truth + 7) == pytest.approx(truth)


def test_a_large_offset_loses_nothing():
    x = 1e5 + np.linspace(0, 1, 50)
    assert least_squares(x, 2 * x + 3) == (pytest.approx(2, rel=1e-8), pytest.approx(3, abs=0.01))


@pytest.mark.parametrize(("name", "best"), [("lsqr_disp", 1 / np.mean([1, 1 / 2, 1 / 6])), ("lsqr_depth", 3)])
@pytest.mark.parametrize("noise", [0, 1e-7])
def test_a_constant_becomes_the_best_one(name, best, noise):
    """What numpy's least squares predict for it, whatever rounding has left of it."""
    truth = np.array([1.0, 2, 6])
    pred = 0.1 * (1 + noise * np.array([1, -1, 0.5]))
    fit = ALIGNMENTS[name].fit(pred, truth)
    assert fit.scale == 0
    assert fit.apply(pred) == pytest.approx([best] * 3)
    a, b = solve(np.full(3, 10.0), 1 / truth) if fit.of_inverse else solve(np.full(3, 0.1), truth)
    line = a * 10 + b if fit.of_inverse else a * 0.1 + b
    assert (1 / line if fit.of_inverse else line) == pytest.approx(best)


def test_a_real_spread_is_fitted_however_small():
    x = 1 + 1e-5 * np.array([0.0, 1, 2])
    assert least_squares(x, np.array([1.0, 2, 3])) == (pytest.approx(1e5), pytest.approx(1 - 1e5))


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_what_a_constant_becomes_is_what_is_said(name):
    truth = np.array([1.0, 2, 6])
    becomes = {
        "": 7,
        "median(truth)": 2,
        "lower median(truth)": 2,
        "mean(truth)": 3,
        "1 / mean(1 / truth)": 1 / np.mean(1 / truth),
    }
    expected = becomes[ALIGNMENTS[name].constant]
    assert ALIGNMENTS[name].align_baseline(np.full(3, 7.0), truth) == pytest.approx([expected] * 3)


def test_zero_is_no_depth_and_stays_so():
    assert invert(np.array([0.0, 2.0])).tolist() == [0, 0.5]
    assert Fit(2.0).apply(np.array([0.0, 3.0])).tolist() == [0, 6]
    assert Fit(2.0, 0.0, of_inverse=True).apply(np.array([0.0, 3.0])).tolist() == [0, 1.5]


@pytest.mark.parametrize("name", ["median", "median_lower"])
@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_median_that_is_no_depth_scales_nothing(name, value):
    assert ALIGNMENTS[name].fit(np.full(3, value), np.ones(3)) == Fit(1.0)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_the_lower_median_is_that_of_torch(count):
    truth, pred = np.random.default_rng(0).uniform(1, 9, (2, count))
    middle = [torch.from_numpy(values).median().item() for values in (truth, pred)]
    assert ALIGNMENTS["median_lower"].fit(pred, truth).scale == middle[0] / middle[1]


def test_what_least_squares_make_negative_counts_as_the_least_depth():
    # disparities 1, 2, 3, 12 against inverse truths 1/50, 1/40, 1/30, 1/2: the line is below 0 at the first
    disp, truth = np.array([[1.0, 2, 3, 12]]), np.array([[50.0, 40, 30, 2]])
    a, b = solve(disp[0], 1 / truth[0])
    assert a + b < 0 < 2 * a + b
    row = DepthProtocol(["eigen"], "lsqr_disp", "none", min_depth=0.5).score_image(1 / disp, truth)
    expected = np.array([0.5, *(1 / (a * disp[0, 1:] + b)).clip(0.5, 80)])
    assert (row["factor"], row["shift"]) == pytest.approx((a, b))
    assert row["nonpositive"] == 1
    assert row["abs_rel"] == pytest.approx(np.mean(np.abs(expected - truth[0]) / truth[0]))


def trimmed(pred, truth):
    """A trimmed fit a second time: percentiles and normal equations by hand."""
    order = sorted(pred)

    def percentile(q):
        place = (len(order) - 1) * q / 100
        low = int(place)
        return order[low] + (place - low) * (order[min(low + 1, len(order) - 1)] - order[low])

    inside = [(p, t) for p, t in zip(pred, truth, strict=True) if percentile(5) < p < percentile(95)]
    n, sx, sy = len(inside), sum(p for p, _ in inside), sum(t for _, t in inside)
    sxx, sxy = sum(p * p for p, _ in inside), sum(p * t for p, t in inside)
    a = (n * sxy - sx * sy) / (n * sxx - sx * sx)
    return a, (sy - a * sx) / n


def test_a_trimmed_fit_against_a_second_one():
    truth, pred = sample()
    fit = ALIGNMENTS["lsqr_depth_trim"].fit(pred, truth)
    assert (fit.scale, fit.shift) == (pytest.approx(trimmed(pred, truth)[0]), pytest.approx(trimmed(pred, truth)[1]))
    assert fit.fallback == ""
    untrimmed = ALIGNMENTS["lsqr_depth"].fit(pred, truth)
    assert abs(fit.scale / untrimmed.scale - 1) > 0.05


def test_a_trimmed_fit_by_hand():
    # 21 predictions 0..20: the 5th and 95th percentile are 1 and 19, and strictly between are 2..18
    pred = np.arange(21.0)
    truth = 3 * pred + 1
    truth[[0, 1, 19, 20]] = 1000  # takes no part
    fit = ALIGNMENTS["lsqr_depth_trim"].fit(pred, truth)
    assert (fit.scale, fit.shift, fit.fallback) == (pytest.approx(3), pytest.approx(1), "")
    turned = ALIGNMENTS["lsqr_depth_trim"].fit(-pred, truth)  # nothing keeps the factor positive
    assert (turned.scale, turned.shift) == (pytest.approx(-3), pytest.approx(1))


@pytest.mark.parametrize(
    ("pred", "expected"),
    [
        ([1.0, 2.0], Fit(4.0, 6.0, fallback="untrimmed")),  # percentiles 1.05 and 1.95: none between
        ([1.0, 2.0, 3.0], Fit(2.0, 8.0, fallback="untrimmed")),  # one between
        ([1.0, 2.0, 2.0, 2.0, 3.0], Fit(2.0, 8.0, fallback="untrimmed")),  # three alike
        ([5.0], Fit(2.0, fallback="median")),
        ([5.0, 5.0, 5.0], Fit(12 / 5, fallback="median")),
    ],
)
def test_where_a_trimmed_fit_is_not_defined(pred, expected):
    truth = {1: [10.0], 2: [10.0, 14], 3: [10.0, 12, 14], 5: [10.0, 12, 12, 12, 14]}[len(pred)]
    fit = ALIGNMENTS["lsqr_depth_trim"].fit(np.array(pred), np.array(truth))
    assert (fit.scale, fit.shift) == (pytest.approx(expected.scale), pytest.approx(expected.shift))
    assert fit.fallback == expected.fallback


def test_a_trimmed_fit_of_the_protocol():
    """All of MDEC's rule: fitted without extremes, clipped over the whole map, scored on all valid pixels."""
    truth = np.array([[0.0, *range(2, 40), 150.0]])
    rng = np.random.default_rng(0)
    pred = np.array([[3.0, *(np.arange(2, 40) ** 1.2 + rng.normal(0, 1, 38)), 2.0]]) + 5
    row = DepthProtocol(["benchmark"], "lsqr_depth_trim", "none", 0.001, 100).score_image(pred, truth)
    a, b = trimmed(pred[0, 1:-1], truth[0, 1:-1])
    aligned = [min(max(a * p + b, 0.001), 100) for p in pred[0, 1:-1]]
    assert (row["pixels"], row["factor"], row["shift"]) == (38, pytest.approx(a), pytest.approx(b))
    assert row["mae"] == pytest.approx(sum(abs(p - t) for p, t in zip(aligned, range(2, 40), strict=True)) / 38)
    assert "fallback" not in row
