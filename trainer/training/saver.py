"""Save checkpoints every so many steps or minutes, in the foreground or in a thread.

The thread writes a copy of the state by the same staged, verified replacement, one file after the other: whenever the
process dies, each file is the old one or the new one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from trainer.checkpoint import Checkpointer
from trainer.checkpoint.state import TrainState, restore_part
from trainer.data.loaders import PINNED
from trainer.runtime.files import CannotWrite
from trainer.runtime.processes import any_process
from trainer.training.averages import Averages
from trainer.training.guard import StepGuard
from trainer.training.stopping import Budget, EarlyStopping


@dataclass
class Parts:
    """Everything that changes while a run trains and that `last` holds. `optimizer` is the raw one."""

    objective: Any
    optimizer: Any
    scheduler: Any
    state: TrainState
    guard: StepGuard
    averages: Averages
    stopping: EarlyStopping | None = None
    budget: Budget = field(default_factory=Budget)

    def restore(self) -> None:
        """Restore guard, averages, early stopping and budget from `state`."""
        for name, part in self.stateful().items():
            if name in self.state.extra:
                restore_part(part, self.state.extra[name], name)
        self.state.extra = {}  # it holds a copy of every averaged weight

    def stateful(self) -> dict[str, Any]:
        """Return the parts whose state is in `TrainState.extra`, by its keys."""
        budget = self.budget if self.budget.is_set else None  # else two equal runs would differ in their files
        parts = {"guard": self.guard, "averages": self.averages, "stopping": self.stopping, "budget": budget}
        return {name: part for name, part in parts.items() if part is not None}


@dataclass(eq=False)
class Saver:
    """Write the checkpoints of a run when they are due. All processes call it; the main one writes.

    As a context manager it finishes a write in progress, also after an error.
    """

    accelerator: Any
    checkpointer: Checkpointer
    parts: Parts
    _: KW_ONLY
    every_steps: int | None = None  # optimizer steps between saves of `last`; None = no such saves
    every_minutes: float | None = None  # the same by the clock
    background: bool = False  # write `last` in a thread, from a copy; a save waits for the one before it
    on_error: Literal["stop", "continue"] = "stop"  # a failed write raises CannotWrite on all processes, or `warn`s
    warn: Callable[[str], None] = print  # prints a sentence, called in the caller's thread
    clock: Callable[[], float] = time.monotonic  # seconds

    def __post_init__(self) -> None:
        self._saved_at = self.clock()
        self._pool: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._trouble: CannotWrite | None = None
        self._is_behind = False  # the latest state could not be written
        self._staged: dict[str, Tensor] = {}  # page-locked memory for the state of a GPU

    def is_due_at(self, step: int) -> bool:
        """Return whether `last` is due after optimizer step `step`, on all processes alike."""
        return self.every_steps is not None and step % self.every_steps == 0

    def is_due_now(self) -> bool:
        """Return whether `last` is due by the clock, which the main process alone reads."""
        if not self.every_minutes or not self.checkpointer.is_main:
            return False
        return self.clock() - self._saved_at >= 60 * self.every_minutes

    def save_last(self) -> None:
        """Save everything needed to continue, or start to in the background.

        Raises CannotWrite, and NonFiniteLoss rather than replace a good checkpoint by weights that are not finite.
        """
        parts = self.parts
        parts.guard.check_weights(parts.state.position)
        if self.checkpointer.is_main:
            parts.state.extra = {name: part.state_dict() for name, part in parts.stateful().items()}
            trained = parts.objective, parts.optimizer, parts.scheduler
            tensors, metadata = self.checkpointer.pack_last(*trained, self.accelerator.scaler, parts.state)
            self.wait()
            if self.background:
                self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
                self._writing = self._pool.submit(self.checkpointer.write_last, self._copied(tensors), metadata)
            else:
                self._note(self._attempt(self.checkpointer.write_last, tensors, metadata))
            self._saved_at = self.clock()
        self._leave_in_trouble()

    def _copied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy a state to memory, laid out as in the file, so that the thread that writes it converts nothing.

        From a GPU through page-locked memory, all tensors at once, which is kept for the next save: the device computes
        on meanwhile, but for these copies.
        """
        copies = {}
        for name, tensor in tensors.items():
            if tensor.device.type in PINNED:
                if name not in self._staged or self._staged[name].shape != tensor.shape:
                    self._staged[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                copies[name] = self._staged[name].copy_(tensor.detach(), non_blocking=True)
            else:
                copies[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        if self._staged:
            getattr(torch, self.accelerator.device.type).current_stream().synchronize()
        return copies

    def save_best(self, objective: Any) -> bool:
        """Save the weights of `objective` as the best so far, in the foreground: the next `last` refers to them.

        Returns whether that succeeded, on all processes alike. Raises CannotWrite.
        """
        error = None
        if self.checkpointer.is_main:
            self.wait()
            packed = self.checkpointer.pack_best(objective, self.parts.state)
            error = self._attempt(self.checkpointer.write_best, *packed)
            self._trouble = error or self._trouble
        saved = not any_process(self.accelerator, error is not None)
        self._leave_in_trouble()
        return saved

    def has_to_stop(self) -> bool:
        """Return whether a failed write must end the run; under "continue" only warn."""
        self._collect()
        if self._trouble is not None and self.on_error == "continue":
            self.warn(f"warning: {self._trouble}. Training goes on; the next save tries again")
            self._trouble = None
        return self._trouble is not None

    def raise_trouble(self) -> None:
        """Raise CannotWrite, with the reason on the process that knows it."""
        trouble, self._trouble = self._trouble, None
        raise trouble or CannotWrite("the main process could not save; see its message")

    def finish(self) -> None:
        """Make sure that the latest state is on disk: under any policy, try again or raise CannotWrite."""
        self.wait()
        self.background, self.on_error, self._trouble = False, "stop", None
        if any_process(self.accelerator, self._is_behind):
            self.save_last()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *error: object) -> None:
        self.wait()
        if self._trouble is not None:  # something else has ended the run
            self.warn(f"warning: {self._trouble}")
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _leave_in_trouble(self) -> None:
        if any_process(self.accelerator, self.has_to_stop()):
            self.raise_trouble()

    def _attempt(self, write: Callable[..., None], *packed: Any) -> CannotWrite | None:
        try:
            write(*packed)
        except CannotWrite as error:
            return error
        return None

    def wait(self) -> None:
        """Wait for a write in progress."""
        if self._writing is not None:
            wait([self._writing])
            self._collect()

    def _collect(self) -> None:
        """Note how the write in the thread ended, if it has."""
        if self._writing is None or not self._writing.done():
            return
        error = self._writing.exception()
        self._writing = None
        if error is not None and not isinstance(error, CannotWrite):
            raise error
        self._note(error)

    def _note(self, error: CannotWrite | None) -> None:
        self._is_behind = error is not None
        self._trouble = error or self._trouble
