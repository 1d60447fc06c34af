"""View synthesis: what another camera saw, seen from here."""

import pytest
import torch

from trainer.geometry import ViewSynthesis, pose_matrix
from trainer.geometry.synthesis import cache_pieces, project


def intrinsics(fx=100.0, w=32, h=16, dtype=torch.float32):
    return torch.tensor([[[fx, 0.0, (w - 1) / 2], [0.0, fx, (h - 1) / 2], [0.0, 0.0, 1.0]]], dtype=dtype)


def moved(x=0.0, y=0.0, z=0.0):
    T = torch.eye(4)[None].clone()
    T[0, :3, 3] = torch.tensor([x, y, z])
    return T


def test_standing_still_shows_the_image_itself():
    image, depth = torch.rand(1, 3, 16, 32), 1 + 9 * torch.rand(1, 1, 16, 32)
    view = ViewSynthesis(intrinsics(), (16, 32)).view(image, depth, moved())
    assert torch.allclose(view.image, image, atol=5e-6)
    exact = ViewSynthesis(intrinsics(dtype=torch.float64), (16, 32)).view(image.double(), depth.double(), moved())
    assert torch.allclose(exact.image, image.double(), atol=1e-12)
    assert torch.equal(view.z, depth)


def test_a_plane_at_10_m_seen_from_a_decimetre_to_the_side_shifts_by_fx_over_100():
    ramp = torch.arange(32.0).expand(1, 1, 16, 32)  # a pixel's value is its column
    depth = torch.full((1, 1, 16, 32), 10.0)
    synthesis = ViewSynthesis(intrinsics(fx=100.0), (16, 32))
    seen = synthesis.view(ramp, depth, moved(x=0.1)).image
    shift = 100.0 * 0.1 / 10
    assert torch.allclose(seen[..., :-1], ramp[..., :-1] + shift, atol=1e-4)
    assert torch.allclose(seen[..., -1:], ramp[..., -1:], atol=1e-4)  # beyond the border: the border's colour


def test_walking_forward_enlarges_the_picture():
    rows = torch.arange(16.0)[:, None].expand(1, 1, 16, 32) - 7.5
    depth = torch.full((1, 1, 16, 32), 10.0)
    seen = ViewSynthesis(intrinsics(), (16, 32)).view(rows, depth, moved(z=-5.0)).image  # points come 5 m nearer
    assert torch.allclose(seen[0, 0, 5:11, 0], 2 * rows[0, 0, 5:11, 0], atol=1e-4)


def test_what_falls_outside_is_not_valid():
    depth = torch.full((1, 1, 16, 32), 10.0)
    view = ViewSynthesis(intrinsics(), (16, 32)).view(torch.rand(1, 3, 16, 32), depth, moved(x=0.3))  # 3 pixels
    assert view.valid[0, 0, 1:-1, 1:28].all()
    assert not view.valid[..., 28:].any()


def test_what_lies_behind_is_not_valid_though_it_projects_inside():
    depth = torch.full((1, 1, 16, 32), 1.0)
    view = ViewSynthesis(intrinsics(), (16, 32)).view(torch.rand(1, 3, 16, 32), depth, moved(z=-1.05))
    assert not view.valid.any()
    assert torch.equal(view.z, torch.full_like(depth, torch.finfo(torch.float32).eps))


def test_points_nearer_than_a_decimetre_are_divided_by_a_decimetre():
    K = intrinsics(fx=100.0, w=33, h=17)  # principal point at pixel (16, 8)
    P = ViewSynthesis(K, (17, 33)).projection(moved(x=0.01, z=-0.95))
    grid, z = project(torch.ones(1, 1, 17, 33), P)
    assert z[0, 0, 8, 16].item() == pytest.approx(0.05)
    u = (100 * 0.01 + 16 * 0.05) / 0.1  # the principal point counts half, as z is half of the clamp
    assert grid[0, 8, 16, 0].item() == pytest.approx(2 * u / 32 - 1, abs=1e-4)


def test_legacy_sampling_moves_the_borders_by_up_to_half_a_pixel():
    ramp = torch.arange(32.0, dtype=torch.float64).expand(1, 1, 16, 32)
    depth = torch.ones(1, 1, 16, 32).double()
    legacy = ViewSynthesis(intrinsics(dtype=torch.float64), (16, 32), legacy_sampling=True)
    expected = ramp * 32 / 31 - 0.5
    assert torch.allclose(legacy.view(ramp, depth, moved()).image, expected.clamp(0, 31), atol=1e-9)


