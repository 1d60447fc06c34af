"""The number format of geometry: never 16 bit.

Small matrix products are elementwise products and sums here, because autocast would run `matmul` and `einsum` in
16 bit whatever the type of their input.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """Widen 16-bit numbers to float32 and leave float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def matmul3(a: Tensor, b: Tensor) -> Tensor:
    """Multiply small matrices a (..., m, k) and b (..., k, n) without 16-bit arithmetic."""
    return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)


def full_precision_maps(maps: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Widen maps by scale, see `full_precision`: ascending scales, in the ordinary memory layout."""
    return {scale: full_precision(maps[scale]).contiguous() for scale in sorted(maps)}
