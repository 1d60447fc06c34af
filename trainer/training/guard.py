"""Numerical guard: decides on all processes together whether an optimizer step may be taken.

A loss or gradient that is NaN or infinite stops the run or makes it skip the step, as if the batch had not existed. A
capsule keeps batch and weights of the failed step for `monodepth replay`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.checkpoint import Checkpointer
from trainer.checkpoint.state import Position
from trainer.runtime.files import CannotWrite
from trainer.runtime.processes import total

CAPSULES = 4  # micro-batches of one step that are kept; each capsule holds the weights too
SCALER_PATIENCE = 20  # steps in a row that halved the scale of fp16: by a million in all

ADVICE = (
    "Usual causes: too high a learning rate (try trainer.gradient_clip_val: 1), precision 16 (try bf16), corrupt"
    " images. `--set trainer.detect_anomaly=true` names the operation; trainer.nonfinite: skip leaves such steps out"
)


class NonFiniteLoss(RuntimeError):
    """Loss, gradient or weights became NaN or infinite; the message names the step and remedies."""


@dataclass(frozen=True)
class Verdict:
    """The judgement of all processes on a step, before the weights change."""

    loss: float  # mean over processes and micro-batches
    bad_loss: bool  # on any process
    flags: tuple[bool, ...] = ()  # requests, raised by any process
    bad_gradient: bool = False
    micro_batch: int = 0  # the first whose loss is not finite
    culprit: int | None = None  # the process whose loss is not finite there; None if several

    @property
    def is_sound(self) -> bool:
        """True when the step may be taken."""
        return not (self.bad_loss or self.bad_gradient)


@dataclass(eq=False)
class StepGuard:
    """Guard the steps of a run: `begin`, `note` every loss, `judge` them all; then take the step or `refuse` it.

    A step waits for its device once, in `judge`, when the last backward pass is on its way: losses and gradients stay
    there until then, and a backward pass begins whatever the loss. A GPU works on while its next launches are queued.
    Losses are NaN when a camera, motion or point of view synthesis is not finite (`Scene.fault`).

    Under "stop" only gradients of one-dimensional parameters (biases, scales of norms) are checked: numbers that are
    not finite reach some of them on their way back, and checking all takes up to 2 % of a small step. Under "skip" all
    are checked. With fp16 the gradient scaler does it, for which `was_taken` waits a second time.
    """

    accelerator: Any
    objective: nn.Module  # not wrapped
    checkpointer: Checkpointer  # saves the capsules
    run: Any  # the run folder, for their paths
    _: KW_ONLY
    policy: str = "stop"  # or "skip"
    limit: int = 10  # steps that may be skipped in one epoch
    seed: int = 42  # of the run, for the capsules

    def __post_init__(self) -> None:
        self.epoch = 0
        self.skipped = self.skipped_in_epoch = self.scaler_refusals = 0
        self._noted: list[Tensor] = []  # of each micro-batch of the step: loss, not finite, process if so
        scaler = self.accelerator.scaler
        self._scale = 0.0 if scaler is None else scaler.get_scale()  # after the latest step
        trained = [p for p in self.objective.parameters() if p.requires_grad]
        self.watched = trained if self.policy == "skip" else [p for p in trained if p.ndim <= 1] or trained
        self._buffers = list(self.objective.buffers()) if self.policy == "skip" else []
        self._before = [torch.empty_like(buffer) for buffer in self._buffers]
        self._capsules_saved = False

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "skipped": self.skipped, "skipped_in_epoch": self.skipped_in_epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.skipped = state["epoch"], state["skipped"]
        self.skipped_in_epoch = state["skipped_in_epoch"]

    def begin(self, epoch: int) -> None:
        """Begin a step: keep a copy of the statistics that a bad batch would spoil."""
        if epoch != self.epoch:
            self.epoch, self.skipped_in_epoch = epoch, 0
        self._noted = []
        if self._buffers:
            torch._foreach_copy_(self._before, self._buffers)

    def note(self, loss: Tensor) -> bool:
        """Note the loss (scalar) of a micro-batch before its backward pass, without waiting for the device.

        Returns whether it is known to be bad, and the backward pass to be left out: only where anomaly detection would
        end the run with an operation that received a NaN instead of the one that made it.
        """
        loss = loss.detach().float()
        bad = (~torch.isfinite(loss)).float()
        self._noted.append(torch.stack([loss, bad, bad * self.accelerator.process_index]))
        return torch.is_anomaly_enabled() and float(total(self.accelerator, bad.clone())) > 0

    def judge(self, flags: Sequence[bool] = ()) -> Verdict:
        """Judge a step after its last backward pass, with one reduction over all processes and one transfer.

        flags: requests of this process; the verdict has those of any process.
        """
        asked = self._noted[0].new_zeros(len(flags))
        for i, flag in enumerate(flags):
            if flag:
                asked[i] = 1  # a tensor made of the flags would be a copy that the host waits for
        numbers = total(self.accelerator, torch.cat([*self._noted, self._bad_gradient(), asked])).tolist()
        count = len(self._noted)
        losses, bad, culprits = (numbers[: 3 * count][k::3] for k in range(3))
        bad_gradient, *counts = numbers[3 * count :]
        first = next((i for i, number in enumerate(bad) if number), 0)
        return Verdict(
            sum(value / self.accelerator.num_processes for value in losses) / count,
            any(bad),
            tuple(number > 0 for number in counts),
            bad_gradient > 0,
            first,
            int(culprits[first]) if bad[first] == 1 else None,
        )

    def _bad_gradient(self) -> Tensor:
        """Return 1 where a watched gradient is not finite, else 0, (1,)."""
        gradients = [p.grad for p in self.watched if p.grad is not None]
        if self.accelerator.scaler is not None or not gradients:
            return self._noted[0].new_zeros(1)
        return (~torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all()).to(self._noted[0].dtype)[None]

    def refuse(self, verdict: Verdict, position: Position, batches: Sequence[Any]) -> str:
        """Leave a step out: restore the statistics, count it, save capsules of the first one. Returns a sentence.

        Raises NonFiniteLoss under "stop", and when too many steps of the epoch were left out.
        """
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._before)
        what = "loss" if verdict.bad_loss else "gradient"
        where = "" if self._capsules_saved else self._keep(verdict, position, batches)
        self._capsules_saved = True
        found = f"the {what} is not finite in epoch {position.epoch + 1}, step {position.step + 1}{where}"
        self.skipped += 1
        self.skipped_in_epoch += 1
        if self.policy == "stop":
            raise NonFiniteLoss(f"{found}. `last` holds the latest saved state. {ADVICE}")
        if self.skipped_in_epoch > self.limit:
            raise NonFiniteLoss(
                f"{found}. {self.skipped_in_epoch} steps of this epoch were left out, more than"
                f" trainer.nonfinite_limit: {self.limit}. `last` holds the latest saved state. {ADVICE}"
            )
        return f"{found}: the step is left out ({self.skipped_in_epoch} of at most {self.limit} in this epoch)"

    def was_taken(self, position: Position) -> bool:
        """Return whether the step changed the weights: the gradient scaler of fp16 leaves out overflowing ones.

        It halves its scale then; what Accelerate's optimizer reports is wrong for fused ones. Raises NonFiniteLoss when
        no scale fits.
        """
        if self.accelerator.scaler is None:
            return True
        before, self._scale = self._scale, self.accelerator.scaler.get_scale()
        was_taken = self._scale >= before
        self.scaler_refusals = 0 if was_taken else self.scaler_refusals + 1
        if self.scaler_refusals > SCALER_PATIENCE:
            raise NonFiniteLoss(
                f"no scale of precision 16 gives finite gradients: {self.scaler_refusals} steps in a row were refused,"
                f" up to step {position.step + 1}. `last` holds the latest saved state. Use trainer.precision: bf16 or"
                " 32, or a lower learning rate"
            )
        return was_taken

    def check_weights(self, position: Position) -> None:
        """Raise NonFiniteLoss when weights are not finite, before they replace a good checkpoint."""
        weights = [p.detach() for p in self.objective.parameters() if p.requires_grad]
        if not torch.isfinite(torch.stack(torch._foreach_norm(weights))).all():
            raise NonFiniteLoss(
                f"the weights are not finite after step {position.step}, although the loss was: a gradient was not."
                f" `last` holds an earlier, good state. {ADVICE}"
            )

    def _keep(self, verdict: Verdict, position: Position, batches: Sequence[Any]) -> str:
        """Save capsules of the micro-batches that may be the cause; return their place, as part of a sentence.

        Reduced gradients do not show whose batch spoilt them, so each process saves its own.
        """
        rank, micro_batch = self.accelerator.process_index, verdict.micro_batch
        suspects = [micro_batch] if verdict.bad_loss else [*range(len(batches))][:CAPSULES]
        if verdict.bad_loss and not self._noted[micro_batch][1]:
            return self._elsewhere(verdict, position, micro_batch)
        paths = [self.run.capsule_path(position.step, rank, number) for number in suspects]
        try:
            for number, path in zip(suspects, paths, strict=True):
                self.checkpointer.save_capsule(path, self.objective, batches[number], position, number, self.seed, rank)
        except CannotWrite as error:
            return f", on process {rank}; no capsule: {error}"
        return f", on process {rank}; `monodepth replay {paths[0]}` names what broke first"

    def _elsewhere(self, verdict: Verdict, position: Position, micro_batch: int) -> str:
        if verdict.culprit is None:
            return f", on several processes; `monodepth replay` names what broke first in {self.run.capsules}"
        path = self.run.capsule_path(position.step, verdict.culprit, micro_batch)
        return f", on process {verdict.culprit}; `monodepth replay {path}` names what broke first"
