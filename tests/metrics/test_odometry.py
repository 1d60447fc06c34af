"""Paths of cameras: straight lines and circles, by hand."""

import numpy as np
import pytest

from trainer.metrics.odometry import score_sequence, segment_errors, snippet_errors, trajectory


def forward(metres, degrees=0.0):
    """Motion of a camera that turns right about y, then drives ahead: points come nearer by `metres`."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    pose = np.eye(4)
    pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    pose[:3, 3] = pose[:3, :3] @ [0, 0, metres]
    return np.linalg.inv(pose)


def straight(n, metres=1.0):
    return np.stack([forward(metres)] * n)


def test_driving_ahead_moves_along_z():
    assert trajectory(straight(3))[:, :3, 3].tolist() == [[0, 0, z] for z in range(4)]


def test_four_right_turns_come_back():
    poses = trajectory(np.stack([forward(2, 90)] * 4))
    assert poses[-1] == pytest.approx(np.eye(4), abs=1e-12)


def test_a_turn_comes_after_the_way_before_it():
    assert trajectory(np.stack([forward(1), forward(1, 90)]))[-1, :3, 3] == pytest.approx([1, 0, 1])


def test_the_unit_of_a_prediction_does_not_matter():
    scores = score_sequence(straight(300, 0.01), straight(300, 1.0))
    assert scores["ate_m"] == pytest.approx(0, abs=1e-12)
    assert scores["t_err_pct"] == pytest.approx(0, abs=1e-10)
    assert scores["scale"] == pytest.approx(100)
    assert (scores["frames"], scores["path_m"], scores["snippets"]) == (301, pytest.approx(300), 297)


def test_snippet_error_by_hand():
    # the camera drives 1 m to the side with every frame instead of ahead: no scale helps, the best is 0
    aside = np.stack([np.eye(4)] * 4)
    aside[:, 0, 3] = -1
    (error,) = snippet_errors(aside, straight(4))
    assert error == pytest.approx(np.sqrt(1 + 4 + 9 + 16) / 5)  # over the number of frames, not its root


def test_drift_by_hand():
    # the prediction turns 0.1 degrees per metre: 10 degrees over 100 m
    true = trajectory(straight(101))
    pred = trajectory(np.stack([forward(1, 0.1)] * 101))
    (segment, *_) = segment_errors(pred[:102], np.concatenate([true, true[-1:] + 0]), lengths=[99.5])
    assert segment["r_err"] == pytest.approx(np.radians(10) / 99.5)
    # the error is seen from the end of the prediction; its length is that of the gap between both ends
    gap = np.linalg.norm(pred[100, :3, 3] - true[100, :3, 3])
    assert segment["t_err"] == pytest.approx(gap / 99.5)


def test_a_scale_error_of_ten_per_cent_is_ten_per_cent_of_drift():
    true, pred = trajectory(straight(250)), trajectory(straight(250, 1.1))
    segments = segment_errors(pred, true, lengths=[99.5, 199.5])
    # both ends are whole metres: 100 m and 200 m
    assert [s["t_err"] for s in segments if s["length_m"] == 99.5] == pytest.approx([10 / 99.5] * 16)
    assert len([s for s in segments if s["length_m"] == 199.5]) == 6


def test_short_sequences_have_no_drift():
    scores = score_sequence(straight(3), straight(3))
    assert (scores["ate_m"], scores["t_err_pct"], scores["snippets"], scores["segments"]) == (None, None, 0, 0)
    assert score_sequence(straight(4), straight(4))["snippets"] == 1


def test_a_camera_that_is_thought_to_rest():
    rest = np.stack([np.eye(4)] * 4)
    assert score_sequence(rest, straight(4))["ate_m"] == pytest.approx(np.sqrt(30) / 5)
