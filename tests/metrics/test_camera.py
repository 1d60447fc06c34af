"""A learned camera over a data set: numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.metrics.camera import LearnedCamera, fields_of_view, measure, stretch, summarise, true_view


def predicted(focal: float, yaw: float = 0.0, pitch: float = 0.0) -> dict[str, torch.Tensor]:
    """One item with two supports; the second pair predicts another camera, which does not count."""
    return {
        "focal": torch.tensor([[[focal, focal], [9.0, 9.0]]]),
        "centre": torch.tensor([[[0.4, 0.5], [0.9, 0.9]]]),
        "R": torch.tensor([[[pitch, yaw, 0.5], [pitch, yaw, 0.5]]]),  # rolling says nothing about focal lengths
    }


def test_half_a_width_is_90_degrees():
    assert fields_of_view(torch.tensor([0.5, 0.866])).tolist() == pytest.approx([90, 60], abs=0.01)


def test_mean_and_deviation_are_over_the_items_that_have_a_camera():
    K = torch.tensor([[[100.0, 0, 50], [0, 50, 25], [0, 0, 1]]])
    rows = [measure(predicted(focal), K, (200, 100)) for focal in (0.4, 0.6)]
    without = measure({"disp": {0: torch.ones(3, 1, 2, 2)}}, None, (200, 100))
    camera = summarise(torch.cat([*rows, without]))
    assert camera.images == 2
    assert camera.mean == pytest.approx((0.5, 0.5, 0.4, 0.5))
    assert camera.sd == pytest.approx((0.1, 0.1, 0.0, 0.0), abs=1e-7)
    assert camera.spread == pytest.approx(0.2)
    assert camera.fov[0] == pytest.approx((102.68 + 79.61) / 2, abs=0.01)
    assert true_view(torch.cat([*rows, without])) == pytest.approx((90, 90))
    assert stretch(torch.cat([*rows, without])) == pytest.approx(0.5 * 2)
    assert math.isnan(stretch(without))
    assert LearnedCamera.from_dict(camera.to_dict()) == camera
    assert camera.words == "91.1 ± 11.5 x 91.1 ± 11.5 degrees"
    assert summarise(without) is None


def test_what_ten_per_cent_of_focal_length_change_at_the_border_by_a_turn():
    """f = 100 pixels, the border 100 pixels away, a turn by 0.01: x**2 w / f = 1 pixel, a fifth of it is wrong."""
    assert summarise(measure(predicted(0.5, yaw=0.01), None, (200, 100))).bend == pytest.approx(0.2)
    assert summarise(measure(predicted(0.5, pitch=0.01), None, (200, 100))).bend == pytest.approx(0.2)
    assert summarise(measure(predicted(0.5), None, (200, 100))).bend == 0

    def moves(f: float, turn: float) -> float:
        return f * math.tan(math.atan(100 / f) + turn) - 100 - f * math.tan(turn)

    assert moves(100, 0.01) - moves(110, 0.01 / 1.1) == pytest.approx(0.2, abs=0.04)
