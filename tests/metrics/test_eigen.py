"""The metrics of Eigen et al. by hand."""

import math

import numpy as np
import pytest

from trainer.metrics import METRICS


def eigen(pred, truth):
    return METRICS.create("eigen").compute(np.array(pred, dtype=float), np.array(truth, dtype=float))


def test_by_hand():
    scores = eigen(pred=[3.0, 4.0], truth=[2.0, 4.0])
    assert scores["abs_rel"] == pytest.approx(0.25)  # 1/2 and 0
    assert scores["sq_rel"] == pytest.approx(0.25)  # 1/2 and 0: divided by the truth, not its square
    assert scores["rmse"] == pytest.approx(math.sqrt(0.5))
    assert scores["log_rmse"] == pytest.approx(math.log(1.5) / math.sqrt(2))
    assert [scores["d1"], scores["d2"], scores["d3"]] == [0.5, 1.0, 1.0]  # ratios 1.5 and 1


def test_doubled_prediction_has_abs_rel_one():
    scores = eigen(pred=[2.0, 20.0, 50.0], truth=[1.0, 10.0, 25.0])
    assert scores["abs_rel"] == 1.0
    assert scores["sq_rel"] == pytest.approx(12.0)  # mean of the truth
    assert scores["log_rmse"] == pytest.approx(math.log(2))
    assert [scores["d1"], scores["d2"], scores["d3"]] == [0, 0, 0]  # 2 > 1.25^3 = 1.953


def test_borders_are_strict_in_both_directions():
    assert eigen(pred=[1.25, 0.8], truth=[1.0, 1.0])["d1"] == 0.0
    assert eigen(pred=[1.249, 0.801], truth=[1.0, 1.0])["d1"] == 1.0
    assert eigen(pred=[1.25**2, 1.25**3], truth=[1.0, 1.0])["d2"] == 0.0
    assert eigen(pred=[1.25**2, 1.25**3], truth=[1.0, 1.0])["d3"] == 0.5