def test_projection_agrees_with_homogeneous_coordinates():
    torch.manual_seed(0)
    K, T = (intrinsics(dtype=torch.float64), pose_matrix(torch.rand(1, 3).double() / 5, torch.rand(1, 3).double()))
    depth = 2 + torch.rand(1, 1, 16, 32).double()
    grid, z = project(depth, ViewSynthesis(K, (16, 32)).projection(T))
    seen = K[0].inverse() @ torch.tensor([7.0, 3.0, 1.0]).double() * depth[0, 0, 3, 7]
    u, v, w = (K[0] @ (T[0] @ torch.cat([seen, torch.ones(1)]))[:3]).tolist()
    assert grid[0, 3, 7].tolist() == pytest.approx([2 * u / w / 31 - 1, 2 * v / w / 15 - 1])
    assert z[0, 0, 3, 7].item() == pytest.approx(w)


@pytest.mark.parametrize("z", [0.0, -0.96])  # far from the clamp, and with points on both sides of it
def test_gradients_of_the_projection_are_exact(z):
    torch.manual_seed(0)
    K, T = (intrinsics(w=4, h=3, dtype=torch.float64).expand(2, 3, 3), moved(0.1, -0.2, z).double().expand(2, 4, 4))
    depth = (1 + 0.1 * torch.rand(2, 1, 3, 4)).double().requires_grad_()
    P = ViewSynthesis(K, (3, 4)).projection(T).contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda d, p: project(d, p)[0], (depth, P))


def test_gradients_of_a_warp_reach_depth_and_motion():
    torch.manual_seed(1)
    image = torch.rand(1, 2, 5, 6).double()
    R, t = ((0.01 * torch.rand(1, 3).double()).requires_grad_(), (0.01 * torch.rand(1, 3).double()).requires_grad_())
    depth = (1 + torch.rand(1, 1, 5, 6).double()).requires_grad_()
    synthesis = ViewSynthesis(intrinsics(fx=5.0, w=6, h=5, dtype=torch.float64), (5, 6))

    def warp(depth, R, t):
        return synthesis.warp(image, depth, synthesis.projection(pose_matrix(R, t)))

    assert torch.autograd.gradcheck(warp, (depth, R, t))


def test_geometry_ignores_autocast():
    image, depth, T = torch.rand(1, 3, 16, 32), 1 + torch.rand(1, 1, 16, 32), moved(x=0.3)
    plain = ViewSynthesis(intrinsics(), (16, 32)).view(image, depth, T)
    with torch.autocast("cpu", torch.bfloat16):
        cast = ViewSynthesis(intrinsics(), (16, 32)).view(image, depth, T)
    assert cast.image.dtype == torch.float32
    assert torch.equal(plain.image, cast.image)


@pytest.mark.parametrize("size", [(16, 32), (15, 33), (64, 192)])
def test_items_that_are_projected_together_give_the_same_bits_as_each_alone(size):
    depth, P = 1 + torch.rand(5, 1, *size), torch.rand(5, 3, 4)
    P[:, 2, 3] += 1
    depth, P = depth.requires_grad_(), P.requires_grad_()
    weights = torch.rand(5, *size, 2)
    assert len(cache_pieces(depth)) == 1

    def projected(items):
        grid, z = project(depth[items], P[items])
        return grid.detach(), z, *torch.autograd.grad((grid * weights[items]).sum(), (depth, P))

    together, alone = projected(slice(0, 5)), [projected(slice(i, i + 1)) for i in range(5)]
    for k, part in enumerate(together):
        apart = [values[k] for values in alone]
        assert torch.equal(part, torch.cat(apart) if k < 2 else torch.stack(apart).sum(0))


def test_pieces_hold_what_a_cache_does():
    def sizes(*shape):
        return [torch.empty(shape)[piece].shape[:2] for piece in cache_pieces(torch.empty(shape))]

    assert sizes(4, 3, 64, 192) == [(1, 3)] * 4  # 48 KB a map
    assert sizes(4, 3, 64, 96) == [(3, 3), (1, 3)]  # 24 KB
    assert sizes(2, 3, 192, 640) == [(1, 1)] * 6  # 480 KB
    assert sizes(3, 1, 192, 640) == [(1, 1)] * 3
    assert sizes(1, 5, 100, 300) == [(1, 2), (1, 2), (1, 1)]  # 117 KB
    assert sizes(2, 3, 2000, 600) == [(1, 1)] * 6
