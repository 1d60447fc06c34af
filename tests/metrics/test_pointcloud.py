"""Point clouds: by hand on a wall, and against brute force."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from trainer.metrics import METRICS, DepthMaps
from trainer.metrics.pointcloud import back_project, overlap
from trainer.runtime.errors import UserError

K = np.array([[20.0, 0, 7.5], [0, 25.0, 5.5], [0, 0, 1]])


def score(pred, truth, scored=None, K=K):
    scored = np.ones(truth.shape, bool) if scored is None else scored
    return METRICS.create("pointcloud").compute(DepthMaps(pred, truth, scored, scored, K))


def test_back_projection_by_hand():
    depth = np.zeros((3, 4))
    depth[2, 1] = 10
    (point,) = back_project(depth, depth > 0, np.array([[5.0, 0, 2], [0, 4, 1], [0, 0, 1]]))
    assert point == pytest.approx([10 * (1 - 2) / 5, 10 * (2 - 1) / 4, 10])


def test_a_wall_moved_by_15_cm_by_hand():
    # one pixel: a metre of difference is a metre of distance
    truth = np.full((1, 1), 10.0)
    scores = score(truth + 0.15, truth, K=np.eye(3))
    assert scores["chamfer"] == pytest.approx(0.3)  # there and back
    assert (scores["f_score_10"], scores["iou_10"]) == (0, 0)
    assert (scores["f_score_20"], scores["iou_20"]) == (100, 100)


def test_against_brute_force():
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 4, (12, 16))
    pred = truth + rng.normal(0, 0.15, truth.shape)
    scored = rng.random(truth.shape) < 0.7
    inverse = np.linalg.inv(K)
    points = [
        np.array([d[v, u] * inverse @ [u, v, 1] for v in range(12) for u in range(16) if scored[v, u]])
        for d in (pred, truth)
    ]
    distance = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    a, b = distance.min(1), distance.min(0)
    expected = {"chamfer": a.mean() + b.mean()}
    for name, th in (("10", 0.1), ("20", 0.2)):
        p, r = (a < th).mean(), (b < th).mean()
        expected[f"f_score_{name}"] = 100 * 2 * p * r / (p + r)
        expected[f"iou_{name}"] = 100 * p * r / (p + r - p * r)
    assert 5 < expected["f_score_10"] < 95
    assert score(pred, truth, scored) == pytest.approx(expected, rel=1e-9)


def test_where_nothing_matches_there_is_no_division():
    far = np.full(10, 9.0)
    assert overlap(far, far, 0.1) == (0, 0)
    assert overlap(np.array([0.0, 9]), np.array([0.0, 9]), 0.1) == (0.5, pytest.approx(1 / 3))


def test_without_intrinsics_there_are_no_points():
    with pytest.raises(UserError, match="needs intrinsics"):
        score(np.ones((2, 2)), np.ones((2, 2)), K=None)


def test_threads_are_those_of_torch_and_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    pred, truth = rng.uniform(2, 9, (2, 12, 16))
    alone = score(pred, truth)
    used = []

    class Spy(cKDTree):
        def query(self, points, workers):
            used.append(workers)
            return super().query(points, workers=workers)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr("trainer.metrics.pointcloud.cKDTree", Spy)
    assert score(pred, truth) == alone
    assert used == [3, 3]
