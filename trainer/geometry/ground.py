"""The ground in front of the camera: a plane fitted to the lower middle of a depth map.

The inverse depth of a plane is linear in the rays of the pixels: points P = depth * ray on the plane n P = height have
1 / depth = (n / height) ray. So the fit is one of straight lines, and smooth in the depth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.geometry.camera import inverse_intrinsics
from trainer.geometry.precision import full_precision

ROUNDS = 5  # of weighing pixels by how well they fit; what stands on the ground has lost its weight by then
DEVIATION = 1.4826  # of a normal distribution over its median absolute value


def lower_middle(size: tuple[int, int], rows: float, columns: float) -> tuple[slice, slice]:
    """Return the rows and columns of the lowest share `rows` and the middle share `columns` of an image (h, w)."""
    h, w = size
    high, wide = max(3, round(rows * h)), max(3, round(columns * w))
    left = (w - wide) // 2
    return slice(h - min(high, h), h), slice(left, left + min(wide, w))


def fit_plane(depth: Tensor, K: Tensor, window: tuple[slice, slice]) -> Tensor:
    """Fit a plane to depth (b 1 h w) inside a window of rows and columns.

    Robust least squares in inverse depth: five rounds of weights 1 / (1 + (r / s)^2)^2, r the residual of a pixel, s
    the deviation of all, and a last fit through which gradients flow, the weights being constants.

    K (b 3 3) in pixels of (h, w). Returns m (b 3), the unit normal of the plane over its distance from the camera, in
    the camera's axes (x right, y down, z forward): m P = 1 for its points P. At least float32.
    """
    inverse = 1 / full_precision(depth)[:, 0, window[0], window[1]].flatten(1)
    x, y = _rays(full_precision(K), window, inverse)
    with torch.no_grad():
        weight = torch.ones_like(inverse)
        for _ in range(ROUNDS):
            m = _fit(inverse, x, y, weight)
            residual = (inverse - m[:, :1] * x - m[:, 1:2] * y - m[:, 2:]).abs()
            middle = residual.sort(1).values[:, residual.shape[1] // 2, None]  # as on every device, waiting for none
            spread = (DEVIATION * middle).clamp_min(_least(inverse))
            weight = (1 + (residual / spread).square()).square().reciprocal()
    return _fit(inverse, x, y, weight)


def _rays(K: Tensor, window: tuple[slice, slice], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return x / z and y / z (b n) of the pixels of a window, row by row."""
    v, u = (torch.arange(part.start, part.stop, dtype=like.dtype, device=like.device) for part in window)
    K_inv = inverse_intrinsics(K)[..., None, None]
    x = K_inv[:, 0, 0] * u + K_inv[:, 0, 1] * v[:, None] + K_inv[:, 0, 2]
    y = K_inv[:, 1, 1] * v[:, None] + K_inv[:, 1, 2]
    return x.flatten(1), y.expand_as(x).flatten(1)


def _fit(values: Tensor, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Find m (b 3) that minimises the sum of weight * (m0 x + m1 y + m2 - values)^2, all (b n), about their means."""
    weight = weight / weight.sum(1, keepdim=True)

    def mean(of: Tensor) -> Tensor:
        return (weight * of).sum(1, keepdim=True)

    mean_x, mean_y, mean_v = mean(x), mean(y), mean(values)
    dx, dy, dv = x - mean_x, y - mean_y, values - mean_v
    xx, xy, yy, xv, yv = mean(dx * dx), mean(dx * dy), mean(dy * dy), mean(dx * dv), mean(dy * dv)
    det = (xx * yy - xy * xy).clamp_min(torch.finfo(x.dtype).tiny)
    slope_x, slope_y = (yy * xv - xy * yv) / det, (xx * yv - xy * xv) / det
    return torch.cat([slope_x, slope_y, mean_v - slope_x * mean_x - slope_y * mean_y], 1)


def _least(inverse: Tensor) -> Tensor:
    """Return the deviation (b 1) that rounding alone may cause."""
    eps = torch.finfo(inverse.dtype).eps
    return (16 * eps * inverse.abs().mean(1, keepdim=True)).clamp_min(torch.finfo(inverse.dtype).tiny)
