"""Gradient checkpointing: blocks of the networks keep their inputs alone and compute the rest again on the way back.

Memory for time, about a third more of it; loss, gradients and running statistics are the same numbers. Training Deep
Nets with Sublinear Memory Cost, arXiv:1604.06174. timm's own `set_grad_checkpointing` would update the running
statistics of BatchNorm twice per step, and knows no decoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.objective.objective import Objective
from trainer.runtime.errors import UserError

STATISTICS = ("running_", "num_batches_tracked")  # how buffers begin that a forward pass may change


class Recomputed(nn.Module):
    """A module whose activations are computed again in the backward pass, when it is in training and has one.

    Made by `recompute`, which gives a module a class with this one in front of its own: parameters, names, hooks and
    deep copies stay what they were. The call is taken over rather than `forward`, so that a compiled module is
    recomputed by its compiled code (`trainer.objective.compiling`).
    """

    recomputed_path: str  # for messages

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return super().__call__(*args, **kwargs)
        args = tuple(
            list(arg) if isinstance(arg, list) else arg for arg in args
        )  # lists that the caller extends
        versions = _versions(args)
        out = checkpoint(
            super().__call__,
            *args,
            use_reentrant=False,
            context_fn=partial(_contexts, self),
            **kwargs,
        )
        if _versions(args) != versions:
            raise UserError(
                f"trainer.gradient_checkpointing: {self.recomputed_path} changes its input in place, so that it cannot"
                " be computed again. Set trainer.gradient_checkpointing to false"
            )
        return out


def recompute(objective: Objective) -> list[str]:
    """Let the blocks of all networks recompute their activations. Returns notes, one per network.

    Call it after `synchronise_batchnorm` and `freeze`, before the networks are compiled and wrapped. Modules that stay
    in evaluation mode (`trainer.objective.freezing`) keep their activations where a gradient passes through them.
    Raises UserError when there is no block.
    """
    notes = []
    for name, network in objective.networks.items():
        units = dict(find_units(network, name))
        for path, unit in units.items():
            unit.__class__ = _recomputed_class(type(unit))
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
    """Yield path and module of the largest blocks below `module` that hold no sequence of blocks themselves.

    A block is a module with parameters that has further modules with parameters in it: a residual block, a transformer
    block, a convolution with its activation. Whatever holds hooks is left whole, for they would be called twice.
    """
    for name, child in module.named_children():
        child_path = f"{path}.{name}".lstrip(".")
        if isinstance(child, Recomputed) or not _is_block(child):
            continue
        if _is_callable(child) and not _holds_blocks(child) and not _has_hooks(child):
            yield child_path, child
        else:
            yield from find_units(child, child_path)


def _is_block(module: nn.Module) -> bool:
    """Whether some module below this one has parameters."""
    return any(next(child.parameters(recurse=False), None) is not None for child in [*module.modules()][1:])


def _is_callable(module: nn.Module) -> bool:
    """Whether the module computes something: `ModuleList` and `ModuleDict` do not."""
    return type(module).forward is not nn.Module.forward


def _holds_blocks(module: nn.Module) -> bool:
    """Whether there is a sequence of two blocks or more in it."""
    sequences = (m for m in module.modules() if isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict)))
    return any(sum(map(_is_block, sequence.children())) > 1 for sequence in sequences)


def _has_hooks(module: nn.Module) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


_CLASSES: dict[type, type] = {}  # one recomputed class per class


def _recomputed_class(cls: type) -> type:
    if cls not in _CLASSES:
        _CLASSES[cls] = type(f"Recomputed{cls.__name__}", (Recomputed, cls), {})
    return _CLASSES[cls]


def _versions(args: Sequence[Any]) -> list[int]:
    """How often each tensor has been changed in place."""
    return [arg._version for arg in args if isinstance(arg, Tensor)]


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds the forward pass, nothing, and its recomputation."""
    return nullcontext(), _statistics_set_aside(module)


@contextmanager
def _statistics_set_aside(module: nn.Module) -> Iterator[None]:
    """Let the module update copies of its running statistics meanwhile.

    They are replaced rather than saved and written back: another backward pass may hold the tensors. In training
    nothing is computed from them.
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
