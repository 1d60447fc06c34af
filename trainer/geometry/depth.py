"""Disparity and depth: the sigmoid output of a network as a distance, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from trainer.geometry.precision import full_precision

if TYPE_CHECKING:
    import numpy as np

    Map = TypeVar("Map", Tensor, np.ndarray[Any, Any])

MEASURABLE = 1e-3, 1e4  # metres: a millimetre to ten kilometres; maps hold codes for "none", or damage, outside


def valid_depth(depth: Map, min_depth: float = MEASURABLE[0], max_depth: float = MEASURABLE[1]) -> Map:
    """Mark where depth is a measurement: strictly between the limits, hence neither NaN nor infinite.

    depth (any shape), tensor or array, in the unit of the limits; 0 = none. Returns bool of that shape. Every protocol
    says with its limits which truths count: those of Eigen et al. (arXiv:1406.2283) are 0.001 and 80 m.
    """
    return (depth > min_depth) & (depth < max_depth)


def disp_to_depth(disp: Tensor, min_depth: float = 0.1, max_depth: float | None = 100.0) -> Tensor:
    """Scale sigmoid disparity to depth.

    disp (b 1 h w), 0..1, 0 = far. Returns depth (b 1 h w) in [min_depth, max_depth], in their unit (that of the stereo
    baseline, 0.1 = 0.54 m). `max_depth` None or 0: no bound but float precision. Raises ValueError when min_depth <= 0
    or max_depth < min_depth. Monodepth2, arXiv:1806.01260, sec. 3.
    """
    disp = full_precision(disp)
    far, near = _inverse_bounds(min_depth, max_depth)
    scaled = disp * (near - far) + far
    return 1 / (scaled if far else scaled.clamp_min(torch.finfo(disp.dtype).eps))


def depth_to_disp(depth: Tensor, min_depth: float = 0.1, max_depth: float | None = 100.0) -> Tensor:
    """Undo `disp_to_depth`: depth (b 1 h w) in [min_depth, max_depth] becomes sigmoid disparity 0..1."""
    far, near = _inverse_bounds(min_depth, max_depth)
    if near == far:
        raise ValueError(f"min_depth and max_depth are both {min_depth}: depth says nothing about disparity")
    return (1 / full_precision(depth) - far) / (near - far)


def inverse_depth(z: Tensor) -> Tensor:
    """Invert depth z (any shape), where 0 = no measurement: zero (and below) stays zero."""
    z = full_precision(z)
    return (z > 0) / z.clamp_min(torch.finfo(z.dtype).eps)


def _inverse_bounds(min_depth: float, max_depth: float | None) -> tuple[float, float]:
    if min_depth <= 0 or (max_depth and max_depth < min_depth):
        raise ValueError(f"need 0 < min_depth <= max_depth, got min_depth={min_depth} and max_depth={max_depth}")
    return (1 / max_depth if max_depth else 0.0), 1 / min_depth
