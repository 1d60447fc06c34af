"""The metrics of the KITTI benchmark by hand."""

import math

import numpy as np
import pytest

from trainer.metrics import METRICS


def benchmark(pred, truth):
    return METRICS.create("benchmark").compute(np.array(pred, dtype=float), np.array(truth, dtype=float))


def test_by_hand():
    # errors 2 and 0 m; inverse depths 1/4 - 1/2 = -250 / km and 0; log depths ln 2 and 0
    scores = benchmark(pred=[4.0, 4.0], truth=[2.0, 4.0])
    assert scores["mae"] == 1
    assert scores["rmse"] == pytest.approx(math.sqrt(2))
    assert scores["inv_mae"] == 125
    assert scores["inv_rmse"] == pytest.approx(250 / math.sqrt(2))
    assert scores["log_mae_pct"] == pytest.approx(50 * math.log(2))
    assert scores["log_rmse_pct"] == pytest.approx(100 * math.log(2) / math.sqrt(2))
    assert scores["log_si_pct"] == pytest.approx(50 * math.log(2))  # half the distance of two errors
    assert scores["abs_rel_pct"] == 50
    assert scores["sq_rel_pct"] == 50  # 100 * (2/2)^2 and 0: the truth is squared


def test_a_wrong_scale_is_no_scale_invariant_error():
    truth = np.linspace(1, 80, 1000)
    scores = benchmark(3 * truth, truth)
    assert scores["log_si_pct"] == pytest.approx(0, abs=1e-9)
    assert scores["log_rmse_pct"] == pytest.approx(100 * math.log(3))


def test_what_both_sets_measure_agrees():
    rng = np.random.default_rng(0)
    pred, truth = rng.uniform(1, 80, (2, 500))
    ours, eigen = benchmark(pred, truth), METRICS.create("eigen").compute(pred, truth)
    assert ours["rmse"] == eigen["rmse"]
    assert ours["abs_rel_pct"] == pytest.approx(100 * eigen["abs_rel"])
    assert ours["log_rmse_pct"] == pytest.approx(100 * eigen["log_rmse"])
