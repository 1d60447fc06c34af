"""Optimizer and scheduler: a few keys of our own, and the arguments of a class of timm or torch.

Arguments that are not given keep the defaults of that class.
"""

from __future__ import annotations

import dataclasses
import math
import warnings as python_warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field as Key
from torch.optim import Optimizer, lr_scheduler

from models_zoo.registry import did_you_mean
from trainer.config.fields import REQUIRED, Field, Report, check, fields_of_callable, fields_of_model, show
from trainer.config.sections import OptimizerSection, SchedulerSection
from trainer.runtime.errors import UserError
from trainer.runtime.yaml_text import KeyPath

OFTEN_USED = ("adam", "adamw", "nadam", "radam", "adabelief", "sgd", "momentum", "rmsprop", "lamb", "lion")

# Arguments of torch's schedules, which torch bounds late or not at all.
_BOUNDS: dict[str, Any] = {
    **dict.fromkeys(("step_size", "T_max", "T_0", "T_mult", "total_iters"), Key(ge=1)),
    **dict.fromkeys(("patience", "cooldown", "threshold", "eps", "eta_min"), Key(ge=0)),
    "gamma": Key(gt=0),
    "factor": Key(gt=0, lt=1),
    "start_factor": Key(gt=0, le=1),
    "end_factor": Key(ge=0, le=1),
}
_REHEARSED = {"epoch": 10_000, "step": 1000}


def optimizer_fields(cls: Callable[..., Any]) -> dict[str, Field]:
    """Fields of an optimizer class without our own."""
    return fields_of_callable(cls, without=("params", *OptimizerSection.model_fields))


def scheduler_fields(cls: Callable[..., Any]) -> dict[str, Field]:
    """Fields of a schedule class of torch."""
    found = fields_of_callable(cls, without=("optimizer", "last_epoch", "verbose"))
    bounded = {name: Annotated[found[name].annotation, _BOUNDS[name]] for name in found.keys() & _BOUNDS.keys()}
    fields = {name: dataclasses.replace(f, annotation=bounded.get(name, f.annotation)) for name, f in found.items()}
    if "T_max" in fields:  # the whole run
        fields["T_max"] = dataclasses.replace(fields["T_max"], default=None)
    return fields


def check_optimizer(section: dict[str, Any], report: Report, warnings: list[str]) -> dict[str, Any]:
    """Check the section `optimizer`. Returns `type`, the other keys as given, and the defaults of ours."""
    path: KeyPath = ("optimizer",)
    names = {key: section.pop(key, None) for key in ("type", "opt")}
    if None not in names.values():
        report.wrong((*path, "opt"), "says the same as optimizer.type; remove one of the two")
    alias = "opt" if names["type"] is None and names["opt"] is not None else "type"
    name = names[alias]
    ours = {key: field for key, field in fields_of_model(OptimizerSection).items() if key != "type"}
    cls = _optimizer_class(name, (*path, alias), report, warnings)
    forwarded = {} if cls else {key: section.pop(key) for key in list(section) if key not in ours}
    fields = {**ours, **(optimizer_fields(cls) if cls else {})}
    owner = f"an argument of optimizer {name!r}"
    values = check(fields, section, path, owner, report, also=("type",), partial=True)
    defaults = {key: field.default for key, field in ours.items() if key not in section}
    return {"type": name, **values, **forwarded, **defaults}


def check_scheduler(section: dict[str, Any], report: Report) -> dict[str, Any]:
    """Check the section `scheduler`, where null removes a key. Returns an empty dict without a schedule."""
    path: KeyPath = ("scheduler",)
    name = section.pop("type", None)
    if name is None and all(value is None for value in section.values()):
        return {}
    if not isinstance(name, str) or name not in SCHEDULERS:
        what = "missing" if name is None else f"{show(name)} is not a scheduler"
        report.wrong((*path, "type"), f"{what}. {did_you_mean(name or '', SCHEDULERS)}")
        return {}
    ours = {key: field for key, field in fields_of_model(SchedulerSection).items() if key != "type"}
    fields = {**ours, **scheduler_fields(SCHEDULERS[name])}
    given = {key: value for key, value in section.items() if value is not None or key not in fields}
    values = check(fields, given, path, f"an argument of scheduler {name!r}", report, also=("type",))
    kept = {key: value for key, value in values.items() if key in given or key == "monitor"}
    if issubclass(SCHEDULERS[name], lr_scheduler.ReduceLROnPlateau):
        if given.get("monitor") is None:
            report.wrong((*path, "monitor"), "missing; plateau watches a number of validation, e.g. AbsRel or loss")
        if given.get("by") == "step":
            report.wrong((*path, "by"), "plateau watches the validation, once per epoch; leave `by` out")
    return {"type": name, **kept}


def rehearse(optimizer: Mapping[str, Any], scheduler: Mapping[str, Any], epochs: int) -> tuple[str, str] | None:
    """Run the schedule over all epochs, on one parameter per learning rate.

    Returns the key (`optimizer.betas`) without which it would work, and the problem: arguments that a class refuses,
    learning rates that are negative or not finite. None = it works.
    """
    fields = scheduler_fields(SCHEDULERS[scheduler["type"]]) if scheduler else {}
    for section, settings in (("optimizer", optimizer), ("scheduler", scheduler)):
        problem = _problem(optimizer, scheduler if section == "scheduler" else {}, epochs)
        for key in settings if problem else ():
            without = {name: value for name, value in settings.items() if name != key}
            if section == "scheduler" and key in fields and fields[key].default is REQUIRED:
                without[key] = 1
            trial = (without, {}) if section == "optimizer" else (optimizer, without)
            if key != "type" and _problem(*trial, epochs) is None:
                return f"{section}.{key}", f"{show(settings[key])} does not work: {problem}"
        if problem:
            return f"{section}.type", f"{settings['type']} does not work with these settings: {problem}"
    return None


