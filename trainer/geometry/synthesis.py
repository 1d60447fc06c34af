"""View synthesis: a support image seen from the target camera.

A target pixel p = (u, v, 1) at depth d is the point d K^-1 p; T moves it to the support camera, K projects it. With the
3x4 matrix P = K [R K^-1 | t] this is one affine map per pixel, Y = d P[:, :3] p + P[:, 3], without a list of rays.
SfM-Learner, arXiv:1704.07813; Monodepth2, arXiv:1806.01260.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.geometry.camera import inverse_intrinsics
from trainer.geometry.precision import full_precision, matmul3

Runner = Callable[..., Any]  # formula, its arguments -> its result: calls it as it is, or compiled
NEAREST = 0.1  # projected coordinates are divided by at least this depth
PIECE = 256 * 1024  # bytes of a map that SSIM works on at a time; 640 KB take 1.3 to 1.6 times as long
OUTSIDE = 2.0  # a coordinate outside every image, where centres of pixels lie between -1 and 1


class View(NamedTuple):
    """A support image warped into the target view."""

    image: Tensor  # (b c h w)
    z: Tensor  # (b 1 h w) depth of the target's points in the support camera, at least machine epsilon
    valid: Tensor  # (b 1 h w) bool: in front of the camera and inside the support image


class ViewSynthesis:
    """Warp support images into a target view, for every scale and support.

    Args:
        K: (b 3 3) intrinsics shared by target and supports, in pixels of `size`.
        size: (h, w) of the target depth.
        legacy_sampling: sample as the benchmark of arXiv:2208.01489 did (`align_corners=False` on a grid normalised
            by w - 1 and h - 1), which moves samples by up to half a pixel at the borders.
    """

    def __init__(self, K: Tensor, size: tuple[int, int], legacy_sampling: bool = False):
        self.K = full_precision(K)
        self.K_inv = inverse_intrinsics(self.K)
        self.size = size
        self.align_corners = not legacy_sampling
        self._judged = [self.K.detach()]  # camera, motions, and extremes of the points

    def warp_all(self, run: Runner, images: Tensor, depths: Tensor, Ts: Tensor) -> Tensor:
        """Warp like `warp`, all images (b n c h w) at all depths (b s h w) with motions Ts (b n 4 4), in one call.

        Returns (b n c s h w). `run` calls the formula, `warp_formula`, in which autograd finds the derivative.
        """
        size = full_precision(images), full_precision(depths), full_precision(Ts)
        warped, extremes = run(warp_formula, *size, self.K, self.K_inv, self.align_corners)
        self._judged += [Ts.detach(), extremes]
        return warped

    def projection(self, T: Tensor) -> Tensor:
        """Compose P (b 3 4) from the motion T (b 4 4), target to support."""
        T = full_precision(T)
        rotation = matmul3(T[:, :3, :3], self.K_inv)
        P = matmul3(self.K, torch.cat([rotation, T[:, :3, 3:]], -1))
        self._judged.append(P.detach())
        return P

    def warp(self, image: Tensor, depth: Tensor, P: Tensor) -> Tensor:
        """Sample `image` (b c h w) where the target's pixels, at `depth` (b 1 h w), fall under P.

        Returns (b c h w). Bilinear; what falls outside takes the colour of the nearest border pixel, as do points that
        are not finite, which `fault` reports.
        """
        grid, _ = project(full_precision(depth), P)
        return self._sample(image, grid)

    def view(self, image: Tensor, depth: Tensor, T: Tensor) -> View:
        """Warp like `warp`, and return depth and validity in the support camera as well."""
        grid, z = project(full_precision(depth), self.projection(T))
        inside = (grid.abs() < 1).all(-1).unsqueeze(1)
        return View(self._sample(image, grid), z.clamp_min(torch.finfo(z.dtype).eps), inside & (z > 0))

    def fault(self) -> Tensor:
        """Return a scalar without gradient: 0, or NaN once a camera, motion or point was not finite.

        Warped images cannot show it, since the border has a colour for every point. Nothing waits for the device.
        """
        return (torch.cat([numbers.flatten() for numbers in self._judged]) * 0).sum()

    def _sample(self, image: Tensor, grid: Tensor) -> Tensor:
        """Sample image (b c h w) at grid (b h w 2), in which numbers that are not finite are replaced.

        The backward pass of `grid_sample` on a CPU would read arbitrary memory at a NaN.
        """
        points = grid.detach()
        self._judged += points.aminmax()
        points.nan_to_num_(nan=OUTSIDE, posinf=OUTSIDE, neginf=-OUTSIDE)
        image = full_precision(image)
        return F.grid_sample(image, grid, padding_mode="border", align_corners=self.align_corners)


def warp_formula(
    images: Tensor, depths: Tensor, Ts: Tensor, K: Tensor, K_inv: Tensor, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Warp images (b n c h w) at depths (b s h w) by motions Ts (b n 4 4): what `ViewSynthesis.warp` does, plainly.

    Returns (b n c s h w), and the extremes (2,) of the points, without gradient, before those that are not finite are
    replaced. Ten maps per support and scale are kept for the backward pass, unless a compiler fuses them.
    """
    b, n, c, h, w = images.shape
    rotation = matmul3(Ts[..., :3, :3], K_inv[:, None])
    P = matmul3(K[:, None], torch.cat([rotation, Ts[..., :3, 3:]], -1))[..., None, None]  # (b n 3 4 1 1)
    u, v = _pixels(depths)
    rays = P[:, :, :, 0] * u + (P[:, :, :, 1] * v + P[:, :, :, 2])
    x, y, z = (rays[:, :, :, None] * depths[:, None, None] + P[:, :, :, 3, None]).unbind(2)  # (b n s h w) each
    grid = torch.stack([x, y], -1) / z.clamp_min(NEAREST).unsqueeze(-1)
    grid = grid * torch.stack([torch.full_like(u[0, 0], 2 / (w - 1)), torch.full_like(u[0, 0], 2 / (h - 1))]) - 1
    extremes = torch.stack(grid.detach().aminmax())
    grid = grid.nan_to_num(nan=OUTSIDE, posinf=OUTSIDE, neginf=-OUTSIDE).view(b * n, -1, w, 2)
    warped = F.grid_sample(images.reshape(b * n, c, h, w), grid, padding_mode="border", align_corners=align_corners)
    return warped.view(b, n, c, -1, h, w), extremes


