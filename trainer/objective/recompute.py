"""Gradient checkpointing: blocks of the networks keep only their inputs and recompute the rest in the backward pass.

It saves memory and takes about a third more time; loss, gradients and running statistics stay bit for bit. Training
Deep Nets with Sublinear Memory Cost, arXiv:1604.06174. timm's `set_grad_checkpointing` would update the running
statistics of BatchNorm twice per step, and has nothing for decoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.objective.objective import Objective
from trainer.runtime.errors import UserError

STATISTICS = ("running_", "num_batches_tracked")  # prefixes of buffers that a forward pass may change


class Recomputed(nn.Module):
    """A module that recomputes its activations in the backward pass of a training step.

    `recompute` puts this class in front of the module's own, which keeps parameters, names, hooks and deep copies.
    `__call__` is overridden rather than `forward`, so that a compiled module is recomputed by its compiled code
    (`trainer.objective.compiling`).
    """

    recomputed_path: str  # for messages

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return super().__call__(*args, **kwargs)
        args = tuple(list(arg) if isinstance(arg, list) else arg for arg in args)  # the caller may extend lists
        versions = _versions(args)
        out = checkpoint(
            super().__call__,
            *args,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _statistics_set_aside(self)),  # of the pass, and of its repetition
            **kwargs,
        )
        if _versions(args) != versions:
            raise UserError(
                f"trainer.gradient_checkpointing: {self.recomputed_path} changes its input in place, so it cannot be"
                " recomputed. Set trainer.gradient_checkpointing to false"
            )
        return out


def recompute(objective: Objective) -> list[str]:
    """Let the blocks of all networks recompute their activations. Returns notes, one per network.

    Call it after `synchronise_batchnorm` and `freeze`, before the networks are compiled and wrapped. Frozen modules,
    which stay in evaluation mode, keep their activations. Raises UserError when there is no block.
    """
    notes = []
    for name, network in objective.networks.items():
        units = dict(find_units(network, name))
        for path, unit in units.items():
            unit.__class__ = _recomputed_class(type(unit))  # type: ignore[arg-type]
            unit.recomputed_path = path  # type: ignore[assignment]
        if units:
            notes.append(f"recomputed in the backward pass: {len(units)} blocks of {name}")
    if not notes:
        known = ", ".join(objective.networks)
        raise UserError(
            f"trainer.gradient_checkpointing: the networks ({known}) have no blocks that could be recomputed."
            " Set it to false"
        )
    return notes


def find_units(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield path and module of the largest blocks below `module` that contain no sequence of blocks.

    A block is a module that contains modules with parameters: a residual block, a transformer block, a convolution with
    its activation. Modules with hooks are left out, because these would be called twice.
    """
    for name, child in module.named_children():
        child_path = f"{path}.{name}".lstrip(".")
        if isinstance(child, Recomputed) or not _is_block(child):
            continue
        has_forward = type(child).forward is not nn.Module.forward  # no ModuleList or ModuleDict
        has_hooks = any(m._forward_hooks or m._forward_pre_hooks for m in child.modules())
        if has_forward and not has_hooks and not _holds_blocks(child):
            yield child_path, child
        else:
            yield from find_units(child, child_path)


def _is_block(module: nn.Module) -> bool:
    """Return whether some module below this one has parameters."""
    return any(next(child.parameters(recurse=False), None) is not None for child in [*module.modules()][1:])


def _holds_blocks(module: nn.Module) -> bool:
    """Return whether the module contains a sequence of two blocks or more."""
    sequences = (m for m in module.modules() if isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict)))
    return any(sum(map(_is_block, sequence.children())) > 1 for sequence in sequences)


@cache
def _recomputed_class(cls: type) -> type:
    return type(f"Recomputed{cls.__name__}", (Recomputed, cls), {})


def _versions(args: Sequence[Any]) -> list[int]:
    """Return how often each tensor was changed in place."""
    return [arg._version for arg in args if isinstance(arg, Tensor)]


@contextmanager
def _statistics_set_aside(module: nn.Module) -> Iterator[None]:
    """Let the module update copies of its running statistics, from which training computes nothing.

    They are replaced rather than saved and written back, because another backward pass may hold the tensors.
    """
    kept = [
        (holder, name, buffer)
        for holder in module.modules()
        for name, buffer in holder._buffers.items()
        if holder.training and buffer is not None and name.startswith(STATISTICS)
    ]
    for holder, name, buffer in kept:
        holder._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for holder, name, buffer in kept:
            holder._buffers[name] = buffer
