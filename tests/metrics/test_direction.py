"""Angles between motions."""

import numpy as np
import pytest

from trainer.metrics.direction import direction_error_deg, summarise_directions


def test_angles_by_hand():
    forward = [0.0, 0.0, 1.0]
    pred = np.array([[0, 0, 7], [0, 0, -0.1], [1, 0, 1], [3, 0, 0], [0, 0, 0]], dtype=float)
    angle = direction_error_deg(pred, np.array([forward] * 5))
    assert angle == pytest.approx([0, 180, 45, 90, 90])  # no motion has no direction: as good as a guess


def test_small_angles_are_exact():
    pred = np.array([[1e-9, 0.0, 1.0]])
    assert direction_error_deg(pred, np.array([[0.0, 0.0, 1.0]])) == pytest.approx(np.degrees([1e-9]))


def test_a_true_motion_of_length_zero_is_refused():
    with pytest.raises(ValueError, match="length 0"):
        direction_error_deg(np.ones((1, 3)), np.zeros((1, 3)))


def test_summary_names_what_a_fixed_guess_reaches():
    # the car drives straight: support -1 lies behind, support +1 ahead; a fixed guess is perfect
    truth = np.array([[[0, 0, 1], [0, 0, -1]], [[0, 0, 2], [0, 0, 0]]], dtype=float)
    summary = summarise_directions(-truth, truth)
    assert (summary["mean"], summary["mean_of_fixed_direction"]) == (180, 0)
    assert (summary["count"], summary["skipped_without_motion"]) == (3, 1)
