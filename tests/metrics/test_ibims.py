"""Edges and directed errors of iBims, by hand on a step."""

import sys

import numpy as np
import pytest

from trainer.metrics import METRICS, DepthMaps
from trainer.metrics.ibims import log_depth
from trainer.runtime.errors import UserError


def step(column, near=4.0, far=30.0, size=(20, 40)):
    depth = np.full(size, far)
    depth[:, :column] = near
    return depth


def edge_at(column, size=(20, 40)):
    """The edge of `step(column)` as Canny sees it: the pixels on both sides of it."""
    edges = np.zeros(size, bool)
    edges[:, column - 1 : column + 1] = True
    return edges


def score(pred, truth, scored, valid=None):
    valid = np.ones(truth.shape, bool) if valid is None else valid
    return METRICS.create("ibims").compute(DepthMaps(pred, truth, scored, valid))


def test_a_sharp_edge_at_its_place_is_perfect():
    scores = score(step(20), step(20), edge_at(20))
    assert scores["edge_accuracy"] == 0
    assert scores["dir_acc"] == 100
    # Canny finds nothing in the outermost rows: the nearest edge is one row away in two rows of twenty
    assert scores["edge_completeness"] == pytest.approx(2 / 20)


def test_a_step_moved_by_three_pixels():
    scores = score(step(23), step(20), edge_at(20))
    # columns 22 and 23 against 19 and 20: 2 and 3 pixels, both ways
    assert scores["edge_accuracy"] == 2.5
    assert scores["edge_completeness"] == pytest.approx((18 * 2.5 + 2 * (np.sqrt(5) + np.sqrt(10)) / 2) / 20)
    # 3 of 40 columns are seen at 4 m and are at 30 m, beyond the plane at 10 m
    assert scores["dir_near"] == pytest.approx(100 * 3 / 40)
    assert scores["dir_far"] == 0
    assert scores["dir_acc"] == pytest.approx(100 * 37 / 40)


def test_no_edge_within_ten_pixels():
    scores = score(step(30), step(10), edge_at(10))
    assert (scores["edge_accuracy"], scores["edge_completeness"]) == (10, 10)
    scores = score(np.full((20, 40), 30.0), step(20), edge_at(20))  # flat
    assert (scores["edge_accuracy"], scores["edge_completeness"]) == (10, 10)
    assert scores["dir_far"] == 50  # near half seen beyond the plane


def test_directed_errors_count_valid_pixels_only():
    valid = np.ones((20, 40), bool)
    valid[:, :20] = False
    truth = step(20)
    truth[:, :20] = 0  # no truth must not count as near
    assert score(np.full((20, 40), 30.0), truth, edge_at(25), valid)["dir_acc"] == 100


def test_zero_depth_has_no_logarithm_and_stays_zero():
    assert log_depth(np.array([[0.0, 1.0, np.e]])).tolist() == [[0, 0, 1]]


def test_without_scikit_image_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(UserError, match=r'needs the package skimage.*pip install -e "\.\[eval\]"'):
        METRICS.create("ibims")
