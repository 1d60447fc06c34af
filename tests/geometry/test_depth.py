"""Disparity and depth."""

import numpy as np
import pytest
import torch

from trainer.geometry import depth_to_disp, disp_to_depth, inverse_depth, valid_depth


def test_the_ends_of_the_sigmoid_are_the_bounds():
    depth = disp_to_depth(torch.tensor([0.0, 1.0]), 0.1, 100.0)
    assert depth.tolist() == pytest.approx([100.0, 0.1])


def test_half_of_the_sigmoid_is_the_harmonic_mean():
    assert disp_to_depth(torch.tensor(0.5), 1.0, 3.0).item() == pytest.approx(1.5)  # 2 / (1 + 1/3)


def test_disparity_survives_the_round_trip():
    disp = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.allclose(depth_to_disp(disp_to_depth(disp, 0.1, 80.0), 0.1, 80.0), disp)


@pytest.mark.parametrize("unbounded", [None, 0])
def test_without_a_far_bound_depth_is_large_but_finite(unbounded):
    depth = disp_to_depth(torch.tensor([0.0, 0.5, 1.0]), 0.1, unbounded)
    assert depth[1:].tolist() == pytest.approx([0.2, 0.1])
    assert 1e6 < depth[0].item() < 1e8


@pytest.mark.parametrize(("near", "far"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_impossible_bounds_are_named(near, far):
    with pytest.raises(ValueError, match=f"min_depth={near} and max_depth={far}"):
        disp_to_depth(torch.zeros(1), near, far)


def test_equal_bounds_leave_no_disparity():
    with pytest.raises(ValueError, match="both 2"):
        depth_to_disp(torch.ones(1), 2.0, 2.0)


def test_no_measurement_stays_no_measurement():
    assert inverse_depth(torch.tensor([0.0, -1.0, 4.0])).tolist() == [0.0, 0.0, 0.25]


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_a_measurement_lies_strictly_between_the_limits(kind):
    depth = kind([np.nan, np.inf, -np.inf, 3e38, 1e-30, 0.0, -1.0, 0.5, 80.0])
    assert valid_depth(depth).tolist() == 7 * [False] + 2 * [True]
    assert valid_depth(depth, 0.5, 80.0).tolist() == 9 * [False]
    assert valid_depth(depth, 0.0, np.inf).tolist() == [False, False, False, True, True, False, False, True, True]


def test_depth_of_half_precision_disparity_is_float32():
    assert disp_to_depth(torch.rand(2, dtype=torch.bfloat16)).dtype == torch.float32
