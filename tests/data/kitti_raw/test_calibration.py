"""LiDAR points land in the right pixels, the nearest first."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.made_kitti import DATE, DRIVE
from trainer.data.files.scans import read_points
from trainer.data.kitti_raw.calibration import project_points, read_calibration

PROJECTION = np.array([[20.0, 0, 20, 0], [0, 20, 6, 0], [0, 0, 1, 0]]) @ np.array(
    [[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
)


def test_a_point_straight_ahead_lands_left_and_above_of_the_principal_point():
    depth = project_points(np.array([[10.0, 0, 0, 1]]), PROJECTION, (40, 12))
    assert depth.shape == (12, 40)
    assert depth[5, 19] == 10  # principal point 20, 6 counted from 1
    assert np.count_nonzero(depth) == 1


def test_the_nearest_point_wins_whatever_the_order():
    for points in ([[10.0, 0, 0], [5, 0, 0], [7, 0, 0]], [[5.0, 0, 0], [7, 0, 0], [10, 0, 0]]):
        assert project_points(np.array(points), PROJECTION, (40, 12))[5, 19] == 5


def test_last_column_and_first_column_of_the_next_row_are_different_pixels():
    z = 20.0
    last = [z, -20.0, 1.0]  # u = 40, v = 5: column 39, row 4
    first = [2 * z, 2 * 19.0, 0.0]  # u = 1, v = 6: column 0, row 5
    for order in ([last, last, first, first], [first, last, first, last]):
        depth = project_points(np.array(order), PROJECTION, (40, 12))
        assert depth[4, 39] == 20
        assert depth[5, 0] == 40


@pytest.mark.parametrize(
    "point",
    [
        *([-10.0, 0, 0], [0.0, 0, 0], [10.0, 10.5, 0], [10.0, -10.5, 0], [10.0, 0, 4], [10.0, 0, -4]),
        *([np.nan, 0, 0], [np.inf, 0, 0], [10.0, np.inf, 0], [10.0, 0, np.nan]),
    ],
)
def test_points_behind_or_beside_the_image_are_left_out(point):
    assert not project_points(np.array([point]), PROJECTION, (40, 12)).any()


def test_a_point_before_the_lidar_but_behind_the_camera_is_left_out():
    behind = PROJECTION.copy()
    behind[:, 3] = behind @ [-0.5, 0, 0, 0]  # the camera stands half a metre further on
    assert not project_points(np.array([[0.3, 0, 0]]), behind, (40, 12)).any()
    assert project_points(np.array([[10.3, 0, 0]]), behind, (40, 12))[5, 19] == pytest.approx(9.8)


def brute_force(points, projection, size):
    """The same map, one point after the other."""
    width, height = size
    depth = np.zeros((height, width))
    for x, y, z in points[:, :3].astype(np.float64):
        if x < 0:
            continue
        q = [sum(a * b for a, b in zip(row, (x, y, z, 1.0), strict=True)) for row in projection]
        if q[2] <= 0:
            continue
        u, v = round(q[0] / q[2]) - 1, round(q[1] / q[2]) - 1
        if 0 <= u < width and 0 <= v < height and (depth[v, u] == 0 or q[2] < depth[v, u]):
            depth[v, u] = q[2]
    return depth


def test_projection_equals_one_point_after_the_other():
    points = np.random.default_rng(0).normal(0, 8, (5000, 4)).astype(np.float32)
    expected = brute_force(points, PROJECTION, (40, 12))
    assert np.count_nonzero(expected) > 200
    assert np.array_equal(project_points(points, PROJECTION, (40, 12)), expected.astype(np.float32))


def test_projection_equals_one_point_after_the_other_on_a_real_scan(shared_data):
    raw = shared_data / "kitti_raw"
    calibration = read_calibration(raw / DATE)
    points = read_points(str(raw / DRIVE / "velodyne_points" / "data" / f"{5:010d}.bin"))[::7]
    projection = calibration.velodyne_to_pixels(3)
    expected = brute_force(points, projection, (1242, 375)).astype(np.float32)
    assert np.count_nonzero(expected) > 1500
    assert np.array_equal(project_points(points, projection, (1242, 375)), expected)
