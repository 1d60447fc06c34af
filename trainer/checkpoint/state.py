"""Everything a run must remember to continue exactly, as named tensors and text; and back again.

Nothing is pickled: structures of tensors and numbers become JSON in which a tensor is a reference by name.
Optimizer state is filed under parameter names, so that a model that was built differently is noticed instead
of being fed foreign momenta.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.runtime.errors import UserError

Metadata = dict[str, str]
Tensors = dict[str, Tensor]


class WrongOptimizer(UserError):
    """The saved optimizer or schedule is not the one that was built; the message says in what they differ."""


@dataclass(frozen=True)
class Position:
    """How far training has come. Once epoch e is validated and recorded, it is (e + 1, batch 0)."""

    epoch: int = 0  # index of the epoch in progress = number of finished epochs
    batch: int = 0  # micro-batches done in it, per process
    step: int = 0  # optimizer steps done overall


@dataclass
class TrainState:
    """What changes while a run trains, besides the weights and the insides of optimizer and schedule."""

    position: Position = field(default_factory=Position)
    best: float | None = None  # value of the monitored number; None before the first validation
    best_epoch: int | None = None  # index of the epoch that gave it
    metrics: dict[str, float] = field(default_factory=dict)  # of the latest validation
    extra: dict[str, Any] = field(
        default_factory=dict
    )  # numbers, text, tensors, and lists, tuples, dicts of them


def pack_state(
    objective: nn.Module, optimizer: Any, scheduler: Any, scaler: Any, state: TrainState
) -> tuple[Tensors, Metadata]:
    """Turn a run into tensors and text. `optimizer`, `scheduler` and `scaler` may be None.

    The tensors are `networks.<net>.<parameter>` and `optim.<parameter>.<state>`; their memory is the run's.
    """
    tensors = weights(objective)
    metadata = position_metadata(state.position) | {"metrics": metrics_json(state.metrics)}
    best = {"value": state.best, "epoch": state.best_epoch}
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
    """Put optimizer, schedule and gradient scaler back to where they were; weights are not touched.

    Raises WrongOptimizer when they are of another kind, or work on other parameters.
    """
    if optimizer is not None:
        if "optimizer" not in metadata:
            raise WrongOptimizer("the file holds weights only; to start from them use trainer.load_ckpt")
        _unpack_optimizer(objective, _raw(optimizer, "optimizer"), json.loads(metadata["optimizer"]), tensors)
    raw = _raw(scheduler, "scheduler")
    saved = from_json(metadata.get("scheduler", "null"), tensors) or {"class": "NoneType"}
    if saved["class"] != type(raw).__name__:
        raise WrongOptimizer(_another("schedule", saved["class"], raw, "scheduler.type"))
    if raw is not None:
        raw.load_state_dict(saved["state"])
    scale = from_json(metadata.get("scaler", "null"), tensors)
    if scaler is not None and scale:  # a run that changes its precision begins with a fresh scale
        scaler.load_state_dict(scale)


def read_state(metadata: Metadata, tensors: Tensors) -> TrainState:
    """Read position, best value and metrics from the text of a file."""
    best = from_json(metadata.get("best", "{}"))
    return TrainState(
        position=Position(*(int(metadata[key]) for key in ("epoch", "batch", "step"))),
        best=best.get("value"),
        best_epoch=best.get("epoch"),
        metrics=from_json(metadata.get("metrics", "{}")),
        extra=from_json(metadata.get("extra", "{}"), tensors),
    )


def weights(objective: nn.Module) -> Tensors:
    """Weights and buffers under the names they have in files. Raises ValueError for a wrapped module."""
    state = {name: tensor.detach() for name, tensor in objective.state_dict().items()}
    foreign = [name for name in state if not name.startswith("networks.") or "_orig_mod." in name]
    if foreign:
        raise ValueError(
            f"weights must be called networks.<net>.<parameter>, not {foreign[0]}:"
            " give the raw objective, not what Accelerate, DDP or torch.compile made of it"
        )
    return state


def position_metadata(position: Position) -> Metadata:
    """The position as text, as every file carries it."""
    return {key: str(getattr(position, key)) for key in ("epoch", "batch", "step")}


def metrics_json(metrics: Mapping[str, Any]) -> str:
    """Write named numbers (0-d tensors and numpy's as well) as strict JSON."""
    return to_json({name: float(value) for name, value in metrics.items()})


def to_json(value: Any, tensors: Tensors | None = None, prefix: str = "") -> str:
    """Write nested data as strict JSON, exactly: all floats, NaN among them, tuples, counters, any keys.

    Tensors are added to `tensors` under `<prefix>.<place>`; without it they are refused. Raises TypeError
    naming the place of what is not data.
    """
    return json.dumps(_encode(value, prefix, tensors), allow_nan=False)


def from_json(text: str, tensors: Tensors | None = None) -> Any:
    """Read back what `to_json` wrote."""
    return _decode(json.loads(text), tensors or {}, torch.device("cpu"))


def _encode(value: Any, place: str, tensors: Tensors | None) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Tensor) and tensors is not None:
        tensors[place] = value.detach()
        return {"$tensor": place, "on": value.device.type}
    if isinstance(value, np.generic):
        return _encode(value.item(), place, tensors)
    if isinstance(value, torch.dtype):
        return {"$dtype": str(value).removeprefix("torch.")}
    if isinstance(value, (list, tuple)):
        items = [_encode(v, f"{place}.{i}", tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        pairs = [(k, _encode(v, f"{place}.{k}", tensors)) for k, v in value.items()]
        if isinstance(value, Counter):
            return {"$counter": pairs}
        if all(isinstance(k, str) and not k.startswith("$") for k in value):
            return dict(pairs)
        return {"$dict": [(_encode(k, place, tensors), v) for k, v in pairs]}
    raise TypeError(f"{place}: {value!r} of type {type(value).__name__} cannot be stored in a checkpoint")


def _decode(value: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """Undo `_encode`. Tensors that were not on a CPU go to `device`."""
    if isinstance(value, list):
        return [_decode(v, tensors, device) for v in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        tensor = tensors[value["$tensor"]]
        return tensor if value["on"] == "cpu" else tensor.to(device)
    if "$float" in value:
        return float(value["$float"])
    if "$dtype" in value:
        return getattr(torch, value["$dtype"])
    if "$tuple" in value:
        return tuple(_decode(value["$tuple"], tensors, device))
    if "$counter" in value:
        return Counter(dict(value["$counter"]))
    pairs = value["$dict"] if "$dict" in value else value.items()
    return {_decode(k, tensors, device): _decode(v, tensors, device) for k, v in pairs}


def _raw(thing: Any, attribute: str) -> Any:
    """Unwrap what Accelerate prepared."""
    return getattr(thing, attribute, thing)


def _names(objective: nn.Module, optimizer: Any) -> list[list[str]]:
    """Names of the parameters of each group of the optimizer, in its order."""
    known: dict[int, str] = {}
    for name, parameter in objective.named_parameters():
        known.setdefault(id(parameter), name)
    groups = [[known.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
    if any(name is None for group in groups for name in group):
        raise ValueError("the optimizer holds parameters that are not those of the objective")
    return groups  # type: ignore[return-value]


def _pack_optimizer(objective: nn.Module, optimizer: Any, tensors: Tensors) -> dict[str, Any]:
    """File optimizer state under parameter names. Adds tensors to `tensors`, returns the rest as data."""
    names, state = _names(objective, optimizer), optimizer.state_dict()
    by_id = {
        i: name
        for group, group_names in zip(state["param_groups"], names, strict=True)
        for i, name in zip(group["params"], group_names, strict=True)
    }
    groups = [
        _encode({k: v for k, v in group.items() if k != "params"}, f"optim.group_{i}", tensors)
        for i, group in enumerate(state["param_groups"])
    ]
    return {
        "class": type(optimizer).__name__,
        "groups": [
            {"params": group_names, "options": o} for group_names, o in zip(names, groups, strict=True)
        ],
        "state": {by_id[i]: _encode(v, f"optim.{by_id[i]}", tensors) for i, v in state["state"].items()},
    }


def _unpack_optimizer(objective: nn.Module, optimizer: Any, saved: dict[str, Any], tensors: Tensors) -> None:
    """Give the optimizer its saved state, each tensor to the parameter of its name."""
    if saved["class"] != type(optimizer).__name__:
        raise WrongOptimizer(_another("optimizer", saved["class"], optimizer, "optimizer.type"))
    names = _names(objective, optimizer)
    _check_groups([group["params"] for group in saved["groups"]], names)
    parameters = dict(objective.named_parameters())
    ids = {name: i for i, name in enumerate(name for group in names for name in group)}
    state = {}
    for name, entry in saved["state"].items():
        parameter = parameters[name]
        values = _decode(entry, tensors, parameter.device)
        state[ids[name]] = {k: _laid_out_like(parameter, v) for k, v in values.items()}
    device = next(iter(parameters.values())).device
    groups = [
        {**built, **_decode(group["options"], tensors, device), "params": [ids[name] for name in group_names]}
        for built, group, group_names in zip(optimizer.param_groups, saved["groups"], names, strict=True)
    ]
    optimizer.load_state_dict({"state": dict(sorted(state.items())), "param_groups": groups})
    for i, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            exact = state[i][
                key
            ]  # torch casts to the type of the parameter, which loses 16 bit states and integers
            if isinstance(value, Tensor) and value.dtype != exact.dtype:
                values[key] = exact.to(value.device)


def _check_groups(saved: list[list[str]], built: list[list[str]]) -> None:
    """Raise WrongOptimizer unless the groups hold the same parameters, in whatever order."""
    if [set(group) for group in saved] == [set(group) for group in built]:
        return
    old, new = ({name for group in groups for name in group} for groups in (saved, built))
    lines = [
        f"  {name}: trained in the file, not now"
        if name in old
        else f"  {name}: trained now, not in the file"
        for name in sorted(old ^ new)
    ]
    if not lines:
        lines = [f"  parameter groups: {[len(g) for g in saved]} in the file, {[len(g) for g in built]} now"]
    elif len(lines) > 10:
        lines[10:] = [f"  ... and {len(lines) - 10} more"]
    raise WrongOptimizer(
        "the saved optimizer works on other parameters than the one that was built:\n"
        + "\n".join(lines)
        + "\nSet net and optimizer (weight_decay, backbone_lr, frozen_bn) back, or start a new --version with"
        " trainer.load_ckpt"
    )


def _laid_out_like(parameter: Tensor, value: Any) -> Any:
    """Give a state the memory format of its parameter (channels last): files know only one."""
    if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
        return torch.empty_strided(
            value.shape, parameter.stride(), dtype=value.dtype, device=value.device
        ).copy_(value)
    return value


def _another(kind: str, saved: str, built: Any, key: str) -> str:
    now = "none" if built is None else type(built).__name__
    return (
        f"the file was trained with the {kind} {saved.replace('NoneType', 'none')}, this run has {now}."
        f" Set {key} back, or start a new --version with trainer.load_ckpt"
    )
