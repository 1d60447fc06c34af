"""Rigid motions: T (..., 4, 4) maps points of the target camera to points of the support camera."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.geometry.precision import full_precision

# Below this squared angle the series is used: its first neglected term is then less than float64 can hold.
_SERIES_BELOW = 1e-3


def axis_angle_to_matrix(R: Tensor) -> Tensor:
    """Turn rotation vectors into rotation matrices (Rodrigues).

    R (..., 3): axis times angle in radians. Returns (..., 3, 3). A series near zero keeps the derivatives there, the
    generators of rotation; dividing by the angle, as SfM-Learner (arXiv:1704.07813) does, loses them.
    """
    R = full_precision(R)
    x, y, z = R.unbind(-1)
    a, b = _sine_terms((R * R).sum(-1))  # sin(angle) / angle, (1 - cos(angle)) / angle**2
    entries = (
        1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y,
        b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x,
        b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def _sine_terms(squared: Tensor) -> tuple[Tensor, Tensor]:
    """Return sin(t) / t and (1 - cos(t)) / t**2 for t**2 (...), finite with all derivatives at zero."""
    small = squared < _SERIES_BELOW
    safe = squared.masked_fill(small, 1.0)  # else the branch not taken would make the gradient NaN
    angle = safe.sqrt()
    half = (angle / 2).sin()
    a = 1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42))
    b = 0.5 - squared / 24 * (1 - squared / 30 * (1 - squared / 56))
    return torch.where(small, a, angle.sin() / angle), torch.where(small, b, 2 * half * half / safe)


def pose_matrix(R: Tensor, t: Tensor) -> Tensor:
    """Build T (..., 4, 4), rotation first and then translation, from axis-angle R (..., 3) and t (..., 3)."""
    return _assemble(axis_angle_to_matrix(R), full_precision(t))


def invert_pose(T: Tensor) -> Tensor:
    """Invert rigid motions T (..., 4, 4) in closed form: [R t] becomes [R' -R' t], R' = R transposed."""
    rotation, t = T[..., :3, :3], T[..., :3, 3]
    return _assemble(rotation.transpose(-1, -2), -(rotation * t.unsqueeze(-1)).sum(-2))


def _assemble(rotation: Tensor, t: Tensor) -> Tensor:
    top = torch.cat([rotation, t.unsqueeze(-1)], -1)
    bottom = F.pad(top.new_ones(1, 1), (3, 0))  # made where it is needed: for a copy from the host a GPU would wait
    return torch.cat([top, bottom.expand(*top.shape[:-2], 1, 4)], -2)
