"""Depth of boxes and ground as a ruler and a pencil give it; textures that hold nothing finer than a pixel."""

from __future__ import annotations

import numpy as np

from trainer.data.clips.intrinsics import average_intrinsics
from trainer.data.world.raycast import GROUND, Boxes, View, cast
from trainer.data.world.texture import noise, pulse

SIZE = (192, 64)
K = average_intrinsics(SIZE)
FX, FY, CX, CY = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
FAR = 90.0


def _boxes(*rows):
    centres, halves, yaws = zip(*rows, strict=True)
    return Boxes(np.array(centres), np.array(halves), np.array(yaws))


def _view(yaw=0.0):
    T = np.eye(4)
    T[1, 3] = -1.65
    T[:3, 0], T[:3, 2] = (np.cos(yaw), 0, -np.sin(yaw)), (np.sin(yaw), 0, np.cos(yaw))
    return View(T, K, SIZE)


class TestDepthByHand:
    def test_the_ground_below_the_horizon_is_camera_height_times_fy_over_the_row(self):
        depth, face = cast(_view(), _boxes(((50.0, -1, -50), (1, 1, 1), 0.0)), FAR)
        rows = np.arange(40, 64)
        assert (face[rows] == GROUND).all()
        np.testing.assert_allclose(depth[rows, 17], 1.65 * FY / (rows - CY), rtol=1e-5)

    def test_a_wall_across_the_street_has_one_depth(self):
        depth, _ = cast(_view(), _boxes(((0, -10, 11.0), (100, 10, 1), 0.0)), FAR)
        np.testing.assert_allclose(depth[: int(CY)], 10.0, rtol=1e-6)

    def test_a_camera_turned_by_yaw_sees_that_wall_nearer_on_one_side(self):
        yaw = np.deg2rad(5)
        depth, _ = cast(_view(yaw=yaw), _boxes(((0, -10, 11.0), (100, 10, 1), 0.0)), FAR)
        columns = np.arange(SIZE[0])
        expected = 10.0 / (np.cos(yaw) - np.sin(yaw) * (columns - CX) / FX)
        np.testing.assert_allclose(depth[5], expected, rtol=1e-5)

    def test_a_wall_beside_the_street_is_its_distance_times_fx_over_the_column(self):
        """It begins behind the camera, so its outline is cut at the near plane."""
        depth, _ = cast(_view(), _boxes(((-4, -5, 40.0), (1, 5, 60), 0.0)), FAR)
        columns = np.arange(0, 80)
        np.testing.assert_allclose(depth[10, columns], 3.0 * FX / (CX - columns), rtol=1e-5)

    def test_a_box_of_two_metres_at_ten_metres_covers_fx_over_five_columns(self):
        _, face = cast(_view(), _boxes(((0, -1.65, 10.5), (1, 1, 0.5), 0.0)), FAR)
        seen = np.flatnonzero(face[int(CY)] > GROUND + 1)
        assert len(seen) in (int(FX / 5), int(FX / 5) + 1)
        assert seen.mean() == CX

    def test_a_quarter_turn_exchanges_width_and_length(self):
        turned = cast(_view(), _boxes(((1, -1, 9.0), (0.5, 1, 2), np.pi / 2)), FAR)[0]
        exchanged = cast(_view(), _boxes(((1, -1, 9.0), (2, 1, 0.5), 0.0)), FAR)[0]
        np.testing.assert_allclose(turned, exchanged, rtol=1e-4)

    def test_the_order_of_boxes_does_not_matter(self):
        near, behind = ((0.3, -1, 8.0), (1, 1, 1), 0.2), ((0.8, -2, 12.0), (1, 2, 1), 0.0)
        np.testing.assert_array_equal(
            cast(_view(), _boxes(near, behind), FAR)[0], cast(_view(), _boxes(behind, near), FAR)[0]
        )

    def test_a_box_around_the_camera_or_behind_it_is_not_drawn(self):
        empty = cast(_view(), _boxes(((0, 5, -5), (1, 1, 1), 0.0)), FAR)[0]
        inside = cast(_view(), _boxes(((0, -1.65, 0), (1, 1, 1), 0.0)), FAR)[0]
        np.testing.assert_array_equal(inside, empty)


class TestTexture:
    def test_unresolved_pulses_show_their_mean(self):
        x = np.linspace(0, 7, 50, dtype=np.float32)
        duty = np.full_like(x, 0.3)
        np.testing.assert_allclose(pulse(x, duty, np.full_like(x, 0.5)), 0.3, atol=1e-5)

    def test_resolved_pulses_are_on_for_their_duty(self):
        x = np.array([0.1, 0.2, 0.4, 0.9, 5.1, -0.9], np.float32)
        on = pulse(x, np.full_like(x, 0.3), np.full_like(x, 1e-3))
        np.testing.assert_allclose(on, [1, 1, 0, 0, 1, 1], atol=1e-4)

    def test_noise_vanishes_where_the_longest_wave_is_under_a_pixel(self):
        u = np.linspace(0, 300, 1000, dtype=np.float32)
        assert noise(u, u, np.full_like(u, 0.1)).std() > 0.8
        assert np.abs(noise(u, u, np.full_like(u, 1e3))).max() < 0.02

    def test_noise_repeats_after_its_tile(self):
        u = np.linspace(0, 300, 100, dtype=np.float32)
        some = np.full_like(u, 1.0)
        np.testing.assert_allclose(noise(u, u, some), noise(u + 256, u - 512, some), atol=1e-3)
