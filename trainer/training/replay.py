"""Recompute a training step that failed, and name the first thing in it that is not finite.

What a module of the network or a loss puts out is looked at when it is made, what comes back in the backward pass when
it arrives: the first number that is NaN or infinite is where the trouble began, all others are its echo.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainer.objective import Objective
from trainer.runtime.seeding import TRAINING, seed_everything

LISTED = 3  # places of one kind that are named


@dataclass(frozen=True)
class Moment:
    """Where in a run a step stands: what its random draws are a function of."""

    seed: int
    step: int  # optimizer steps done before
    micro_batch: int  # which of the accumulated batches
    rank: int


@dataclass
class Replayed:
    """What came out of a step. `findings` are in the order of the step: the first is the cause."""

    loss: float
    losses: dict[str, float]  # unweighted terms
    ranges: dict[str, str] = field(default_factory=dict)  # of batch and predictions: what is where
    findings: list[str] = field(default_factory=list)


def replay(
    objective: Objective,
    batch: Mapping[str, Tensor],
    moment: Moment,
    autocast: torch.dtype | None = None,
) -> Replayed:
    """Take the forward and, if the loss is finite, the backward pass of a step again, on the device of `batch`.

    Args:
        objective: with the weights of the step, on that device; it is put into training mode and gets gradients.
        batch: what the process was given (`trainer.types.Batch`).
        moment: which step it is.
        autocast: type the networks computed in, None for float32.

    With several processes this is the share of one: statistics of batch norm that covered the global batch cover this
    share alone.
    """
    objective.train()
    objective.zero_grad(set_to_none=True)
    findings = [f"the batch: {line}" for line in _broken(batch)]
    findings += [f"the weights: {line}" for line in _broken(dict(objective.named_parameters()))]
    seed_everything(moment.seed, TRAINING, moment.step, moment.micro_batch, moment.rank)
    watch = _Watch()
    with watch.watching(objective), _cast(batch["target"].device.type, autocast):
        output = objective(batch)
    findings += watch.first_output
    terms = {name: float(value.detach()) for name, value in output.losses.items()}
    if not findings and not torch.isfinite(output.loss):
        findings.append(f"the sum of the losses: {_listed([f'{k} {v:.4g}' for k, v in terms.items()])}")
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
    """Name the operation of the backward pass that makes a NaN; "" when none does. Takes the step once more, slowly."""
    seed_everything(moment.seed, TRAINING, moment.step, moment.micro_batch, moment.rank)
    objective.zero_grad(set_to_none=True)
    with torch.autograd.set_detect_anomaly(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode announces itself, and prints where the forward pass was
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
        """Look at every module while the block runs; gradients are looked at later, too."""
        hooks = [
            module.register_forward_hook(self._hook(name))
            for name, module in objective.named_modules()
            if name and not isinstance(module, nn.ModuleDict)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, name: str) -> Any:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if not self.first_output and not torch.isfinite(tensor).all():
                    inputs = ", ".join(_range(t) for t in _tensors(args)) or "no tensors"
                    self.first_output.append(
                        f"the output of {name} ({type(module).__name__}): {_range(tensor)}; its input: {inputs}"
                    )
                if tensor.requires_grad:
                    tensor.register_hook(self._look_back(f"{name} ({type(module).__name__})"))

        return look

    def _look_back(self, place: str) -> Any:
        def look(gradient: Tensor) -> None:
            if self.seek_gradients and not self.first_gradient and not torch.isfinite(gradient).all():
                self.first_gradient.append(
                    f"the gradient that arrives at the output of {place}: {_range(gradient)}"
                )

        return look


def _cast(device: str, dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast(device, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _tensors(entry)


def _broken(named: Mapping[str, Tensor]) -> list[str]:
    """One line for all tensors that hold numbers which are not finite; none when all are."""
    wrong = [f"{name} ({_range(tensor)})" for name, tensor in named.items() if not _is_finite(tensor)]
    return [_listed(wrong)] if wrong else []


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _listed(lines: list[str]) -> str:
    more = f" and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    return ", ".join(lines[:LISTED]) + more


def _range(tensor: Tensor) -> str:
    """How many numbers are not finite, and between what the others lie."""
    values = tensor.detach().float().flatten()
    finite = values[torch.isfinite(values)]
    told = f"{finite.min():.4g} to {finite.max():.4g}" if len(finite) else ""
    if len(finite) < len(values):
        wrong = f"{len(values) - len(finite)} of {len(values)} numbers not finite"
        told = f"{wrong}, the others {told}" if told else wrong
    return told


def _predicted(predictions: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a person looks at first: disparity and depth at full size, motions."""
    found = {key: predictions[key][0] for key in ("disp", "depth") if 0 in predictions.get(key, {})}
    if "Ts" in predictions:
        found |= {"rotations": predictions["Ts"][..., :3, :3], "translations": predictions["Ts"][..., :3, 3]}
    return found
