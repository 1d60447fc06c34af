"""Wrap the objective for several processes. A dry step finds out whether all parameters take part in the loss.

Where some do not, DistributedDataParallel must look for them in the graph of every step, and agree on them with all
processes. Where all do, it need not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from trainer.data.loaders import EpochBatches, collate
from trainer.objective import Objective
from trainer.runtime.errors import UserError, listed
from trainer.runtime.processes import any_process

COMPRESSED = {"bf16": default_hooks.bf16_compress_hook, "fp16": default_hooks.fp16_compress_hook}


def wrap(
    accelerator: Any,
    objective: Objective,
    optimizer: Any,
    loader: Any,
    may_vary: bool,
    parts: int = 1,
    compression: str | None = None,
) -> tuple[Any, Any]:
    """Prepare objective and optimizer by Accelerate; for all processes.

    Args:
        loader: of the training.
        may_vary: what takes part may change from step to step, so that one step says nothing: code of plugins, batches
            of one data set each.
        parts: that this process's share of a batch is computed in.
        compression: one of COMPRESSED, in which gradients are exchanged; None = their own type.
    """
    if accelerator.num_processes == 1:
        return accelerator.prepare(objective, optimizer)
    batch = None if may_vary else first_batch(loader, accelerator.device, parts)
    with accelerator.autocast():
        searches = any_process(accelerator, batch is None or bool(dry_step(objective, objective, batch)))
    accelerator.ddp_handler.find_unused_parameters = searches
    with an_unused_parameter(objective) if searches else nullcontext():
        model, prepared = accelerator.prepare(objective, optimizer)
    if compression is not None:
        model.register_comm_hook(None, compressing(compression))
    if not searches:
        # After the first backward pass gradients are laid out anew for their sums, whose rounding that may change: it
        # must not be another one in the first step of a run that is continued.
        dry_step(model, objective, batch)
    return model, prepared


def notes_on_parts(objective: Objective, batches: EpochBatches, parts: int, sync_batchnorm: bool) -> list[str]:
    """Return notes on batches that are computed in parts, and on what sees no whole batch then."""
    if parts == 1:
        return []
    size, world = batches.batch_size, batches.world
    each = size // world
    who = f"{world} processes compute {each} items each" if world > 1 else "computed"
    notes = [f"batches of {size} items: {who} in {parts} parts of {each // parts}"]
    seeing = [f"loss.{name}" for name, loss in objective.losses.items() if getattr(loss, "mixes_items", False)]
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in objective.modules()):
        seeing.append("batch norm")
    if seeing:
        at_once = each // parts * (world if sync_batchnorm else 1)
        notes.append(
            f"trainer.micro_batch_size: {at_once} of the {size} items of a batch at a time reach {listed(seeing)}"
        )
    return notes


def compressing(name: str) -> Callable[[Any, Any], Any]:
    """Return the hook of torch that sums gradients in a shorter type, as a function of our own.

    torch refuses that of bf16 by its name wherever there is no NCCL, though gloo sums bf16, too.
    """
    hook = COMPRESSED[name]
    return lambda group, bucket: hook(group, bucket)


def first_batch(loader: Any, device: torch.device, parts: int = 1) -> dict[str, torch.Tensor]:
    """Read the first of `parts` of this process's share of the first batch here, without workers."""
    loader.batch_sampler.set_position(0)
    keys = next(iter(loader.batch_sampler))
    items = [loader.dataset[key] for key in keys[: len(keys) // parts]]
    return {key: tensor.to(device) for key, tensor in collate(items).items()}


def dry_step(model: nn.Module, objective: Objective, batch: Any) -> list[str]:
    """Run forward and backward pass, and undo what they leave. Returns the trained parameters without a gradient."""
    buffers, was_training = list(objective.buffers()), objective.training
    before = [buffer.clone() for buffer in buffers]
    objective.train()
    model(batch).loss.backward()
    unused = without_gradient(objective)
    objective.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
    objective.train(was_training)
    return unused


def check_all_used(model: nn.Module) -> None:
    """Raise UserError when a parameter had no part in the loss that had one in the dry step.

    The other processes wait for its gradient until this one has gone. Free where unused ones are looked for.
    """
    if not getattr(model, "find_unused_parameters", True) and (unused := without_gradient(model)):
        raise UserError(
            f"{listed(unused)} had no part in the loss of this step, but in that of the first: networks and losses must"
            " use the same parameters in every step, or be loaded with --plugins"
        )


def without_gradient(module: nn.Module) -> list[str]:
    """Return the names of trained parameters that have no gradient."""
    return [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


@contextmanager
def an_unused_parameter(objective: Objective) -> Iterator[None]:
    """Give the objective an empty parameter while DistributedDataParallel takes note of what there is.

    In the first step without unused parameters its C++ prints, once per process and to the terminal directly, that it
    need not have looked for some. Without elements the parameter moves no other one in the buckets that are summed.
    """
    objective.register_parameter("unused", nn.Parameter(torch.empty(0, device=next(objective.parameters()).device)))
    try:
        yield
    finally:
        del objective.unused
