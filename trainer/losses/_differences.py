"""First and second differences of neighbouring pixels, for the regularisers of disparity and features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Along x and along y, not negative, each of the shape of the input.
Gradients = tuple[Tensor, Tensor]

_SIDE = math.exp(-0.5) / (1 + 2 * math.exp(-0.5))  # Gaussian of sigma 1 over three pixels
_CENTRE = 1 - 2 * _SIDE


def absolute_differences(x: Tensor, use_blur: bool = False) -> Gradients:
    """Return |x - right neighbour| and |x - lower neighbour| of x (b c h w); 0 in the last column and row."""
    if use_blur:
        x = blur(x)
    dx = (x[..., :-1] - x[..., 1:]).abs()
    dy = (x[..., :-1, :] - x[..., 1:, :]).abs()
    return F.pad(dx, (0, 1)), F.pad(dy, (0, 0, 0, 1))


def blur(x: Tensor) -> Tensor:
    """Smooth x (b c h w) with a 3x3 Gaussian of sigma 1, the border mirrored without repeating it."""
    x = F.pad(x, (1, 1, 1, 1), mode="reflect")
    x = _CENTRE * x[..., 1:-1] + _SIDE * (x[..., :-2] + x[..., 2:])
    return _CENTRE * x[..., 1:-1, :] + _SIDE * (x[..., :-2, :] + x[..., 2:, :])


def magnitude(gx: Tensor, gy: Tensor) -> Tensor:
    """Return the length of a gradient, sqrt(max(gx**2 + gy**2, eps))."""
    return (gx.square() + gy.square()).clamp_min(torch.finfo(gx.dtype).eps).sqrt()
