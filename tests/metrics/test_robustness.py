"""mCE, mRR, RmCE: the baseline's own published numbers, and a network made by hand."""

import math

import pytest

from trainer.data.corruptions.kinds import KINDS
from trainer.metrics.robustness import MONODEPTH2, dee, robustness


def test_the_baseline_has_its_published_resilience():
    scores = robustness(MONODEPTH2.clean, MONODEPTH2.kinds)
    assert round(scores.mrr_pct, 2) == 84.46
    assert (scores.mce_pct, scores.rmce) == (pytest.approx(100), pytest.approx(1))
    assert tuple(MONODEPTH2.kinds) == KINDS


def test_errors_relative_to_the_baseline():
    """Clean 0.2; fog 0.31 is twice the baseline's 0.155, dark 0.14 half of its 0.28."""
    scores = robustness(0.2, {"fog": 0.31, "dark": 0.14})
    assert scores.ce_pct == pytest.approx({"fog": 200, "dark": 50})
    assert scores.mce_pct == pytest.approx(125)
    assert scores.rr_pct == pytest.approx({"fog": 100 * 0.69 / 0.8, "dark": 100 * 0.86 / 0.8})
    assert scores.mrr_pct == pytest.approx(50 * (0.69 + 0.86) / 0.8)
    assert scores.rmce == pytest.approx((0.11 / 0.036 - 0.06 / 0.161) / 2)


def test_dee():
    assert dee(0, 1) == 0
    assert dee(0.115, 0.877) == 0.119  # of Monodepth2 on clean pictures
    assert dee(0.2, 0.7) == 0.25


def test_nothing_is_left_of_no_accuracy():
    assert math.isnan(robustness(1.0, {"fog": 0.5}).mrr_pct)