def _problem(optimizer: Mapping[str, Any], scheduler: Mapping[str, Any], epochs: int) -> str | None:
    from timm.optim import create_optimizer_v2

    ours = OptimizerSection.model_fields.keys()
    rates = [optimizer.get("lr", 1e-4), optimizer.get("backbone_lr"), *(optimizer.get("group_lr") or {}).values()]
    params = [{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "lr": rate} for rate in rates if rate is not None]
    kwargs = {key: value for key, value in optimizer.items() if key not in ours}
    given = dict(scheduler)
    if isinstance(given.get("min_lr"), list):  # one for each group of the networks, which are not built yet
        given["min_lr"] = min(given["min_lr"], default=0)
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")  # "step of the schedule before that of the optimizer"
        try:
            built = create_optimizer_v2(
                params, opt=optimizer["type"], lr=rates[0], weight_decay=optimizer.get("weight_decay", 0.0), **kwargs
            )
            if "type" not in given:
                return None
            unit = given.get("by", "epoch")
            length = min(epochs, _REHEARSED["epoch"]) if unit == "epoch" else _REHEARSED["step"]
            schedule = make_scheduler(built, length, **given)
            watched = [1.0] if given["type"] == "plateau" else []
            for number in range(1, length + 1):
                for group in built.param_groups:
                    if not 0 <= group["lr"] < math.inf:
                        return f"the learning rate of {unit} {number} would be {group['lr']:g}"
                schedule.step(*watched)
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:
            return " ".join(str(error).split()) or type(error).__name__
    return None


def _optimizer_class(name: Any, path: KeyPath, report: Report, warnings: list[str]) -> Callable[..., Any] | None:
    from timm.optim import get_optimizer_class, list_optimizers

    known = [str(choice) for choice in list_optimizers()]
    if not isinstance(name, str) or name.lower() not in known:
        what = "missing" if name is None else f"{show(name)} is not an optimizer of timm"
        nearest = did_you_mean(str(name or ""), known).partition("Known:")[0]
        often = f"Often used: {', '.join(OFTEN_USED)}. All: timm.optim.list_optimizers()"
        report.wrong(path, f"{what}. {nearest}{often}")
        return None
    try:
        return get_optimizer_class(name.lower(), bind_defaults=False)
    except (AssertionError, ImportError) as error:  # it needs a GPU or a package, which an evaluation does not
        warnings.append(f"optimizer.type: {name} cannot be built here ({error}); its arguments are unchecked")
        return None


SCHEDULERS: dict[str, type] = {
    "steplr": lr_scheduler.StepLR,
    "exp": lr_scheduler.ExponentialLR,
    "cos": lr_scheduler.CosineAnnealingLR,
    "cos_warm": lr_scheduler.CosineAnnealingWarmRestarts,
    "plateau": lr_scheduler.ReduceLROnPlateau,
    "linear": lr_scheduler.LinearLR,
}


class Warmup:
    """Multiply the learning rates of a schedule by a factor that rises linearly to 1 (arXiv:1706.02677).

    What the schedule says is kept apart, so it sees its own rates, and after `length` steps no others are left.

    Args:
        schedule: a schedule of torch that has not been stepped yet.
        length: steps of the schedule, epochs or optimizer steps, until the factor is 1.
        start: the factor at first.
    """

    def __init__(self, schedule: Any, length: int, start: float):
        self.schedule, self.length, self.start = schedule, length, start
        self.done = 0
        self._multiply()

    def step(self, *watched: float) -> None:
        """Advance by one. watched: what ReduceLROnPlateau takes."""
        self._set(self.rates)
        self.schedule.step(*watched)
        self.done += 1
        self._multiply()

    def state_dict(self) -> dict[str, Any]:
        return {**self.schedule.state_dict(), "warmup": {"rates": self.rates, "done": self.done}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue; the rates of the optimizer are part of its own state."""
        self.rates, self.done = state["warmup"]["rates"], state["warmup"]["done"]
        self.schedule.load_state_dict({key: value for key, value in state.items() if key != "warmup"})

    def _multiply(self) -> None:
        self.rates = [float(group["lr"]) for group in self.schedule.optimizer.param_groups]
        factor = self.start + (1 - self.start) * min(1.0, self.done / self.length)
        self._set([factor * rate for rate in self.rates])

    def _set(self, rates: list[float]) -> None:
        for group, rate in zip(self.schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], torch.Tensor) else rate


def make_scheduler(
    optimizer: Optimizer,
    length: int,
    type: str,
    by: str = "epoch",
    warmup: int = 0,
    warmup_factor: float = 0.1,
    **kwargs: Any,
) -> Any:
    """Build the schedule called `type`, to be stepped once per unit and not prepared by Accelerate.

    length: of the run in units of `by`, which is the default of `T_max`. kwargs: of the class.
    """
    if "T_max" in scheduler_fields(SCHEDULERS[type]) and kwargs.get("T_max") is None:
        kwargs["T_max"] = length
    try:
        schedule = SCHEDULERS[type](optimizer, **kwargs)
    except ValueError as error:  # min_lr: [...] for another number of groups
        raise UserError(f"scheduler: {type} does not work with these settings: {error}") from error
    return Warmup(schedule, warmup, warmup_factor) if warmup else schedule
