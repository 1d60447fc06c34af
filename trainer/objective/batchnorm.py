"""Batch normalisation over the global batch of all processes, on any backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.geometry.precision import full_precision
from trainer.runtime.processes import broadcast

WITHOUT_FLOAT64 = ("mps", "xpu")  # some of Intel's have it


class SumOfAll(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the sum, on every process."""
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the sum of the gradients."""
        return SumOfAll.apply(gradient)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with training statistics over the batch of all processes; torch's SyncBatchNorm refuses the CPU.

    Input and output (b c h w), from every process. Mean and variance are merged in float64, so the result equals that
    of one process with the whole batch; on devices without it in float32, with a second reduction for the variance.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        data = full_precision(x)
        own_var, own_mean = torch.var_mean(data, dim=(0, 2, 3), correction=0)
        wide = torch.float32 if data.device.type in WITHOUT_FLOAT64 else torch.float64
        own_mean, own_var = own_mean.to(wide), own_var.to(wide)
        count = torch.full_like(own_mean[:1], data.numel() // data.shape[1])
        if wide == torch.float64:
            sums: Tensor = SumOfAll.apply(torch.cat([count * own_mean, count * (own_var + own_mean**2), count]))
            total = sums[-1].detach()
            mean, square = (sums[:-1] / total).chunk(2)
            var = (square - mean**2).clamp(min=0)
        else:  # the difference of two large squares would lose the variance
            sums = SumOfAll.apply(torch.cat([count * own_mean, count]))
            total = sums[-1].detach()
            mean = sums[:-1] / total
            var = SumOfAll.apply(count * (own_var + (own_mean - mean) ** 2)) / total
        self._update_running(mean.detach(), var.detach() * total / (total - 1))

        weight = torch.ones_like(mean) if self.weight is None else self.weight.to(wide)
        bias = torch.zeros_like(mean) if self.bias is None else self.bias.to(wide)
        scale = weight * torch.rsqrt(var + self.eps)
        shift = bias - mean * scale
        scale, shift = scale.to(data.dtype)[:, None, None], shift.to(data.dtype)[:, None, None]
        return (data * scale + shift).to(x.dtype)

    def _update_running(self, mean: Tensor, unbiased_var: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased_var.to(self.running_var.dtype), momentum)


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Let every BatchNorm2d of `model` use the statistics of the global batch; parameters and names stay."""
    from timm.layers import BatchNormAct2d, convert_sync_batchnorm

    if device.type == "cuda":
        return convert_sync_batchnorm(model)  # torch's own kernel; knows timm's fused activations
    for module in model.modules():
        if isinstance(module, BatchNormAct2d):
            module.__class__ = _global_act_class(type(module))
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
    return model


def _global_act_class(cls: type) -> type:
    """Put timm's BatchNorm with a fused activation on top of the global statistics."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.act(self.drop(GlobalBatchNorm2d.forward(self, x)))

    return type(f"Global{cls.__name__}", (cls, GlobalBatchNorm2d), {"forward": forward})


def statistics_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Return running means and variances of every BatchNorm among `modules`."""
    norms = (module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]


def share_statistics(model: nn.Module) -> None:
    """Copy the BatchNorm statistics of process 0, which are in its checkpoint, to all processes.

    Unlike weights, they differ between processes unless they are synchronised.
    """
    differing = [module for module in model.modules() if not isinstance(module, GlobalBatchNorm2d | nn.SyncBatchNorm)]
    statistics = statistics_of(differing)
    if statistics and dist.is_initialized() and dist.get_world_size() > 1:
        broadcast(statistics, statistics[0].device)