def sample_grid(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample image (b c h w) bilinearly at every pair of columns x (b u) and rows y (b v), in pixels inside the image.

    Returns (b c v u). x and y are constants, which must be finite.
    """
    h, w = image.shape[-2:]
    columns, rows = x * (2 / (w - 1)) - 1, y * (2 / (h - 1)) - 1
    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), -1)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=True)


def project(depth: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    """Project the pixels of a depth map.

    depth (b 1 h w), P (b 3 4) as at the top of this file. Returns the grid (b h w 2) of x and y, -1 and 1 at the
    centres of the outermost pixels, and z (b 1 h w), the depth in the support camera, without gradient. All of K Y is
    divided by max(z, 0.1): points nearer than that, or behind the camera, are drawn towards the origin.
    """
    grid, z = _Project.apply(depth, P)
    return grid, z


class _Project(torch.autograd.Function):
    """`project` with a derivative by hand: autograd would keep ten maps instead of depth and P."""

    @staticmethod
    def forward(ctx: Any, depth: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
        b, _, h, w = depth.shape
        ctx.save_for_backward(depth, P)
        grid, z = depth.new_empty(b, h, w, 2), torch.empty_like(depth)
        for part, _ in cache_pieces(depth):
            x, y, z[part, 0], _ = _project_part(depth[part, 0], P[part])
            torch.add(x.mul_(2 / (w - 1)), -1, out=grid[part, ..., 0])
            torch.add(y.mul_(2 / (h - 1)), -1, out=grid[part, ..., 1])
        ctx.mark_non_differentiable(z)
        return grid, z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_grid: Tensor, _grad_z: Tensor) -> tuple[Tensor | None, Tensor | None]:
        depth, P = ctx.saved_tensors
        _, _, h, w = depth.shape
        u, v = _pixels(depth)
        grad_depth, grad_P = torch.empty_like(depth), torch.empty_like(P)
        for part, _ in cache_pieces(depth):
            d = depth[part, 0]
            x, y, z, scale = _project_part(d, P[part])
            gx = grad_grid[part, ..., 0] * (2 / (w - 1)) * scale
            gy = grad_grid[part, ..., 1] * (2 / (h - 1)) * scale
            # Depth acts through the division, where that is not clamped.
            gz = x.mul_(gx).add_(y.mul_(gy)).neg_().mul_(z >= NEAREST)
            rays = _rays(P[part], u, v)
            grad_depth[part, 0] = rays[0].mul_(gx).add_(rays[1].mul_(gy)).add_(rays[2].mul_(gz))
            for row, g in enumerate((gx, gy, gz)):
                grad_P[part, row, 3] = g.sum((-2, -1))
                by_row = g.mul_(d).sum(-1)
                grad_P[part, row, 0] = (g.sum(-2) * u[0]).sum(-1)
                grad_P[part, row, 1] = (by_row * v[:, 0]).sum(-1)
                grad_P[part, row, 2] = by_row.sum(-1)
        return grad_depth, grad_P


def _project_part(d: Tensor, P: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Project depth d (n h w) with P (n 3 4). Returns x, y, z, 1 / max(z, NEAREST): (n h w) each."""
    x, y, z = (ray.mul_(d).add_(P[:, k, 3, None, None]) for k, ray in enumerate(_rays(P, *_pixels(d))))
    scale = z.clamp_min(NEAREST).reciprocal_()
    return x.mul_(scale), y.mul_(scale), z, scale


def _rays(P: Tensor, u: Tensor, v: Tensor) -> list[Tensor]:
    """Return the three rows of P[:, :3] (u, v, 1): maps (n h w) in new memory."""
    a, b, c = P[:, :, :3, None, None].unbind(2)  # (n 3 1 1) each
    return list((a * u + (b * v + c)).unbind(1))


def _pixels(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixel coordinates of a map (..., h, w): u (1 w) and v (h 1)."""
    h, w = like.shape[-2:]
    u = torch.arange(w, dtype=like.dtype, device=like.device)
    v = torch.arange(h, dtype=like.dtype, device=like.device)
    return u[None], v[:, None]


def cache_pieces(x: Tensor) -> list[tuple[slice, slice]]:
    """Split x (b c h w) into items and channels: on a CPU as many as stay in the cache of a core, else not at all.

    A piece holds PIECE bytes at most, or one map: several items where they are small, else some channels of one.
    """
    b, c, h, w = x.shape
    n = max(1, PIECE // max(1, h * w * x.element_size())) if x.device.type == "cpu" else b * c
    items, channels = (n // c, c) if n >= c else (1, n)
    return [(slice(i, i + items), slice(k, k + channels)) for i in range(0, b, items) for k in range(0, c, channels)]
