"""Recompute a failed training step and find where it first became NaN or infinite.

Outputs of modules and losses are checked in the forward pass, gradients in the backward pass, in order: the first one
that is not finite is the cause of all others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from models_zoo.adapters import adapters_of
from trainer.geometry import ViewSynthesis, project
from trainer.objective import Objective
from trainer.runtime.errors import listed
from trainer.runtime.seeding import TRAINING, seed_everything


@dataclass(frozen=True)
class Moment:
    """The position of a step in a run, which its random draws depend on."""

    seed: int
    step: int  # optimizer steps done before
    micro_batch: int  # which of the accumulated batches
    rank: int


@dataclass
class Replayed:
    """The result of a step. `findings` are in the order of the step: the first is the cause."""

    loss: float
    losses: dict[str, float]  # unweighted terms
    ranges: dict[str, str] = field(default_factory=dict)  # of target and predictions
    findings: list[str] = field(default_factory=list)


def replay(
    objective: Objective, batch: Mapping[str, Tensor], moment: Moment, autocast: torch.dtype | None = None
) -> Replayed:
    """Repeat the forward and, if the loss is finite, the backward pass of a step, on the device of `batch`.

    Args:
        objective: with the weights of the step, on that device; it is put into training mode and gets gradients.
        batch: the share of one process (`trainer.types.Batch`); BatchNorm statistics cover it alone.
        autocast: type that the networks computed in, None for float32.
    """
    objective.train()
    objective.zero_grad(set_to_none=True)
    for layer in adapters_of(objective):
        layer.set_step(moment.step)
    findings = [f"the batch: {line}" for line in _broken(batch)]
    findings += [f"the weights: {line}" for line in _broken(dict(objective.named_parameters()))]
    seed_everything(moment.seed, TRAINING, moment.step, moment.micro_batch, moment.rank)
    watch = _Watch()
    with watch.watching(objective), _cast(batch["target"].device.type, autocast):
        output = objective(batch)
    of_losses = [line for line in watch.first_output if line.startswith("the output of losses.")]
    findings += [line for line in watch.first_output if line not in of_losses]
    findings += _broken_geometry(batch, output.predictions) + of_losses
    terms = {name: float(value.detach()) for name, value in output.losses.items()}
    if not findings and not torch.isfinite(output.loss):
        findings.append(f"the sum of the losses: {listed([f'{k} {v:.4g}' for k, v in terms.items()])}")
    if not findings:
        watch.seek_gradients = True
        output.loss.backward()
        findings += watch.first_gradient
        gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
        findings += [f"the gradient of {line}" for line in _broken(gradients)]
    shown = {"target": batch["target"], **_predicted(output.predictions)}
    ranges = {name: _range(tensor) for name, tensor in shown.items()}
    return Replayed(float(output.loss.detach()), terms, ranges, findings)


def name_operation(
    objective: Objective, batch: Mapping[str, Tensor], moment: Moment, autocast: torch.dtype | None = None
) -> str:
    """Repeat the step, slowly, and name the operation whose backward pass makes a NaN; "" when none does."""
    seed_everything(moment.seed, TRAINING, moment.step, moment.micro_batch, moment.rank)
    objective.zero_grad(set_to_none=True)
    with torch.autograd.set_detect_anomaly(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the mode, and of the place in the forward pass
        try:
            with _cast(batch["target"].device.type, autocast):
                output = objective(batch)
            output.loss.backward()
        except RuntimeError as error:
            return str(error).rstrip(".")
    return ""


class _Watch:
    """Remember the first output, and the first gradient of an output, that is not finite."""

    def __init__(self) -> None:
        self.first_output: list[str] = []
        self.first_gradient: list[str] = []
        self.seek_gradients = False

    @contextmanager
    def watching(self, objective: Objective) -> Iterator[None]:
        """Check the outputs of all modules while the block runs, and their gradients once they are computed."""
        hooks = [
            module.register_forward_hook(partial(self._look, name))
            for name, module in objective.named_modules()
            if name and not isinstance(module, nn.ModuleDict)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _look(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        place = f"the output of {name} ({type(module).__name__})"
        for tensor in _tensors(output):
            if not self.first_output and not torch.isfinite(tensor).all():
                inputs = ", ".join(map(_range, _tensors(args))) or "no tensors"
                self.first_output.append(f"{place}: {_range(tensor)}; its input: {inputs}")
            if tensor.requires_grad:
                tensor.register_hook(partial(self._look_back, place))

    def _look_back(self, place: str, gradient: Tensor) -> None:
        if self.seek_gradients and not self.first_gradient and not torch.isfinite(gradient).all():
            self.first_gradient.append(f"the gradient that arrives at {place}: {_range(gradient)}")


def _cast(device: str, dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast(device, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _tensors(nested: Any) -> list[Tensor]:
    """Return the floating-point tensors in nested dicts, lists and tuples."""
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _broken(named: Mapping[str, Tensor]) -> list[str]:
    """Return one line naming the tensors with numbers that are not finite, or none."""
    wrong = [f"{name} ({_range(tensor)})" for name, tensor in named.items() if not torch.isfinite(tensor).all()]
    return [listed(wrong)] if wrong else []


def _broken_geometry(batch: Mapping[str, Tensor], predictions: Mapping[str, Any]) -> list[str]:
    """Return one line naming what is not finite first between networks and losses, at scale 0, or none."""
    if "Ts" not in predictions or "K" not in batch:
        return []
    Ts, depth = predictions["Ts"], predictions["depth"][0]
    synthesis = ViewSynthesis(batch["K"], (depth.shape[-2], depth.shape[-1]))
    Ps = [synthesis.projection(T) for T in Ts.unbind(1)]
    steps = {
        "the motions Ts": Ts,
        "the inverse of the intrinsics K": synthesis.K_inv,
        "the projections K [R K^-1 | t]": torch.stack(Ps),
        "the projected points": torch.stack([project(depth, P)[0] for P in Ps]),
    }
    return [line for name, tensor in steps.items() for line in _broken({name: tensor})][:1]


def _range(tensor: Tensor) -> str:
    """Return the range of the finite numbers, and how many are not finite."""
    values = tensor.detach().float().flatten()
    finite = values[torch.isfinite(values)]
    text = f"{finite.min():.4g} to {finite.max():.4g}" if len(finite) else ""
    if len(finite) < len(values):
        wrong = f"{len(values) - len(finite)} of {len(values)} numbers not finite"
        text = f"{wrong}, the others {text}" if text else wrong
    return text


def _predicted(predictions: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return disparity and depth at full size, and motions."""
    found = {key: predictions[key][0] for key in ("disp", "depth") if 0 in predictions.get(key, {})}
    if "Ts" in predictions:
        found |= {"rotations": predictions["Ts"][..., :3, :3], "translations": predictions["Ts"][..., :3, 3]}
    return found
