"""The pinhole camera: intrinsics K in pixels, pixel centres at integers, x right, y down, z forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pinhole(focal: Tensor, centre: Tensor, size: tuple[int, int]) -> Tensor:
    """Build K (b 3 3) in pixels of `size` = (width, height) without skew.

    focal (b 2) = fx, fy and centre (b 2) = cx, cy, in image widths and heights.
    """
    sides = _sides(focal, size)
    K = torch.diag_embed(torch.cat([focal * sides, torch.ones_like(focal[:, :1])], 1))
    return K + F.pad((centre * sides)[:, :, None], (2, 0, 0, 1))


def in_image_sides(K: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Undo `pinhole`: return focal (b 2) and centre (b 2) of K (b 3 3), in image widths and heights."""
    sides = _sides(K, size)
    return K.diagonal(dim1=1, dim2=2)[:, :2] / sides, K[:, :2, 2] / sides


def _sides(like: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (width, height) as numbers (2,) like `like`, made on its device: no copy from the host to wait for."""
    return torch.cat([like.new_full((1,), side) for side in size])


def scale_intrinsics(K: Tensor, size_from: tuple[int, int], size_to: tuple[int, int]) -> Tensor:
    """Adapt K to a resized image.

    K (..., 3, 3) in pixels of `size_from` = (width, height). Returns K in pixels of `size_to`: rows 0 and 1 scaled,
    principal point included, as in Monodepth2 (arXiv:1806.01260), without the half-pixel of a strict treatment. Raises
    ValueError when a size is not positive.
    """
    if min(*size_from, *size_to) <= 0:
        raise ValueError(f"sizes must be positive (width, height), got {size_from} and {size_to}")
    (w_from, h_from), (w_to, h_to) = size_from, size_to
    return K * K.new_tensor([w_to / w_from, h_to / h_from, 1.0])[:, None]


def crop_intrinsics(K: Tensor, offset: tuple[int, int]) -> Tensor:
    """Adapt K (..., 3, 3) to a crop whose first pixel is `offset` = (x, y) of the image: cx - x, cy - y."""
    cropped = K.clone()
    cropped[..., 0, 2] -= offset[0]
    cropped[..., 1, 2] -= offset[1]
    return cropped


def flip_intrinsics(K: Tensor, width: int) -> Tensor:
    """Adapt K (..., 3, 3) to a horizontally mirrored image `width` pixels wide: cx becomes width - 1 - cx."""
    flipped = K.clone()
    flipped[..., 0, 1] = -K[..., 0, 1]
    flipped[..., 0, 2] = width - 1 - K[..., 0, 2]
    return flipped


def inverse_intrinsics(K: Tensor) -> Tensor:
    """Invert upper triangular K (..., 3, 3) = [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] in closed form."""
    fx, skew, cx = K[..., 0, 0], K[..., 0, 1], K[..., 0, 2]
    fy, cy = K[..., 1, 1], K[..., 1, 2]
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = (
        torch.stack([1 / fx, -skew / (fx * fy), (skew * cy / fy - cx) / fx], -1),
        torch.stack([zero, 1 / fy, -cy / fy], -1),
        torch.stack([zero, zero, one], -1),
    )
    return torch.stack(rows, -2)
