"""The ground: known planes are found, whatever stands on them, and the height scales as depth does."""

import math

import pytest
import torch

from trainer.geometry import fit_plane, lower_middle

H, W = 24, 36
K = torch.tensor([[[0.6 * W, 0, W / 2], [0, 1.9 * H, H / 2], [0, 0, 1.0]]], dtype=torch.float64)
WINDOW = lower_middle((H, W), 0.4, 0.6)


def camera_height(m):
    """Distance of the camera from a plane."""
    return 1 / m.norm(dim=-1)


def ground(height=1.5, normal=(0.05, 1.0, 0.1)):
    """Depth (1 1 H W) of a plane below the camera, by intersecting each ray with it; 50 above the horizon."""
    n = torch.tensor(normal, dtype=torch.float64)
    n = n / n.norm()
    v, u = torch.meshgrid(torch.arange(H).double(), torch.arange(W).double(), indexing="ij")
    rays = torch.stack([(u - W / 2) / (0.6 * W), (v - H / 2) / (1.9 * H), torch.ones_like(u)], -1)
    along = rays @ n
    return torch.where(along > 0.01, height / along, 50.0)[None, None], n


def test_the_window_is_the_lower_middle():
    assert lower_middle((10, 20), 0.3, 0.5) == (slice(7, 10), slice(5, 15))
    assert lower_middle((10, 20), 1.0, 1.0) == (slice(0, 10), slice(0, 20))
    assert lower_middle((10, 20), 0.01, 0.01) == (slice(7, 10), slice(8, 11))  # at least three


def test_a_plane_has_its_height_and_normal():
    depth, n = ground(1.5)
    m = fit_plane(depth, K, WINDOW)
    assert camera_height(m).item() == pytest.approx(1.5, rel=1e-9)
    assert (m[0] / m[0].norm()).tolist() == pytest.approx(n.tolist(), abs=1e-9)


def test_float32_is_enough():
    assert camera_height(fit_plane(ground(1.5)[0].float(), K.float(), WINDOW)).item() == pytest.approx(1.5, rel=1e-4)


def test_what_stands_on_the_ground_does_not_count():
    depth, _ = ground(1.5)
    depth[..., H - 8 :, 10:18] = 2.0  # a quarter of the window
    assert camera_height(fit_plane(depth, K, WINDOW)).item() == pytest.approx(1.5, rel=1e-6)


def test_the_height_scales_as_depth_does():
    torch.manual_seed(0)
    depth = 1 + torch.rand(2, 1, H, W, dtype=torch.float64)
    one, three = (camera_height(fit_plane(f * depth, K.expand(2, 3, 3), WINDOW)) for f in (1, 3))
    assert (three / one).tolist() == pytest.approx([3, 3], rel=1e-9)


def test_a_wall_ahead_is_as_high_as_it_is_far():
    wall = torch.full((1, 1, H, W), 7.0)
    assert camera_height(fit_plane(wall, K.float(), WINDOW)).item() == pytest.approx(7, rel=1e-5)


def test_the_last_fit_has_the_right_derivative():
    """Of an exact plane the weights do not move: the derivative is that of plain least squares."""
    depth = (ground(1.5)[0] * (1 + 0.02 * torch.randn(1, 1, H, W, generator=torch.Generator().manual_seed(1)))).double()
    depth.requires_grad_()
    (gradient,) = torch.autograd.grad(camera_height(fit_plane(depth, K, WINDOW)).sum(), depth)
    height = camera_height(fit_plane(depth, K, WINDOW)).item()
    assert (gradient * depth).sum().item() == pytest.approx(height, rel=1e-9)  # Euler: the height is homogeneous
    assert math.isfinite(gradient.abs().max().item())
    outside = gradient.clone()
    outside[..., WINDOW[0], WINDOW[1]] = 0
    assert not outside.any()
