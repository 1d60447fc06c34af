"""The training loop. It speaks in beats: fetch, predict, compare, descend, record.

No metric, picture or path is computed here. Accelerate places, wraps, autocasts and reduces; the order of samples,
the randomness, schedules, checkpoints and resuming are ours, so that a run is a function of its configuration and
seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from accelerate.utils import send_to_device

from trainer import optim
from trainer.atomic import CannotWrite
from trainer.checkpoint import Checkpointer
from trainer.distributed import total
from trainer.metrics.validation import higher_is_better
from trainer.recording import Recorder
from trainer.seeding import TRAINING, seed_everything
from trainer.signals import Preempted, StopSignals
from trainer.train_state import Position, TrainState
from trainer.types import StepOutput
from trainer.validation import ValidationResult, all_finite, validate


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message says at which step and where the capsule for a replay lies."""


@dataclass(frozen=True)
class Settings:
    """What the loop is told once, in flat numbers."""

    max_epochs: int
    seed: int = 42
    accumulate: int = 1  # micro-batches per optimizer step
    clip_norm: float | None = None  # largest gradient norm; None = no clipping
    log_every: int = 100  # optimizer steps between scalars
    save_every: int | None = None  # optimizer steps between saves of `last`, besides every epoch
    monitor: str = "AbsRel"  # what `best` is chosen by
    scheduler_monitor: str | None = None  # what a plateau schedule watches; None = `monitor`
    min_depth: float = 0.1
    max_depth: float = 100.0
    log_images: bool = True
    log_grad_norm: bool = False
    limit_train: int | None = None  # micro-batches per epoch


