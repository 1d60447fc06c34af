"""What a loss must know of the other processes, so that the mean of their gradients is that of one process.

Constants alone travel, no gradient does. Only with gradients on: in training all processes take the same steps, but in
validation some have more batches than others, which would wait for ever.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of `x` (any shape) over all processes, a constant; `x` itself without gradients or others."""
    return _reduced(x, dist.ReduceOp.SUM) / dist.get_world_size() if _is_shared() else x.detach()


def max_over_processes(x: Tensor) -> Tensor:
    """Largest `x` (any shape) of all processes, a constant; `x` itself without gradients or others."""
    return _reduced(x, dist.ReduceOp.MAX) if _is_shared() else x.detach()


def _is_shared() -> bool:
    return (
        torch.is_grad_enabled()
        and dist.is_available()
        and dist.is_initialized()
        and dist.get_world_size() > 1
    )


def _reduced(x: Tensor, op: dist.ReduceOp.RedOpType) -> Tensor:
    x = x.detach().clone()
    dist.all_reduce(x, op=op)
    return x
