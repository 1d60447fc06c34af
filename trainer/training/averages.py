"""Averages of the weights over training: exponential (EMA), and the mean of late epochs with equal weights (SWA).

An average is a second `Objective`, ready to be validated and saved as `best`; training goes on with the first.
torch's `AveragedModel` would read a counter from the device in every step, blend integer buffers and know no warm-up,
so only its formulas are used. The copy runs uncompiled where the networks were compiled in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from trainer.objective import Objective
from trainer.objective.batchnorm import share_statistics, statistics_of
from trainer.runtime.errors import UserError, first_lines
from trainer.types import Batch

_Pairs = tuple[tuple[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]


@dataclass
class Averages:
    """The averages of one run: EMA, SWA, both or none. SWA takes over once it has begun."""

    ema: EMA | None = None
    swa: SWA | None = None

    @property
    def module(self) -> Objective | None:
        """The objective that is validated and saved as `best`; None = the trained one."""
        if self.swa is not None and self.swa.module is not None:
            return self.swa.module
        return None if self.ema is None else self.ema.module

    def begin_epoch(self, optimizer: Any, epoch: int) -> None:
        """Set the learning rates of an epoch of SWA. `optimizer` is the raw one."""
        if self.swa is not None:
            self.swa.set_rates(optimizer, epoch)

    def owns_rates(self, epoch: int) -> bool:
        """Return whether SWA sets the learning rates of `epoch`, in place of the schedule."""
        return self.swa is not None and self.swa.owns_rates(epoch)

    def update(self) -> None:
        """Update the EMA after an optimizer step."""
        if self.ema is not None:
            self.ema.update()

    def end_epoch(self, epoch: int) -> None:
        """Add the weights at the end of `epoch` to the SWA mean; a second call for one epoch changes nothing."""
        if self.swa is not None:
            self.swa.update(epoch)

    def prepare(self, trained: Objective, batches: Iterable[Batch]) -> None:
        """Prepare BatchNorm statistics for validation: SWA computes its own from training `batches`.

        Otherwise all processes take those of process 0, which `best` will hold.
        """
        if self.swa is not None and self.swa.module is not None:
            self.swa.update_statistics(batches)
        else:
            share_statistics(self.module or trained)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue exactly."""
        return {name: part.state_dict() for name, part in vars(self).items() if part is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`. Raises UserError when it holds averages of another model."""
        for name, part in vars(self).items():
            if part is not None and name in state:
                part.load_state_dict(state[name])


@dataclass(eq=False)
class EMA:
    """Exponential moving average of weights and BatchNorm statistics, updated after every optimizer step.

    It starts from the current weights: create it once the objective has its initial weights and is on its device.
    With `warmup`, update n = 0, 1, ... keeps min(decay, (1 + n) / (10 + n)), so that the first weights are soon
    forgotten. Raises UserError when `decay` is outside its range.
    """

    objective: Objective  # the raw module that is trained
    decay: float = 0.999  # share of the average that an update keeps, in [0, 1)
    warmup: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UserError(f"the decay of EMA is {self.decay}; it must be at least 0 and less than 1")
        self.module = _averaged_copy(self.objective)
        self.num_updates = 0
        self._pairs: _Pairs | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights; nothing is read from the device."""
        n = self.num_updates
        decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
        if self._pairs is None:  # looking the tensors up takes milliseconds
            self._pairs = _pairs(self.module, self.objective, torch.is_floating_point)
        _move(self._pairs, get_ema_multi_avg_fn(decay))
        self.num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates, and the tensors by name (not copies)."""
        return {"num_updates": self.num_updates, "weights": _detached(self.module)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly from a `state_dict`. Raises UserError naming weights that this model does not have."""
        _load(self.module, state["weights"], "EMA")
        self.num_updates = state["num_updates"]


@dataclass(eq=False)
class SWA:
    """Mean of the weights at the ends of epochs (Izmailov et al., arXiv:1803.05407).

    Create it once the objective is on its device. Epochs count from 0. `lr` is the rate of parameters at the
    optimizer's own rate; a group with a tenth of that gets a tenth of this. Raises UserError when a number is outside
    its range.
    """

    objective: Objective  # the raw module that is trained
    start_epoch: int  # the first epoch whose weights enter the mean
    lr: float | None = None  # learning rate from `start_epoch` on; None = that of the schedule
    anneal_epochs: int = 0  # of cosine annealing from the schedule's rate at `start_epoch` to `lr`; 0 = none
    bn_batches: int | None = None  # training batches per process for the BatchNorm statistics; None = all given

    def __post_init__(self) -> None:
        for name, is_valid, range_ in (
            ("start_epoch", self.start_epoch >= 0, "at least 0"),
            ("lr", self.lr is None or self.lr > 0, "more than 0"),
            ("anneal_epochs", self.anneal_epochs >= 0, "at least 0"),
            ("bn_batches", self.bn_batches is None or self.bn_batches > 0, "at least 1"),
        ):
            if not is_valid:
                raise UserError(f"the {name} of SWA is {getattr(self, name)}; it must be {range_}")
        self.num_averaged = 0
        self._last_epoch: int | None = None  # the latest in the mean
        self._before: dict[str, list[float]] | None = None  # rates of all groups when `lr` took over
        self._averaged = _averaged_copy(self.objective)  # now, so that too little memory shows at the start

    @property
    def module(self) -> Objective | None:
        """The objective with the mean weights; None before the first epoch has been added."""
        return self._averaged if self.num_averaged else None

    @torch.no_grad()
    def update(self, epoch: int) -> None:
        """Add the current weights, at the end of `epoch`, to the mean.

        Epochs before `start_epoch` or already in the mean (after a resume) are ignored. Buffers are copied; those of
        BatchNorm then need `update_statistics`.
        """
        if epoch < self.start_epoch or (self._last_epoch is not None and epoch <= self._last_epoch):
            return
        _move(_pairs(self._averaged, self.objective, _is_weight), get_swa_multi_avg_fn(), self.num_averaged)
        self.num_averaged += 1
        self._last_epoch = epoch

    @torch.no_grad()
    def update_statistics(self, batches: Iterable[Batch]) -> None:
        """Compute the BatchNorm statistics of the mean weights, which no trained model has had.

        Each statistic becomes the plain mean over batches, as torch's `update_bn` computes it; frozen BatchNorm keeps
        its own. Without any trained BatchNorm no batch is read.

        Args:
            batches: training batches on the device, as many on every process. Seed the global generators, which
                dropout draws from, before each batch is yielded. Autocast is the caller's.

        Raises ValueError when nothing is averaged yet or there is no batch.
        """
        if not self.num_averaged:
            raise ValueError("SWA has no weights yet: call update first")
        self._averaged.train()
        norms = [m for m in self._averaged.modules() if isinstance(m, _BatchNorm) and m.training]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
        num_batches = 0
        for batch in islice(batches, self.bn_batches) if norms else ():
            self._averaged.predict(batch)
            num_batches += 1
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self._averaged.eval()
        if norms and not num_batches:
            raise ValueError("SWA got no training batch to compute BatchNorm statistics from")
        if dist.is_initialized() and dist.get_world_size() > 1:  # unsynchronised BatchNorm saw its share alone
            for statistic in statistics_of(norms):
                dist.all_reduce(statistic)
                statistic /= dist.get_world_size()

    def owns_rates(self, epoch: int) -> bool:
        """Return whether `set_rates` sets the rates of `epoch`; the schedule need not be stepped after it."""
        return self.lr is not None and epoch >= self.start_epoch

    def set_rates(self, optimizer: Any, epoch: int) -> None:
        """Set the learning rates of `epoch`, at its start and whenever it is continued; before SWA do nothing.

        They are a function of the epoch and of the rates at the first call, which are part of the state. Raises
        UserError when the optimizer's own rate is 0, to which no other can keep its ratio.
        """
        if self.lr is None:
            return
        groups, base = optimizer.param_groups, optimizer.defaults["lr"]
        if not base:
            raise UserError("the lr of SWA needs an optimizer.lr above 0: all rates keep their ratio to that")
        if not self.owns_rates(epoch):
            return
        if self._before is None:
            ratios = [float(group.get("initial_lr", group["lr"])) / base for group in groups]
            self._before = {"rates": [float(group["lr"]) for group in groups], "ratios": ratios}
        done = min(1.0, (epoch - self.start_epoch) / self.anneal_epochs) if self.anneal_epochs else 1.0
        share = (1 - math.cos(math.pi * done)) / 2
        for group, rate, ratio in zip(groups, self._before["rates"], self._before["ratios"], strict=True):
            now = share * self.lr * ratio + (1 - share) * rate
            group["lr"] = group["lr"].fill_(now) if isinstance(group["lr"], Tensor) else now

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers and, once there is a mean, its tensors by name (not copies)."""
        return {
            "start_epoch": self.start_epoch,
            "num_averaged": self.num_averaged,
            "last_epoch": self._last_epoch,
            "before": self._before,
            "weights": _detached(self._averaged) if self.num_averaged else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly from a `state_dict`.

        A mean that has begun keeps its first epoch, even if more epochs are planned now. Raises UserError naming
        weights that this model does not have.
        """
        if state["num_averaged"] or state["before"]:
            self.start_epoch = state["start_epoch"]
        if state["num_averaged"]:
            _load(self._averaged, state["weights"], "SWA")
        self.num_averaged, self._last_epoch = state["num_averaged"], state["last_epoch"]
        self._before = state["before"]


def _averaged_copy(objective: Objective) -> Objective:
    return deepcopy(objective).requires_grad_(False).eval()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their names in files; those with several names once, by the first."""
    once: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        once.setdefault(id(tensor), (name, tensor))
    return dict(once.values())


def _detached(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in _tensors(module).items()}


def _is_weight(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.is_floating_point()


def _pairs(average: nn.Module, source: nn.Module, is_averaged: Callable[[Tensor], bool]) -> _Pairs:
    """Pair the tensors of the average with those of the source: the averaged ones, and the copied ones."""
    averaged: tuple[list[Tensor], list[Tensor]] = ([], [])
    copied: tuple[list[Tensor], list[Tensor]] = ([], [])
    for own, theirs in zip(_tensors(average).values(), _tensors(source).values(), strict=True):
        to = averaged if is_averaged(own) else copied
        to[0].append(own.detach())
        to[1].append(theirs.detach())
    return averaged, copied


def _move(pairs: _Pairs, fn: Any, num: int = 0) -> None:
    """Update the averaged tensors by one of torch's multi_avg_fn, copy the others. num: weights averaged before."""
    averaged, copied = pairs
    if averaged[0]:
        fn(*averaged, num)
    if copied[0]:
        torch._foreach_copy_(*copied)


@torch.no_grad()
def _load(module: nn.Module, saved: Mapping[str, Tensor], kind: str) -> None:
    own = _tensors(module)
    wrong = [f"{name}: only in the file" for name in saved if name not in own]
    wrong += [f"{name}: not in the file" for name in own if name not in saved]
    wrong += [
        f"{name}: {_shape(saved[name])} in the file, {_shape(tensor)} now"
        for name, tensor in own.items()
        if name in saved and _shape(saved[name]) != _shape(tensor)
    ]
    if wrong:
        raise UserError("\n".join([f"the saved {kind} has other weights than this model:", *first_lines(wrong)]))
    for name, tensor in own.items():
        tensor.copy_(saved[name])


def _shape(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
