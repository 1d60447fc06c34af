"""Optimizers by timm's names, steps of torch's schedules, gradient norms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from models_zoo.encoders.grouping import layer_numbers
from trainer.objective.freezing import matches
from trainer.runtime.errors import UserError


def make_optimizer(
    networks: nn.Module,
    type: str,
    lr: float,
    *,
    weight_decay: float = 0.0,
    frozen_bn: bool = False,
    backbone_lr: float | None = None,
    layer_decay: float | None = None,
    group_lr: Mapping[str, float] | None = None,
    **kwargs: Any,
) -> Optimizer:
    """Build one optimizer over all trainable parameters of all networks.

    Args:
        type: any optimizer name of timm (`adam`, `adamw`, `sgd` = Nesterov, `lamb`, ...).
        lr: learning rate of all other parameters.
        weight_decay: not applied to biases and 1-D parameters.
        frozen_bn: stop the gradients of BatchNorm scales and shifts.
        backbone_lr: learning rate of parameters with "encoder" in their name (SlowTV, arXiv:2307.10713).
        layer_decay: factor from each block of an encoder to the one before it, embeddings last; the deepest block has
            the rate of the encoder (BEiT, arXiv:2106.08254).
        group_lr: learning rates by network ("pose") or pattern of parameter names ("depth.encoder.*"); the last match
            wins, before all others.

    Raises UserError when a key of `group_lr` matches no trained parameter, and for an encoder of unknown layers.
    """
    from timm.optim import create_optimizer_v2

    if frozen_bn:
        for module in networks.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.requires_grad_(False)

    factors = {} if layer_decay is None else _layer_factors(networks, layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    unused = set(group_lr or {})
    for name, parameter in networks.named_parameters():
        if parameter.requires_grad:
            rate = backbone_lr if backbone_lr is not None and "encoder" in name else lr
            rate *= factors.get(name, 1.0)
            for part, of_part in (group_lr or {}).items():
                if matches(name, part):
                    rate = of_part
                    unused.discard(part)
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    if unused:
        known = ", ".join(sorted({name.split(".")[0] for name, _ in networks.named_parameters()}))
        raise UserError(
            f"optimizer.group_lr: {', '.join(sorted(unused))} matches no parameter that is trained."
            f" Use a network ({known}) or a pattern such as 'depth.encoder.*', or leave it out:"
            " --set optimizer.group_lr=~"
        )
    params = [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
    return create_optimizer_v2(params, opt=type, lr=lr, weight_decay=weight_decay, **kwargs)


def _layer_factors(networks: nn.Module, decay: float) -> dict[str, float]:
    """Return factors of the learning rate of all parameters of encoders, by name. Raises UserError."""
    factors: dict[str, float] = {}
    for network, module in networks.named_children():
        if (encoder := getattr(module, "encoder", None)) is None:
            continue
        try:
            numbers = layer_numbers(encoder)
        except ValueError as error:
            raise UserError(f"optimizer.layer_decay: net.{network}: {error}. Leave layer_decay out") from error
        deepest = max(numbers.values())
        factors |= {f"{network}.encoder.{name}": decay ** (deepest - number) for name, number in numbers.items()}
    return factors


def step_scheduler(scheduler: Any, value: float | None = None) -> None:
    """Advance a schedule by one; ReduceLROnPlateau watches `value` and is skipped when it is not finite."""
    if not isinstance(getattr(scheduler, "schedule", scheduler), lr_scheduler.ReduceLROnPlateau):
        with warnings.catch_warnings():  # a run killed after its last step resumes here
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            scheduler.step()
    elif value is not None and math.isfinite(value):
        scheduler.step(value)


def rates(networks: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """Return the learning rate of each network ("depth"), or of its parts ("depth.encoder") where these differ.

    Of several rates inside a part it is the largest.
    """
    of = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    found: dict[str, dict[str, float]] = {}
    for name, parameter in networks.named_parameters():
        if id(parameter) in of:
            network, part = name.split(".")[:2]
            parts = found.setdefault(network, {})
            parts[part] = max(float(of[id(parameter)]), parts.get(part, 0.0))
    named: dict[str, float] = {}
    for network, parts in found.items():
        one = len(set(parts.values())) == 1
        named |= {network: next(iter(parts.values()))} if one else {f"{network}.{k}": v for k, v in parts.items()}
    return named


def grad_norms(networks: Mapping[str, nn.Module], scaler: Any = None) -> dict[str, torch.Tensor]:
    """Return the L2 norm of the gradients of each network and of all, left on the device.

    `scaler`: the GradScaler of fp16 training, whose factor is divided out.
    """
    norms: dict[str, torch.Tensor] = {}
    factor = 1.0 if scaler is None else 1.0 / scaler.get_scale()
    for name, network in networks.items():
        grads = [p.grad.float() for p in network.parameters() if p.grad is not None]
        if grads:
            norms[name] = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))) * factor
    if norms:
        norms["total"] = torch.linalg.vector_norm(torch.stack(list(norms.values())))
    return norms
