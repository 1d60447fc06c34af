"""What ends a training before its last epoch: a number that no longer improves, or a budget of time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from trainer.metrics.validation import improvement
from trainer.runtime.errors import UserError


class EarlyStopping:
    """Watch one number of the validation and stop when it has not improved for too long.

    Args:
        monitor: name of the number, as in `trainer.metrics.validation`.
        patience: epochs in a row without improvement, at least 1.
        min_delta: improvements are larger than this, in the unit of the number; at least 0.

    Raises UserError when `patience` or `min_delta` is outside its range.
    """

    def __init__(self, monitor: str, patience: int, min_delta: float = 0.0):
        if patience < 1:
            raise UserError(f"the patience of early stopping is {patience}; it must be at least 1 epoch")
        if not 0 <= min_delta < math.inf:
            raise UserError(f"the min_delta of early stopping is {min_delta}; it must be finite and at least 0")
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta
        self._best: float | None = None  # for the message
        self._best_epoch: int | None = None
        self._reference: float | None = None  # to be beaten by more than `min_delta`
        self._since: int | None = None  # the latest epoch that beat it, or the one before the first
        self._epoch: int | None = None  # the latest seen

    def update(self, value: float, epoch: int) -> None:
        """Record the value after `epoch` (from 0); one that is not finite is no improvement."""
        self._epoch = epoch
        if self._since is None:
            self._since = epoch - 1
        if not math.isfinite(value):
            return
        if self._best is None or improvement(self.monitor, value, self._best) > 0:
            self._best, self._best_epoch = float(value), epoch
        if self._reference is None or improvement(self.monitor, value, self._reference) > self.min_delta:
            self._reference, self._since = float(value), epoch

    @property
    def num_waited(self) -> int:
        """Epochs since the latest improvement."""
        return 0 if self._epoch is None or self._since is None else self._epoch - self._since

    @property
    def stop(self) -> bool:
        """True when training should end."""
        return self.num_waited >= self.patience

    @property
    def reason(self) -> str:
        """The reason to stop, a sentence without its full stop; epochs count from 1."""
        waited = f"{self.num_waited} epoch" + ("" if self.num_waited == 1 else "s")
        if self._best is None or self._best_epoch is None:
            return f"{self.monitor} has had no finite value for {waited}"
        by = f" by more than {self.min_delta:g}" if self.min_delta else ""
        best = f"best {self._best:.4g} in epoch {self._best_epoch + 1}"
        return f"{self.monitor} has not improved{by} for {waited} ({best})"

    def state_dict(self) -> dict[str, Any]:
        """Return the history as plain data."""
        return {
            "monitor": self.monitor,
            "best": self._best,
            "best_epoch": self._best_epoch,
            "reference": self._reference,
            "since": self._since,
            "epoch": self._epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` with the current patience; the history of another number is dropped."""
        if any(not isinstance(state[key], (int, float, type(None))) for key in state if key != "monitor"):
            raise ValueError(f"the history of early stopping is {state}")
        if state["monitor"] == self.monitor:
            self._best, self._best_epoch = state["best"], state["best_epoch"]
            self._reference, self._since, self._epoch = state["reference"], state["since"], state["epoch"]


class Budget:
    """Count the training time of a run over all its starts; end it when its minutes are used up.

    Time counts from `start` on: steps, validations and saves, but not what a start takes. The clock decides on one
    process; `is_spent` is what all have agreed on.

    Args:
        minutes: training time of the run; None = any.
        reads_clock: False on processes that follow the decision of another.
        clock: seconds.

    Raises UserError when `minutes` is not finite and above 0.
    """

    def __init__(
        self,
        minutes: float | None = None,
        *,
        reads_clock: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        if minutes is not None and not 0 < minutes < math.inf:
            raise UserError(f"the budget of a training is {minutes} minutes; it must be finite and above 0")
        self.minutes, self._reads_clock, self._clock = minutes, reads_clock, clock
        self._before = 0.0  # seconds of earlier starts
        self._since: float | None = None  # start of this training by the clock
        self.is_spent = False
        self.validated_at: int | None = None  # optimizer step in mid-epoch where the run ended and was validated

    @property
    def is_set(self) -> bool:
        """True when the time is limited."""
        return self.minutes is not None

    def start(self) -> None:
        """Begin to count."""
        self._since = self._clock()

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return self._before + (0.0 if self._since is None else self._clock() - self._since)

    @property
    def seconds_left(self) -> float:
        """Training time until the budget is used up, at least 0; infinite without one."""
        return math.inf if self.minutes is None else max(60 * self.minutes - self.seconds, 0.0)

    def is_due(self) -> bool:
        """Return whether the run has to end, by the clock of the process that reads it."""
        return self._reads_clock and self.seconds_left == 0

    @property
    def reason(self) -> str:
        """The reason to stop, a sentence without its full stop."""
        return f"trainer.max_minutes: {self.minutes:g} is used up"

    def state_dict(self) -> dict[str, Any]:
        """Return the time so far, in seconds, and where an ending was validated."""
        return {"seconds": self.seconds, "validated_at": self.validated_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a `state_dict`, towards the current budget."""
        if not 0 <= state["seconds"] < math.inf:
            raise ValueError(f"the training time is {state['seconds']} seconds")
        self._before, self.validated_at = float(state["seconds"]), state["validated_at"]
        self.is_spent = self.seconds_left == 0
