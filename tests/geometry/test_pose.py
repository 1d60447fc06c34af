"""Rigid motions: rotation vectors, composition, inverse."""

import math

import pytest
import torch

from trainer.geometry import axis_angle_to_matrix, invert_pose, pose_matrix


def test_a_quarter_turn_about_z_moves_x_to_y():
    rotation = axis_angle_to_matrix(torch.tensor([0.0, 0.0, math.pi / 2]))
    assert torch.allclose(rotation @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)


def test_no_rotation_is_exactly_the_identity():
    assert torch.equal(axis_angle_to_matrix(torch.zeros(2, 3)), torch.eye(3).expand(2, 3, 3))


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 0.0316, 0.0317, 1.0, 3.1, 6.0])
def test_agrees_with_the_matrix_exponential(angle):
    axis = torch.tensor([0.36, -0.48, 0.8], dtype=torch.float64)
    x, y, z = axis * angle
    zero = torch.zeros((), dtype=torch.float64)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
    assert torch.allclose(axis_angle_to_matrix(axis * angle), torch.linalg.matrix_exp(skew), atol=1e-14)


def test_derivatives_at_zero_are_the_generators():
    jacobian = torch.autograd.functional.jacobian(axis_angle_to_matrix, torch.zeros(3, dtype=torch.float64))
    about_x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    about_y = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64)
    about_z = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    for k, generator in enumerate((about_x, about_y, about_z)):
        assert torch.equal(jacobian[..., k], generator)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
def test_gradient_is_exact_near_and_far_from_zero(scale):
    R = scale * torch.tensor([[0.3, -0.5, 0.2]], dtype=torch.float64)
    t = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(pose_matrix, (R.requires_grad_(), t.requires_grad_()))


def test_rotation_comes_before_translation():
    T = pose_matrix(torch.tensor([[0.0, 0.0, math.pi]]), torch.tensor([[5.0, 0.0, 0.0]]))
    assert torch.allclose(T[0] @ torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([4.0, 0.0, 0.0, 1.0]), atol=1e-6)


def test_inverse_undoes_the_motion():
    T = pose_matrix(torch.randn(2, 4, 3).double(), torch.randn(2, 4, 3).double())
    assert torch.allclose(invert_pose(T) @ T, torch.eye(4).double().expand(2, 4, 4, 4), atol=1e-12)


def test_poses_stay_in_float32_whatever_the_network_gives():
    R, t = torch.rand(2, 3, dtype=torch.bfloat16), torch.rand(2, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        T = pose_matrix(R, t)
        inverse = invert_pose(T)
    assert T.dtype == inverse.dtype == torch.float32
    assert torch.equal(T, pose_matrix(R.float(), t.float()))
