"""Pack everything that a run needs to continue exactly into named tensors and text, and unpack it.

Optimizer state is stored under parameter names, so that momenta never reach the wrong parameter of a changed model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainer.checkpoint.encoding import check_kind, decode, encode, from_json, referred, to_json
from trainer.checkpoint.schema import OptimizerData, SchedulerData, reading
from trainer.runtime.errors import UserError, first_lines

Metadata = dict[str, str]
Tensors = dict[str, Tensor]


class WrongOptimizer(UserError):
    """The saved optimizer or schedule differs from the one that was built; the message says how."""


@dataclass(frozen=True)
class Position:
    """Progress of the training; (e + 1, batch 0) once epoch e is validated and recorded."""

    epoch: int = 0  # index of the epoch in progress = number of finished epochs
    batch: int = 0  # micro-batches done in it, per process
    step: int = 0  # optimizer steps done overall


@dataclass
class TrainState:
    """The state of a training besides weights, optimizer and schedule."""

    position: Position = field(default_factory=Position)
    best: float | None = None  # best value of the monitored metric; None before the first validation
    best_epoch: int | None = None  # index of its epoch
    metrics: dict[str, float] = field(default_factory=dict)  # of the latest validation
    extra: dict[str, Any] = field(default_factory=dict)  # whatever `encoding` knows, tensors too
    camera: dict[str, Any] | None = None  # `LearnedCamera` of the latest validation that measured one
    best_metrics: dict[str, float] = field(default_factory=dict)  # of the validation of `best`

    @property
    def judged(self) -> dict[str, float]:
        """The numbers that tell what the run has learned: those of `best`, else the latest."""
        return (self.best is not None and self.best_metrics) or self.metrics


def pack_state(
    objective: nn.Module, optimizer: Any, scheduler: Any, scaler: Any, state: TrainState
) -> tuple[Tensors, Metadata]:
    """Return the tensors and metadata of a run. `optimizer`, `scheduler` and `scaler` may be None.

    Tensors are called `networks.<net>.<parameter>` and `optim.<parameter>.<state>`, and share the memory of the run.
    """
    tensors = weights(objective)
    metadata = position_metadata(state.position) | validation_metadata(state)
    best = {"value": state.best, "epoch": state.best_epoch, "metrics": state.best_metrics}
    metadata |= {"best": to_json(best), "extra": to_json(state.extra, tensors, "extra")}
    if optimizer is not None:
        packed = _pack_optimizer(objective, _raw(optimizer, "optimizer"), tensors)
        metadata["optimizer"] = json.dumps(packed)
    if scheduler is not None:
        raw = _raw(scheduler, "scheduler")
        packed = {"class": type(raw).__name__, "state": raw.state_dict()}
        metadata["scheduler"] = to_json(packed, tensors, "scheduler")
    if scaler is not None:
        metadata["scaler"] = to_json(scaler.state_dict(), tensors, "scaler")
    return tensors, metadata


def unpack_state(
    objective: nn.Module, optimizer: Any, scheduler: Any, scaler: Any, tensors: Tensors, metadata: Metadata
) -> None:
    """Restore optimizer, schedule and gradient scaler, but not the weights.

    Raises WrongOptimizer when they are of another kind, or have other parameters.
    """
    if optimizer is not None:
        if "optimizer" not in metadata:
            raise WrongOptimizer("the file holds weights only; to start from them use trainer.load_ckpt")
        saved = OptimizerData.model_validate_json(metadata["optimizer"])
        _unpack_optimizer(objective, _raw(optimizer, "optimizer"), saved, tensors)
    raw = _raw(scheduler, "scheduler")
    given = from_json(metadata.get("scheduler", "null"), tensors, "scheduler") or {"class": "NoneType"}
    schedule = SchedulerData.model_validate(given)
    if schedule.kind != type(raw).__name__:
        raise WrongOptimizer(_another("schedule", schedule.kind, raw, "scheduler.type"))
    if raw is not None:
        check_kind(schedule.state, raw.state_dict(), "scheduler")
        own = type(getattr(raw, "schedule", raw))  # behind a warm-up
        if methods := [key for key in schedule.state if callable(getattr(own, key, None))]:
            raise ValueError(f"the schedule would lose its methods {methods}")
        raw.load_state_dict(schedule.state)
    scale = from_json(metadata.get("scaler", "null"), tensors, "scaler")
    if scaler is not None and scale:  # a run that changes its precision starts with a new scale
        check_kind(scale, scaler.state_dict(), "scaler")
        scaler.load_state_dict(scale)


def read_state(metadata: Metadata, tensors: Tensors) -> TrainState:
    """Read the state from the metadata and tensors of a file."""
    best = from_json(metadata.get("best", "{}"))
    extra = from_json(metadata.get("extra", "{}"), tensors, "extra")
    if not isinstance(extra, dict):
        raise TypeError(f"extra is {extra!r}")
    return TrainState(
        position=read_position(metadata),
        best=best.get("value"),
        best_epoch=best.get("epoch"),
        best_metrics=best.get("metrics", {}),
        metrics=from_json(metadata.get("metrics", "{}")),
        extra=extra,
        camera=from_json(metadata.get("camera", "null")),
    )


def restore_part(part: Any, saved: Any, name: str) -> None:
    """Load what `TrainState.extra` holds of a part. Raises DamagedFile when it is of another kind than its state."""
    with reading("`last`", f"state of {name}"):
        check_kind(saved, part.state_dict(), name)
        part.load_state_dict(saved)


def read_position(metadata: Metadata) -> Position:
    """Read the position; a number that is not stated is 0."""
    return Position(*(int(metadata.get(key, 0)) for key in ("epoch", "batch", "step")))


def weights(objective: nn.Module) -> Tensors:
    """Return weights and buffers under their names in files. Raises ValueError for a wrapped module."""
    state = {name: tensor.detach() for name, tensor in objective.state_dict().items()}
    for name in state:
        if not name.startswith("networks.") or "_orig_mod." in name:
            raise ValueError(
                f"weights must be called networks.<net>.<parameter>, not {name}: give the raw objective, not the one"
                " wrapped by Accelerate, DDP or torch.compile"
            )
    return state


def position_metadata(position: Position) -> Metadata:
    """Return the position as metadata, which every file has."""
    return {key: str(getattr(position, key)) for key in ("epoch", "batch", "step")}


def validation_metadata(state: TrainState) -> Metadata:
    """Return what the latest validation measured, as metadata; a camera only where one is learned."""
    camera = {} if state.camera is None else {"camera": to_json(state.camera)}
    return {"metrics": metrics_json(state.metrics), **camera}


def metrics_json(metrics: Mapping[str, Any]) -> str:
    """Write named numbers, 0-d tensors and numpy scalars as strict JSON."""
    return to_json({name: float(value) for name, value in metrics.items()})


def _raw(thing: Any, attribute: str) -> Any:
    """Unwrap an object that Accelerate prepared."""
    return getattr(thing, attribute, thing)


def _names(objective: nn.Module, optimizer: Any) -> list[list[str]]:
    known = {id(parameter): name for name, parameter in objective.named_parameters()}
    groups = [[known.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
    if any(name is None for group in groups for name in group):
        raise ValueError("the optimizer holds parameters that are not those of the objective")
    return groups  # type: ignore[return-value]


def _pack_optimizer(objective: nn.Module, optimizer: Any, tensors: Tensors) -> dict[str, Any]:
    """Pack optimizer state under parameter names. Adds tensors to `tensors` and returns the rest as data."""
    names, state = _names(objective, optimizer), optimizer.state_dict()
    by_id: dict[int, str] = {}
    groups = []
    for i, (group, params) in enumerate(zip(state["param_groups"], names, strict=True)):
        by_id |= zip(group.pop("params"), params, strict=True)
        groups.append({"params": params, "options": encode(group, f"optim.group_{i}", tensors)})
    return {
        "class": type(optimizer).__name__,
        "groups": groups,
        "state": {by_id[i]: encode(v, f"optim.{by_id[i]}", tensors) for i, v in state["state"].items()},
    }


def _unpack_optimizer(objective: nn.Module, optimizer: Any, saved: OptimizerData, tensors: Tensors) -> None:
    """Restore the optimizer, matching state to parameters by name."""
    if saved.kind != type(optimizer).__name__:
        raise WrongOptimizer(_another("optimizer", saved.kind, optimizer, "optimizer.type"))
    names = _names(objective, optimizer)
    _check_groups([group.params for group in saved.groups], names)
    held = {name for name in tensors if name.startswith("optim.")}
    if odd := held.symmetric_difference(referred([saved.state, [group.options for group in saved.groups]])):
        raise ValueError(f"{sorted(odd)[0]} has no place or no tensor")
    parameters = dict(objective.named_parameters())
    ids = {name: i for i, name in enumerate(name for group in names for name in group)}
    state = {}
    for name, entry in saved.state.items():
        parameter = parameters[name]
        values = decode(entry, tensors, parameter.device, f"optim.{name}")
        state[ids[name]] = {k: _laid_out_like(parameter, v) for k, v in values.items()}
    device = next(iter(parameters.values())).device
    groups = []
    for i, (built, group, own) in enumerate(zip(optimizer.param_groups, saved.groups, names, strict=True)):
        options = decode(group.options, tensors, device, f"optim.group_{i}")
        check_kind(options, built, f"optim.group_{i}")
        switches = {key for key, value in options.items() if isinstance(value, bool)} - {"fused", "foreach"}
        if turned := [key for key in sorted(switches) if built.get(key) is (not options[key])]:
            raise ValueError(f"{turned[0]} of the optimizer is {options[turned[0]]}")
        groups.append({**built, **options, "params": [ids[name] for name in own]})
    optimizer.load_state_dict({"state": dict(sorted(state.items())), "param_groups": groups})
    for i, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            exact = state[i][key]  # torch casts to the type of the parameter: 16 bit states and integers are lost
            if isinstance(value, Tensor) and value.dtype != exact.dtype:
                values[key] = exact.to(value.device)


def _check_groups(saved: list[list[str]], built: list[list[str]]) -> None:
    """Raise WrongOptimizer unless the groups hold the same parameters, in any order."""
    if [set(group) for group in saved] == [set(group) for group in built]:
        return
    old, new = ({name for group in groups for name in group} for groups in (saved, built))
    where = {True: "trained in the file, not now", False: "trained now, not in the file"}
    lines = [f"{name}: {where[name in old]}" for name in sorted(old ^ new)]
    regrouped = f"parameter groups: {[len(g) for g in saved]} in the file, {[len(g) for g in built]} now"
    raise WrongOptimizer(
        "the saved optimizer has other parameters than the one that was built:\n"
        + "\n".join(first_lines(lines or [regrouped]))
        + "\nSet net and optimizer (weight_decay, backbone_lr, layer_decay, frozen_bn) back, or start a new --version"
        " with trainer.load_ckpt"
    )


def _laid_out_like(parameter: Tensor, value: Any) -> Any:
    """Convert a state to the memory format of its parameter (channels last), which files do not keep."""
    if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
        return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
    return value


def _another(kind: str, saved: str, built: Any, key: str) -> str:
    now = "none" if built is None else type(built).__name__
    return (
        f"the file was trained with the {kind} {saved.replace('NoneType', 'none')}, this run has {now}."
        f" Set {key} back, or start a new --version with trainer.load_ckpt"
    )
