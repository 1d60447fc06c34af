"""Reductions over processes for losses, so that the mean of their gradients equals that of one process.

The results are constants. Nothing is reduced without gradients: in validation some processes have more batches than
others, and would wait forever.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def mean_over_processes(x: Tensor) -> Tensor:
    """Return the mean of `x` (any shape) over all processes, a constant; `x` itself without gradients."""
    return _reduced(x, dist.ReduceOp.SUM) / dist.get_world_size() if _is_shared() else x.detach()


def max_over_processes(x: Tensor) -> Tensor:
    """Return the largest `x` (any shape) of all processes, a constant; `x` itself without gradients."""
    return _reduced(x, dist.ReduceOp.MAX) if _is_shared() else x.detach()


def _is_shared() -> bool:
    return torch.is_grad_enabled() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _reduced(x: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
    x = x.detach().clone()
    dist.all_reduce(x, op=op)
    return x
