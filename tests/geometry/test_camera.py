"""Intrinsics: resizing, mirroring, inverting."""

import pytest
import torch

from trainer.geometry import flip_intrinsics, inverse_intrinsics, pinhole, scale_intrinsics

K = torch.tensor([[700.0, 0.0, 600.0], [0.0, 720.0, 180.0], [0.0, 0.0, 1.0]])


def test_half_the_size_halves_focal_length_and_principal_point():
    half = scale_intrinsics(K, (1242, 376), (621, 188))
    assert torch.equal(half, torch.tensor([[350.0, 0.0, 300.0], [0.0, 360.0, 90.0], [0.0, 0.0, 1.0]]))


def test_each_axis_scales_by_itself():
    assert torch.equal(scale_intrinsics(K, (100, 100), (200, 100))[:2, 2], torch.tensor([1200.0, 180.0]))


def test_an_empty_size_is_an_error():
    with pytest.raises(ValueError, match=r"\(0, 10\)"):
        scale_intrinsics(K, (0, 10), (10, 10))


def test_mirroring_moves_the_principal_point_to_the_mirrored_pixel():
    assert flip_intrinsics(K, 1242)[0, 2] == 1241 - 600
    assert torch.equal(flip_intrinsics(flip_intrinsics(K, 1242), 1242), K)


def test_a_mirrored_camera_sees_mirrored_points():
    point = torch.tensor([2.0, 1.0, 10.0])
    mirrored = point * torch.tensor([-1.0, 1.0, 1.0])
    u = (K @ point)[0] / 10
    assert (flip_intrinsics(K, 1242) @ mirrored)[0] / 10 == pytest.approx(1241 - u.item())


def test_inverse_with_skew_and_batch():
    skewed = K.double().clone()
    skewed[0, 1] = 3.0
    both = torch.stack([K.double(), skewed])
    assert torch.allclose(inverse_intrinsics(both) @ both, torch.eye(3).double().expand(2, 3, 3), atol=1e-12)


def test_a_pinhole_in_fractions_of_an_image():
    K = pinhole(torch.tensor([[0.5, 2.0]]), torch.tensor([[0.25, 0.75]]), (100, 40))
    assert K.tolist() == [[[50, 0, 25], [0, 80, 30], [0, 0, 1]]]
