"""Sparsification of six pixels by hand, by loops, and what holds for any image."""

from itertools import pairwise, permutations

import numpy as np
import pytest

from trainer.metrics import DepthMaps
from trainer.metrics.protocol import DepthProtocol
from trainer.metrics.sparsification import Sparsification, area, levels, remaining_means
from trainer.runtime.errors import UserError

TRUTH = np.full((2, 3), 10.0)
PRED = 10 * (1 + np.array([[0.6, 0.5, 0.4], [0.3, 0.2, 0.1]]))
RIGHT_ORDER = np.array([[6.0, 5, 4], [3, 2, 1]])


def scored(pred, truth, uncertainty, steps=50):
    everywhere = np.ones(truth.shape, bool)
    maps = DepthMaps(pred, truth, everywhere, everywhere, uncertainty=uncertainty)
    return Sparsification(steps).measure(maps)


def image(seed=0, shape=(40, 50)):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 60, shape)
    return truth * np.exp(rng.normal(0, 0.2, shape)), truth, rng


def test_six_pixels_by_hand():
    """Three steps remove 0, 2 and 4 of the pixels; their errors are 6, 5, .. 1 tenths."""
    areas, curves = scored(PRED, TRUTH, RIGHT_ORDER, steps=3)
    assert curves["removed"] == pytest.approx([0, 1 / 3, 2 / 3])
    assert curves["abs_rel_by_uncertainty"] == pytest.approx([0.35, 0.25, 0.15])
    assert curves["rmse_by_uncertainty"] == pytest.approx(np.sqrt([91 / 6, 30 / 4, 5 / 2]))
    assert curves["d1_by_uncertainty"] == pytest.approx([4 / 6, 2 / 4, 0])
    assert [areas[f"ause_{key}"] for key in ("abs_rel", "rmse", "d1")] == [0, 0, 0]
    assert areas["aurg_abs_rel"] == pytest.approx((0.1 / 2 + (0.1 + 0.2) / 2) / 3)
    wrong, curves = scored(PRED, TRUTH, -RIGHT_ORDER, steps=3)
    assert curves["abs_rel_by_uncertainty"] == pytest.approx([0.35, 0.45, 0.55])
    assert curves["abs_rel_by_error"] == pytest.approx([0.35, 0.25, 0.15])
    assert wrong["ause_abs_rel"] == pytest.approx((0.2 / 2 + (0.2 + 0.4) / 2) / 3)
    assert wrong["aurg_abs_rel"] == pytest.approx(-areas["aurg_abs_rel"])


def test_equal_uncertainties_are_the_mean_over_their_orders():
    values, by = np.array([0.6, 0.5, 0.4, 0.3, 0.2, 0.1]), levels(np.array([1.0, 1, 1, 0, 0, 0]))
    assert remaining_means(values, by, 3) == pytest.approx([0.35, (0.5 + 0.6) / 4, (0.2 + 0.2) / 2])
    orders = [[*high, *low] for high in permutations((0, 1, 2)) for low in permutations((3, 4, 5))]
    for removed, found in zip(range(6), remaining_means(values, by, 6), strict=True):
        assert found == pytest.approx(np.mean([values[order[removed:]].mean() for order in orders]))


@pytest.mark.parametrize("steps", [7, 50, 500])
def test_against_loops(steps):
    pred, truth, rng = image()
    doubt = rng.permutation(truth.size).reshape(truth.shape).astype(float)
    pixels = list(zip(doubt.ravel(), pred.ravel(), truth.ravel(), strict=True))
    formulas = {
        "abs_rel": (lambda p, t: abs(p - t) / t, lambda rest: sum(abs(p - t) / t for _, p, t in rest) / len(rest)),
        "rmse": (lambda p, t: abs(p - t), lambda rest: (sum((p - t) ** 2 for _, p, t in rest) / len(rest)) ** 0.5),
        "d1": (
            lambda p, t: max(p / t, t / p),
            lambda rest: 1 - sum(max(p / t, t / p) < 1.25 for _, p, t in rest) / len(rest),
        ),
    }
    areas, _ = scored(pred, truth, doubt, steps)
    for key, (error, metric) in formulas.items():
        curves = []
        for order in (lambda pixel: -pixel[0], lambda pixel, error=error: -error(*pixel[1:])):
            ranked = sorted(pixels, key=order)
            curves.append([metric(ranked[int(len(ranked) * k / steps) :]) for k in range(steps)])
        ours, best = (sum((a + b) / 2 / steps for a, b in pairwise(c)) for c in curves)
        flat = curves[0][0] * (steps - 1) / steps
        assert areas[f"ause_{key}"] == pytest.approx(ours - best, abs=1e-9)
        assert areas[f"aurg_{key}"] == pytest.approx(flat - ours, abs=1e-9)


