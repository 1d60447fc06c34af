"""Freeze parts of the networks: a frozen part is a fixed function.

Its parameters get no gradient and are not in the optimizer. Modules without other parameters stay in evaluation mode,
so that BatchNorm keeps and uses its running statistics, and dropout and drop-path do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from models_zoo.adapters import adapters_of, is_adapter
from models_zoo.registry import did_you_mean
from trainer.objective.objective import Objective
from trainer.runtime.errors import UserError, listed

BatchNorm = nn.modules.batchnorm._BatchNorm


def freeze(objective: Objective, patterns: Sequence[str], batchnorm: bool = False) -> list[str]:
    """Freeze parameters. Returns notes: "frozen: 60 tensors, 11.2 M parameters (depth.encoder)".

    Call it before the optimizer is built, and after `synchronise_batchnorm`, which makes new modules. Deep copies of
    the objective are frozen, too.

    Args:
        patterns: paths of modules under `objective.networks` ("depth", "depth.encoder"), or patterns of parameter
            names ("*.bn1.*"), as in `optimizer.group_lr`.
        batchnorm: also freeze running statistics, scales and shifts of every BatchNorm of every network. Mask R-CNN,
            arXiv:1703.06870, sec. 3.1. No layer then mixes the items of a batch, so the result does not depend on the
            number of processes.

    Raises UserError, before anything is changed, for a pattern without a match, and when nothing is left to train.
    """
    networks = objective.networks
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    parameters = dict(networks.named_parameters(remove_duplicate=False))
    layers = {path: layer for path, layer in networks.named_modules() if isinstance(layer, BatchNorm)}
    names = [*parameters, *(f"{path}.running_mean" for path, layer in layers.items() if not layer.affine)]
    matched = {part: [name for name in names if matches(name, part)] for part in patterns}
    _require_matches(networks, matched)
    named = {name for found in matched.values() for name in found}
    with_layers = named | {f"{path}.{name}" for path in layers if batchnorm for name in ("weight", "bias")}
    frozen = {id(parameter) for name, parameter in parameters.items() if name in with_layers}
    if all(id(p) in frozen or not p.requires_grad for p in parameters.values()):
        text = ", ".join(patterns) + (" and frozen_batchnorm" if batchnorm else "")
        raise UserError(f"trainer.freeze: {text.removeprefix(' and ')} leaves nothing to train. Freeze less")

    for name in named & parameters.keys():
        parameters[name].requires_grad_(False)
    fixed = [*objective.fixed, *_constant(networks, named)]
    if batchnorm:
        fixed += layers
        for layer in layers.values():
            layer.requires_grad_(False)
    objective.fixed = tuple(dict.fromkeys(fixed))
    objective.train(objective.training)
    notes = [f"frozen: {_counted(parameters, found)} ({part})" for part, found in matched.items()]
    if batchnorm:
        notes.append(f"frozen: statistics, scales and shifts of {len(layers)} batch norm layers")
    return notes


def without_statistics(objective: Objective) -> list[str]:
    """Return a warning about frozen BatchNorm layers that do not normalise, with mean 0 and variance 1 of a new layer.

    Call it when all weights are loaded.
    """
    fresh = {
        f"{path}.{name}".rstrip(".")
        for path in objective.fixed
        for name, module in objective.networks.get_submodule(path).named_modules()
        if isinstance(module, BatchNorm) and _is_new(module)
    }
    if not fresh:
        return []
    return [
        f"{len(fresh)} frozen batch norm layers have never seen data (mean 0, variance 1) and do nothing:"
        f" {listed(sorted(fresh))}."
        " Start from trained weights (net.<network>.pretrained, trainer.load_ckpt), or do not freeze them"
    ]


def trained_share(objective: Objective) -> list[str]:
    """Return a note on how many parameters are trained, of networks with adapters; empty without any."""
    layers = adapters_of(objective.networks)
    if not layers:
        return []
    every = dict(objective.networks.named_parameters())
    trained = {name: p.numel() for name, p in every.items() if p.requires_grad}
    own, total = sum(n for name, n in trained.items() if is_adapter(name)), sum(p.numel() for p in every.values())
    share = sum(trained.values()) / total
    return [
        f"trained: {sum(trained.values()):,} of {total:,} parameters ({share:.1%}), {own:,} of them in {len(layers)}"
        " adapters"
    ]


def matches(name: str, part: str) -> bool:
    """Return whether a parameter is below the module `part` ("depth.encoder") or has a name of that pattern."""
    return name.startswith(f"{part}.") or fnmatchcase(name, part)


def _require_matches(networks: nn.Module, matched: Mapping[str, Sequence[str]]) -> None:
    problems = []
    paths = {path for path, module in networks.named_modules() if next(module.parameters(), None) is not None}
    for part in (part for part, names in matched.items() if not names):
        above = part.rpartition(".")[0]
        while above and above not in paths:
            above = above.rpartition(".")[0]
        near = [path for path in paths if path and path.rpartition(".")[0] == above]
        problems.append(f"trainer.freeze: {part!r} matches no parameter. {did_you_mean(part, near)}")
    if problems:
        hint = "Use a path of these, or a pattern of parameter names such as 'depth.encoder.*' or '*.bn1.*'"
        raise UserError("\n".join([*problems, hint]))


def _constant(networks: nn.Module, named: set[str]) -> list[str]:
    """Return paths of the largest modules under `networks` in which `named` leaves nothing to train."""
    paths: list[str] = []
    for path, module in networks.named_modules():  # parents come before their children
        if not path or any(path.startswith(f"{above}.") for above in paths):
            continue
        own = list(module.named_parameters()) or [("running_mean", None)]
        trained = any(p is not None and p.requires_grad for _, p in own)
        if not trained and any(f"{path}.{name}" in named for name, _ in own):
            paths.append(path)
    return paths


def _is_new(layer: Any) -> bool:
    if layer.running_mean is None or layer.running_var is None:
        return False
    return not torch.count_nonzero(layer.running_mean) and not torch.count_nonzero(layer.running_var - 1)


def _counted(parameters: Mapping[str, nn.Parameter], names: Sequence[str]) -> str:
    """Count tensors and their values, those with two names once."""
    sizes = {id(parameters[name]): parameters[name].numel() for name in names if name in parameters}
    return f"{len(sizes)} tensors, {sum(sizes.values()) / 1e6:.3g} M parameters"
