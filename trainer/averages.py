"""The averaged weights of a run, as the loop uses them: which are validated and become `best`; who sets the rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainer.objective import Objective
from trainer.runtime.processes import share_statistics
from trainer.training.averages import EMA, SWA
from trainer.types import Batch


class Averages:
    """A moving average, a mean of late epochs, both or none; the mean takes over once it has begun."""

    def __init__(self, ema: EMA | None = None, swa: SWA | None = None):
        self.ema, self.swa = ema, swa

    @property
    def module(self) -> Objective | None:
        """The objective with the weights that are validated and kept as `best`; None = those that are trained."""
        if self.swa is not None and self.swa.module is not None:
            return self.swa.module
        return None if self.ema is None else self.ema.module

    def begin_epoch(self, optimizer: Any, epoch: int) -> None:
        """Set the learning rates of the epoch where the mean decides them. `optimizer` is the raw one."""
        if self.swa is not None:
            self.swa.set_rates(optimizer, epoch)

    def owns_rates(self, epoch: int) -> bool:
        """Whether the learning rates of `epoch` are decided here and not by the schedule."""
        return self.swa is not None and self.swa.owns_rates(epoch)

    def update(self) -> None:
        """After an optimizer step."""
        if self.ema is not None:
            self.ema.update()

    def end_epoch(self, epoch: int) -> None:
        """After the last step of an epoch; a second call for the same epoch changes nothing."""
        if self.swa is not None:
            self.swa.update(epoch)

    def prepare(self, trained: Objective, batches: Iterable[Batch]) -> None:
        """Before validation: bring the batch statistics in order; the mean reads `batches` of training for its own.

        All processes then validate what the file will hold: the statistics of process 0, where each has its own.
        """
        if self.swa is not None and self.swa.module is not None:
            self.swa.update_statistics(batches)
        else:
            share_statistics(self.module or trained)

    def state_dict(self) -> dict[str, Any]:
        """What `last` must hold to continue exactly."""
        parts = {"ema": self.ema, "swa": self.swa}
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly. Raises UserError when the averages are those of another model."""
        if self.ema is not None and "ema" in state:
            self.ema.load_state_dict(state["ema"])
        if self.swa is not None and "swa" in state:
            self.swa.load_state_dict(state["swa"])