def test_the_true_error_is_the_best_uncertainty():
    pred, truth, _ = image()
    for key, doubt in (
        ("abs_rel", np.abs(pred - truth) / truth),
        ("rmse", np.abs(pred - truth)),
        ("d1", np.maximum(pred / truth, truth / pred)),
    ):
        areas, _ = scored(pred, truth, doubt)
        assert areas[f"ause_{key}"] == 0
        assert areas[f"aurg_{key}"] > 0
    again, _ = scored(pred, truth, 3 * np.maximum(pred / truth, truth / pred) ** 2 - 7)
    assert again == pytest.approx(areas, abs=1e-6)  # the order counts, not the numbers


@pytest.mark.parametrize("constant", [0.0, 0.3, 1e6])
def test_a_constant_uncertainty_gains_nothing(constant):
    pred, truth, _ = image()
    rounding = constant * (1 + 1e-12 * np.arange(truth.size).reshape(truth.shape))  # as a resize leaves it
    for doubt in (np.full(truth.shape, constant), rounding):
        areas, _ = scored(pred, truth, doubt)
        assert [areas[f"aurg_{key}"] for key in ("abs_rel", "rmse", "d1")] == pytest.approx([0, 0, 0], abs=1e-12)
    best, _ = scored(pred, truth, np.abs(pred - truth) / truth)
    assert areas["ause_abs_rel"] == pytest.approx(best["aurg_abs_rel"])


def test_a_random_uncertainty_gains_about_nothing():
    gains = []
    for seed in range(5):
        pred, truth, rng = image(seed, (100, 200))
        areas, _ = scored(pred, truth, rng.random(truth.shape))
        gains.append(areas["aurg_abs_rel"])
    assert np.abs(gains).max() < 0.002
    assert areas["ause_abs_rel"] > 0.05


def test_one_pixel_and_few_steps():
    areas, curves = scored(np.array([[3.0]]), np.array([[2.0]]), np.array([[1.0]]), steps=2)
    assert curves["abs_rel_by_uncertainty"] == pytest.approx([0.5, 0.5])
    assert areas == dict.fromkeys(areas, 0)
    with pytest.raises(UserError, match="2 steps or more"):
        Sparsification(1)
    with pytest.raises(ValueError, match="without uncertainty"):
        scored(PRED, TRUTH, None)


def test_trapezoids():
    assert area(np.array([1.0, 3.0, 2.0])) == pytest.approx((2 + 2.5) / 3)


def test_a_protocol_with_it():
    """Aligned and capped before the errors are taken; the curves are not part of the means."""
    protocol = DepthProtocol(["eigen"], "median", "none", extra={"sparsification": Sparsification(3)})
    assert protocol.needs == {"uncertainty"}
    row = protocol.score_image(2 * PRED, TRUTH, uncertainty=RIGHT_ORDER)
    aligned = PRED * 10 / np.median(PRED)
    assert row["curves"]["rmse_by_uncertainty"][0] == pytest.approx(row["rmse"])
    assert row["ause_rmse"] == pytest.approx(scored(aligned, TRUTH, RIGHT_ORDER, 3)[0]["ause_rmse"])
    assert "curves" not in protocol.mean([row])
    described = protocol.describe()["metrics"]["sparsification"]
    assert described["rule"].startswith("3 steps; ")
    assert described["higher_is_better"] == ["aurg_abs_rel", "aurg_rmse", "aurg_d1"]
    edges = np.zeros(TRUTH.shape, bool)
    edges[0] = True
    assert "ause_rmse_edges" in protocol.score_image(PRED, TRUTH, edges=edges, uncertainty=RIGHT_ORDER)
