"""What several processes share: batch statistics, common decisions, how they meet and how they lose each other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.geometry.precision import full_precision
from trainer.types import UserError


class _SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over all processes; the gradient of a sum over processes is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose training statistics cover the batch of all processes, on any backend.

    torch's SyncBatchNorm does the same but refuses the CPU. Input and output (b c h w); every process must bring one.
    Mean and variance are merged in float64 from each process's own, so the result equals that of one process with
    the whole batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        data = full_precision(x)
        own_var, own_mean = torch.var_mean(data, dim=(0, 2, 3), correction=0)
        own_mean, own_var = own_mean.double(), own_var.double()
        count = torch.full_like(own_mean[:1], data.numel() // data.shape[1])
        sums = _SumOverProcesses.apply(torch.cat([count * own_mean, count * (own_var + own_mean**2), count]))
        total = sums[-1].detach()
        mean, square = (sums[:-1] / total).chunk(2)
        var = (square - mean**2).clamp(min=0)
        self._update_running(mean.detach(), var.detach() * total / (total - 1))

        weight = torch.ones_like(mean) if self.weight is None else self.weight.double()
        bias = torch.zeros_like(mean) if self.bias is None else self.bias.double()
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
    """Make every BatchNorm2d of `model` use the statistics of the global batch; parameters and names stay."""
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
    """timm's BatchNorm with a fused activation, on top of the global statistics."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.act(self.drop(GlobalBatchNorm2d.forward(self, x)))

    return type(f"Global{cls.__name__}", (cls, GlobalBatchNorm2d), {"forward": forward})


def statistics_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Running means and variances of every BatchNorm among `modules`."""
    norms = (module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]


def share_statistics(model: nn.Module) -> None:
    """Give all processes the BatchNorm statistics of process 0, as its checkpoint has them.

    Weights are the same everywhere, but statistics are each process's own unless they are synchronised.
    """
    if dist.is_initialized():
        for statistic in statistics_of(model.modules()):
            dist.broadcast(statistic, 0)


def check_world(accelerator: Any) -> None:
    """Raise UserError when the launcher started more processes than Accelerate knows of.

    Without this check every process would believe to be alone and all would write the same checkpoint.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise UserError(
            f"the launcher started {world} processes but Accelerate sees {accelerator.num_processes}: "
            "each would train alone and overwrite the others. Use one of launch/accelerate/*.yaml "
            "(two processes on CPU: launch/accelerate/cpu_x2.yaml), or set ACCELERATE_USE_CPU=true without a GPU."
        )


def check_equal(accelerator: Any, value: Any, what: str) -> None:
    """Raise UserError on every process when `value` (plain data) is not the same on all."""
    if accelerator.num_processes == 1:
        return
    values: list[Any] = [None] * accelerator.num_processes
    dist.all_gather_object(values, value)
    if any(other != values[0] for other in values):
        told = "; ".join(f"process {rank}: {v}" for rank, v in enumerate(values))
        raise UserError(
            f"the processes do not agree on {what} ({told}). All need the same files and --ckpt-dir"
        )


def total(accelerator: Any, x: Tensor) -> Tensor:
    """Sum `x` over all processes; every process gets the result."""
    if accelerator.num_processes > 1:
        dist.all_reduce(x)
    return x


LOST = re.compile(
    r"closed by (?:remote )?peer|connection (?:reset|refused|closed)|broken pipe|time(?:d |-)?out"
    r"|remote process exit|remoteerror|communicator was aborted|socket (?:is )?closed",
    re.IGNORECASE,
)


def lost_peer(error: BaseException) -> str | None:
    """Return in one line what the backend said, when `error` means that a process died or fell silent; else None.

    gloo raises a RuntimeError that names its own source file, NCCL and the store a DistError.
    """
    text = str(error)
    is_backend = isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in text.lower()
    )
    if not is_backend or not LOST.search(text):
        return None
    line = next(line for line in text.splitlines() if LOST.search(line))
    said = re.sub(r"^\[[^\]]*/[^\]]*\] *", "", line.strip())  # without the source file
    return said.partition(". This is typically")[0][:200].rstrip(".")


def init_method() -> str | None:
    """How the processes meet: None, as the launcher says; another one where a launcher has started them again.

    Its store outlives them and still holds the addresses of those that died, and a new process that reads one before it
    is replaced fails, or waits for somebody who never comes. On one machine the number of the attempt keeps them apart.
    Launchers of several machines may count differently: there nothing is changed.
    """
    environ = os.environ
    alone = environ.get("LOCAL_WORLD_SIZE") == environ.get("WORLD_SIZE")
    again = environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if not (alone and again and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"):
        return None
    return _attempts()


@cache
def _attempts() -> str:
    """Make the meeting place known to torch, once."""
    dist.register_rendezvous_handler("attempt", _meet)
    return "attempt://"


def _meet(url: str, **kwargs: Any) -> Iterator[tuple[Any, int, int]]:
    """Meet as `env://` does, with keys of this attempt alone."""
    store, rank, world = next(dist.rendezvous("env://", **kwargs))
    yield dist.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store), rank, world


def any_process(accelerator: Any, flag: bool) -> bool:
    """Whether `flag` is true on any process; a barrier, too."""
    return bool(total(accelerator, torch.tensor(float(flag), device=accelerator.device)))