class Loop:
    """One run: networks, data and optimizer on one side; checkpoints and records on the other.

    Args:
        objective: the raw module, saved and validated. model: the same, prepared by Accelerate, trained.
        optimizer: prepared by Accelerate. scheduler: None or an epoch schedule on the raw optimizer, not prepared.
        train_loader, val_loader: not prepared; their batch samplers deal the global batches out to this process.
            Without val_loader nothing is validated and no `best` is kept.
        state: position and best value, shared with the checkpointer.
    """

    def __init__(
        self,
        *,
        accelerator: Any,
        objective: Any,
        model: Any,
        optimizer: Any,
        scheduler: Any,
        train_loader: Any,
        val_loader: Any,
        checkpointer: Checkpointer,
        state: TrainState,
        run: Any,
        recorder: Recorder,
        settings: Settings,
    ):
        self.accelerator, self.objective, self.model = accelerator, objective, model
        self.optimizer, self.scheduler = optimizer, scheduler
        self.train_loader, self.val_loader = train_loader, val_loader
        self.checkpointer, self.state, self.run = checkpointer, state, run
        self.recorder, self.settings = recorder, settings
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self.signals = StopSignals()

    def fit(self) -> TrainState:
        """Train until `max_epochs`, from wherever the state stands.

        Raises NonFiniteLoss, or Preempted after a stop signal, when everything needed to continue has been saved.
        """
        with self.signals, self.recorder.progress:
            while self.state.position.epoch < self.settings.max_epochs:
                self.recorder.progress.epoch(
                    self.state.position.epoch, self.state.position.batch // self.settings.accumulate
                )
                self.train_epoch()
                self.save_last()  # a run that ends during validation must not lose the epoch
                self.leave_if_asked()
                self.finish_epoch(self.validate())
                self.leave_if_asked()
        return self.state

    def train_epoch(self) -> None:
        """Take the optimizer steps of one epoch that are still to be taken."""
        self.model.train()
        for batches in self.recorder.timed(self.groups()):
            output = self.descend(batches)
            self.record(output, batches[-1])
            self.save_or_leave()

    def groups(self) -> Iterator[list[Any]]:
        """Fetch the rest of the epoch, as lists of the micro-batches that make one optimizer step."""
        position, settings = self.state.position, self.settings
        self.train_loader.batch_sampler.set_position(position.epoch, position.batch)
        left = None if settings.limit_train is None else max(settings.limit_train - position.batch, 0)
        batches = islice(self.train_loader, left)
        while group := list(islice(batches, settings.accumulate)):
            yield group

    def descend(self, batches: list[Any]) -> StepOutput:
        """Take one optimizer step over `batches`; return the output of the last of them."""
        settings, position = self.settings, self.state.position
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches):
            batches[number] = batch = send_to_device(batch, self.accelerator.device, non_blocking=True)
            seed_everything(settings.seed, TRAINING, position.step, number, self.accelerator.process_index)
            last = number == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.recorder.part("Forward"):
                    output: StepOutput = self.model(batch)
                    self.loss = self.agree_on(output, batch, number)
                with self.recorder.part("Backward"):
                    self.accelerator.backward(output.loss / len(batches))
        if settings.log_grad_norm:
            self.recorder.norms = optim.grad_norms(self.objective.networks, self.accelerator.scaler)
        if settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.parameters, settings.clip_norm)
        with self.recorder.part("Optimizer"):
            self.optimizer.step()
        self.state.position = replace(position, batch=position.batch + len(batches), step=position.step + 1)
        return output

    def agree_on(self, output: StepOutput, batch: Any, number: int) -> float:
        """Return the mean loss over processes; all learn of a non-finite loss or a stop signal in the same step.

        One small transfer and, with several processes, one reduction; it must come before the backward pass, which
        would carry a NaN into everyone's gradients.
        """
        bad = ~torch.isfinite(output.loss.detach())
        stop = torch.full_like(output.loss.detach(), self.signals.received is not None)
        own_bad = torch.stack([bad.to(stop.dtype), stop, output.loss.detach()])
        bads, stops, loss = total(self.accelerator, own_bad.clone()).tolist()
        self.stopping = stops > 0
        if bads:
            self.give_up(output, batch, number, is_culprit=bool(own_bad[0]))
        return float(loss) / self.accelerator.num_processes

    def give_up(self, output: StepOutput, batch: Any, number: int, is_culprit: bool) -> None:
        """Save a capsule (batch, weights, position) of the step that failed and raise NonFiniteLoss."""
        position, rank = self.state.position, self.accelerator.process_index
        where = "on another process"
        if is_culprit:
            terms = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in output.losses.items())
            capsule = self.run.capsule_path(position.step, rank)
            where = f"on process {rank} ({terms}); `replay {capsule}` names what broke first"
            try:
                self.checkpointer.save_capsule(
                    capsule, self.objective, batch, position, number, self.settings.seed, rank
                )
            except CannotWrite as error:
                where = f"on process {rank} ({terms}); no capsule: {error}"
        raise NonFiniteLoss(
            f"the loss is not finite in epoch {position.epoch}, step {position.step}, {where}. `last` holds the latest"
            " saved state. Usual causes: too high a learning rate (try trainer.gradient_clip_val: 1), precision 16"
            " (try bf16), corrupt images. `--set trainer.detect_anomaly=true` names the operation."
        )

    def record(self, output: StepOutput, batch: Any) -> None:
        """Show the step; every `log_every` steps also its scalars, and its pictures at the end of an epoch."""
        step = self.state.position.step
        due = step % self.settings.log_every == 0
        self.recorder.step(output, batch, self.loss, self.scheduled(), step, due)
        if self.settings.log_images and self.at_end_of_epoch():
            items = [self.train_loader.dataset.describe(i) for i in batch["index"].tolist()]
            self.recorder.pictures(output, items, step)

    def at_end_of_epoch(self) -> bool:
        """True after the last step of the epoch."""
        size = len(self.train_loader.batch_sampler)
        limit = self.settings.limit_train
        return self.state.position.batch >= (size if limit is None else min(size, limit))

    def scheduled(self) -> dict[str, float]:
        """Epoch and learning rates, one per rate that differs."""
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        rates = sorted({group["lr"] for group in optimizer.param_groups}, reverse=True)
        tags = [f"lr-{type(optimizer).__name__}" + (f"-{i}" if i else "") for i in range(len(rates))]
        return {"epoch": self.state.position.epoch, **dict(zip(tags, rates, strict=True))}

    def save_or_leave(self) -> None:
        """Save `last` when it is due; after a stop signal save it and leave."""
        step, every = self.state.position.step, self.settings.save_every
        if self.stopping:
            self.save_last()
            raise Preempted(self.signals.received or StopSignals.handled[0])
        if self.at_end_of_epoch():
            return  # saved by `fit`
        if every and step % every == 0:
            self.save_last()

    def save_last(self) -> None:
        """Write `last` on the main process; the others wait, and leave with it when it cannot.

        Raises NonFiniteLoss rather than replace a good checkpoint by weights that are not finite.
        """
        norms = torch.stack(torch._foreach_norm([p.detach() for p in self.parameters]))
        if not torch.isfinite(norms).all():
            raise NonFiniteLoss(
                f"the weights are not finite after step {self.state.position.step}, although the loss was: a gradient"
                " was not. `last` holds an earlier, good state. Try trainer.gradient_clip_val: 1 or a lower rate;"
                " `--set trainer.detect_anomaly=true` names the operation."
            )
        failure: CannotWrite | None = None
        try:
            self.checkpointer.save_last(
                self.objective, self.optimizer, self.scheduler, self.accelerator.scaler, self.state
            )
        except CannotWrite as error:
            failure = error
        if self.any_process(failure is not None):
            raise failure or CannotWrite("the main process could not save `last`; see its message")

    def leave_if_asked(self) -> None:
        """Between epochs, when everything is saved: leave if any process was asked to."""
        if self.any_process(self.signals.received is not None):
            raise Preempted(self.signals.received or StopSignals.handled[0])

    def any_process(self, flag: bool) -> bool:
        """Whether `flag` is true on any process; a barrier, too."""
        return bool(total(self.accelerator, torch.tensor(float(flag), device=self.accelerator.device)))

    def validate(self) -> ValidationResult:
        """Compare predictions with the truth on the validation data, each process on its share."""
        if self.val_loader is None:
            return ValidationResult()
        self.val_loader.batch_sampler.set_position(0, 0)
        self.recorder.progress.validation(len(self.val_loader))
        self.objective.eval()
        result = validate(
            self.objective,
            self.val_loader,
            self.val_loader.batch_sampler.num_items,
            accelerator=self.accelerator,
            seed=self.settings.seed,
            epoch=self.state.position.epoch,
            min_depth=self.settings.min_depth,
            max_depth=self.settings.max_depth,
            want_images=self.settings.log_images,
            on_batch=self.recorder.progress.advance,
        )
        self.objective.train()
        return result

    def finish_epoch(self, result: ValidationResult) -> None:
        """Advance the schedule, keep `best` and `last`, record the validation.

        Recording comes last: a run killed in between repeats the validation, and must not show it twice.
        """
        state, settings, scheduled = self.state, self.settings, self.scheduled()
        value = result.value(settings.monitor)
        state.metrics = result.shown
        if self.scheduler is not None:
            optim.step_scheduler(self.scheduler, result.value(settings.scheduler_monitor or settings.monitor))
        state.position = Position(state.position.epoch + 1, 0, state.position.step)
        if all_finite([value]) and self.improves(value):
            state.best, state.best_epoch = value, state.position.epoch - 1
            self.checkpointer.save_best(self.objective, state)
        self.save_last()
        try:
            self.run.write_state("running", state.position)
        except CannotWrite as error:  # a note for people; the checkpoint above is what counts
            self.recorder.progress.message(f"warning: {error}")
        items = [self.val_loader.dataset.describe(i) for i in result.shown_items]
        self.recorder.validation(result, items, settings.monitor, scheduled, state.position.step)
        loaders = {"train": self.train_loader, "val": self.val_loader}
        read = {mode: loader.dataset for mode, loader in loaders.items() if loader is not None}
        self.recorder.unreadable(read, state.position.step)

    def improves(self, value: float) -> bool:
        """True when `value` beats the best so far in the direction of the monitored number."""
        best = self.state.best
        return best is None or (value > best if higher_is_better(self.settings.monitor) else value < best)
