"""The training loop, in beats: move, predict, compare, descend, record.

No metric, picture or path is computed here. Accelerate places, wraps, autocasts and reduces; sample order, randomness,
schedules, checkpoints and resuming are ours, so that a run is a function of its configuration and seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from accelerate.utils import send_to_device

from models_zoo.adapters import adapters_of
from trainer.checkpoint.state import Position, TrainState
from trainer.data.aspect import AspectRatios
from trainer.data.loaders import Prefetch, split
from trainer.metrics.validation import improvement
from trainer.runtime.files import CannotWrite
from trainer.runtime.processes import any_process
from trainer.runtime.seeding import STATISTICS, TRAINING, seed_everything
from trainer.runtime.signals import Preempted, StopSignals
from trainer.tracking.health import learned
from trainer.training import optim
from trainer.training.guard import Verdict
from trainer.training.recorder import Recorder
from trainer.training.saver import Parts, Saver
from trainer.training.validation import ValidationResult, validate
from trainer.training.wrapping import check_all_used
from trainer.types import StepOutput

ANSWER = "finishing this step, then saving; press Ctrl-C again to stop without saving"


@dataclass(frozen=True)
class Settings:
    """The settings of a loop, in flat numbers."""

    max_epochs: int
    seed: int = 42
    accumulate: int = 1  # batches per optimizer step
    parts: int = 1  # micro-batches of a batch: what is computed at once
    clip_norm: float | None = None  # largest gradient norm; None = no clipping
    log_every: int = 100  # optimizer steps between scalars
    monitor: str = "AbsRel"  # metric or loss that selects `best`
    scheduler_monitor: str | None = None  # of a plateau schedule; None = `monitor`
    scheduled_by: Literal["epoch", "step"] = "epoch"  # when the schedule is stepped
    min_depth: float = 0.1  # of predictions; 0 = no limit
    max_depth: float = 100.0
    log_images: bool | Literal["all"] = True
    log_grad_norm: bool = False
    limit_train: int | None = None  # batches per epoch
    aspect: AspectRatios | None = None  # shapes of training batches; None = as they are loaded

    def steps_per_epoch(self, train_loader: Any) -> int:
        """Return the number of optimizer steps in an epoch."""
        batches = len(train_loader.batch_sampler)
        return math.ceil(min(batches, self.limit_train or batches) / self.accumulate)


@dataclass(eq=False, kw_only=True)
class Loop:
    """Train one run, validate and save it."""

    accelerator: Any
    parts: Parts  # everything that changes while the run trains, not wrapped by Accelerate
    model: Any  # the objective as Accelerate prepared it
    optimizer: Any  # likewise, or the raw one (see `build_run`)
    train_loader: Any  # not prepared; its batch sampler deals the global batches out to this process
    val_loader: Any  # likewise; without one nothing is validated and no `best` is kept
    saver: Saver
    run: Any  # the run folder
    recorder: Recorder
    settings: Settings

    def __post_init__(self) -> None:
        parts = self.parts
        self.objective, self.scheduler, self.state = parts.objective, parts.scheduler, parts.state
        self.guard, self.averages = parts.guard, parts.averages
        self.stopping, self.budget = parts.stopping, parts.budget
        self.parameters = [p for p in self.objective.parameters() if p.requires_grad]
        self.adapters = adapters_of(self.objective)
        self.signals = StopSignals(ANSWER if self.accelerator.is_main_process else "")

    def fit(self) -> TrainState:
        """Train from the current state until `max_epochs`, an early stop, or the end of the budget.

        Raises NonFiniteLoss, CannotWrite, and Preempted once a stop signal has been answered with a saved state.
        """
        self.budget.start()
        with self.signals, self.recorder.progress, self.saver:
            while not self.is_finished():
                for batches in self.epoch():
                    self.step(batches)
                self.saver.save_last()  # a run that ends during validation must not lose the epoch
                self.leave_if_asked()
                self.finish_epoch(self.validate())
            self.saver.finish()
        return self.state

    def is_finished(self) -> bool:
        """True when all epochs are done, the watched number has stopped improving, or the budget is used up."""
        position, stalled = self.state.position, self.stopping is not None and self.stopping.stop
        validated = position.batch == 0 or position.step == self.budget.validated_at
        return stalled or position.epoch >= self.settings.max_epochs or (self.budget.is_spent and validated)

    def epoch(self) -> Iterator[list[Any]]:
        """Yield the batches of the optimizer steps left in this epoch, fewer when the budget is used up."""
        epoch, batch = self.state.position.epoch, self.state.position.batch
        self.recorder.progress.epoch(epoch, batch // self.settings.accumulate)
        self.averages.begin_epoch(self.parts.optimizer, epoch)
        self.objective.set_epoch(epoch)
        self.model.train()
        yield from self.recorder.timed(self.groups())
        if self.budget.is_spent and not self.at_end_of_epoch():
            where = f"after step {self.state.position.step}, in epoch {epoch + 1}"
            self.recorder.progress.message(f"{self.budget.reason} {where}: validating there")
        else:
            self.averages.end_epoch(epoch)

    def groups(self) -> Iterator[list[Any]]:
        """Read the rest of the epoch in groups of micro-batches, one group per optimizer step."""
        position, limit = self.state.position, self.settings.limit_train
        self.train_loader.batch_sampler.set_position(position.epoch, position.batch)
        read = islice(self.train_loader, limit and max(limit - position.batch, 0))
        batches = iter(Prefetch(read, self.accelerator.device))
        while not self.budget.is_spent and (group := list(islice(batches, self.settings.accumulate))):
            yield [part for batch in group for part in split(batch, self.settings.parts)]

    def step(self, batches: list[Any]) -> None:
        """Move, predict, compare, descend, record: one optimizer step over micro-batches, unless the guard refuses."""
        position, part = self.state.position, self.recorder.part
        self.optimizer.zero_grad(set_to_none=True)
        self.guard.begin(position.epoch)
        for layer in self.adapters:
            layer.set_step(position.step)
        for number, read in enumerate(batches):
            batch = self.move(read, number)
            is_last = number == len(batches) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                with part("Forward"):
                    output = self.model(batch)
                if self.guard.note(output.loss):
                    break
                with part("Backward"):
                    self.accelerator.backward(output.loss / len(batches))
                    check_all_used(self.model)
        with part("Verdict"):
            verdict = self.guard.judge(self.requests())
        if verdict.is_sound:
            with part("Optimizer"):
                self.clip()
                self.optimizer.step()
                if self.guard.was_taken(position):
                    self.averages.update()
        else:
            self.recorder.progress.message(f"warning: {self.guard.refuse(verdict, position, batches)}")
        read_now = len(batches) // self.settings.parts
        self.state.position = replace(position, batch=position.batch + read_now, step=position.step + 1)
        self.record(output, batch, verdict)
        self.advance("step")
        self.save_or_leave(verdict)

    def move(self, batch: Any, number: int) -> Any:
        """Move micro-batch `number` of a step to the device, and seed the draws of its forward pass."""
        step, rank = self.state.position.step, self.accelerator.process_index
        moved = self.shaped(batch, TRAINING, step, number)
        seed_everything(self.settings.seed, TRAINING, step, number, rank)
        return moved

    def shaped(self, batch: Any, *position: int) -> Any:
        """Move a training batch to the device, and give it a shape that all processes draw alike."""
        moved = send_to_device(batch, self.accelerator.device, non_blocking=True)
        aspect = self.settings.aspect
        return moved if aspect is None else aspect(moved, self.settings.seed, *position)

    def requests(self) -> tuple[bool, bool, bool, bool]:
        """This process's requests to all: to stop, to save by the clock, to report a failed save, to finish."""
        saver = self.saver
        return self.signals.received is not None, saver.is_due_now(), saver.has_to_stop(), self.budget.is_due()

    def clip(self) -> None:
        """Clip the gradient norm; keep the norms before clipping for a step that logs them."""
        settings = self.settings
        if settings.log_grad_norm and self.is_logged(self.state.position.step + 1):
            self.recorder.norms = optim.grad_norms(self.objective.networks, self.accelerator.scaler)
        if settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.parameters, settings.clip_norm)

    def is_logged(self, step: int) -> bool:
        return step % self.settings.log_every == 0

    def record(self, output: StepOutput, batch: Any, verdict: Verdict) -> None:
        """Show the step; every `log_every` steps also its scalars, and all its pictures at the end of an epoch."""
        step, is_last = self.state.position.step, self.at_end_of_epoch()
        due = self.is_logged(step) and verdict.is_sound
        self.recorder.extra = {"train_safety/skipped_steps": self.guard.skipped}
        # Written here alone: a run killed before its validation would write the last step of an epoch again.
        self.recorder.step(output, batch, verdict.loss, self.scheduled() if due or is_last else {}, step, due)
        if due and self.state.best is None:  # nothing else tells whether anything is learned
            self.state.metrics = {**self.state.metrics, "disp_variation": self.recorder.health.variation}
        if self.settings.log_images == "all" and verdict.is_sound and is_last:
            items = [self.train_loader.dataset.describe(i) for i in batch["index"].tolist()]
            self.recorder.pictures(output, items, step)

    def at_end_of_epoch(self) -> bool:
        """True after the last step of the epoch."""
        return self.state.position.batch >= self.batches_per_epoch

    @property
    def batches_per_epoch(self) -> int:
        """Batches of this process in an epoch."""
        size = len(self.train_loader.batch_sampler)
        return min(size, self.settings.limit_train or size)

    def scheduled(self) -> dict[str, float]:
        """Epoch, learning rates of the networks, and weights of losses that change."""
        rates = optim.rates(self.objective.networks, self.parts.optimizer)
        weights = {f"loss_weight/{key}": self.objective.weights[key] for key in self.objective.changing}
        lr = {f"lr/{name}": rate for name, rate in rates.items()}
        return {"epoch": float(self.state.position.epoch), **lr, **weights}

    def advance(self, unit: Literal["epoch", "step"], watched: float | None = None) -> None:
        """Advance a schedule of that unit, also past a step that was left out, unless SWA sets the rates."""
        is_due = self.scheduler is not None and self.settings.scheduled_by == unit
        if is_due and not self.averages.owns_rates(self.state.position.epoch):
            optim.step_scheduler(self.scheduler, watched)

    def save_or_leave(self, verdict: Verdict) -> None:
        """Save `last` when it is due; after a stop signal, save it and leave."""
        is_asked, is_due_by_clock, has_failed, is_out_of_time = verdict.flags
        self.budget.is_spent |= is_out_of_time
        if has_failed:
            self.saver.raise_trouble()
        if is_asked:
            self.saver.save_last()
            if not self.at_end_of_epoch():  # else drawn when it goes on, with the validation
                self.saver.wait()
                self.draw(self.objective)
            self.leave()
        if self.at_end_of_epoch() or self.budget.is_spent:
            return  # saved by `fit`
        if is_due_by_clock or self.saver.is_due_at(self.state.position.step):
            self.saver.save_last()

    def leave_if_asked(self) -> None:
        """Leave if any process was asked to stop. Call it between epochs or validation batches, with `last` saved."""
        if any_process(self.accelerator, self.signals.received is not None):
            self.leave()

    def leave(self) -> None:
        """Raise Preempted once `last` is on disk."""
        self.saver.finish()
        raise Preempted(self.signals.received or StopSignals.handled[0])

    def validate(self) -> ValidationResult:
        """Validate this process's share of the validation data; the result covers all of it."""
        if self.val_loader is None:
            return ValidationResult()
        with self.accelerator.autocast():
            self.averages.prepare(self.objective, self.statistics_batches())
        sampler, progress = self.val_loader.batch_sampler, self.recorder.progress
        sampler.set_position(0, 0)
        progress.validation(len(self.val_loader))
        common = iter(range(sampler.num_common))  # batches that every process has: only there all can agree

        def after_batch() -> None:
            progress.advance()
            if next(common, None) is not None:
                self.leave_if_asked()

        self.validated.set_epoch(self.state.position.epoch)
        self.validated.eval()
        result = validate(
            self.validated,
            self.val_loader,
            sampler.num_items,
            accelerator=self.accelerator,
            seed=self.settings.seed,
            epoch=self.state.position.epoch,
            min_depth=self.settings.min_depth,
            max_depth=self.settings.max_depth,
            knows_K=not self.val_loader.dataset.guesses_K,
            want_images=self.settings.log_images == "all",
            on_batch=after_batch,
        )
        self.objective.train()
        return result

    @property
    def validated(self) -> Any:
        """The objective whose weights are validated and kept as `best`: an average, or the trained one."""
        return self.averages.module or self.objective

    def draw(self, objective: Any) -> None:
        """Write a sheet of fixed items of training and validation, predicted by `objective`."""
        if self.settings.log_images:
            modes = {"train": self.train_loader, "val": self.val_loader}
            self.recorder.overview(objective, modes, self.settings.seed, self.state.position.step)
            self.objective.train()

    def statistics_batches(self) -> Iterator[Any]:
        """Read the epoch that has just ended again, for the BatchNorm statistics of averaged weights."""
        epoch = self.state.position.epoch
        self.train_loader.batch_sampler.set_position(epoch, 0)
        for number, batch in enumerate(islice(self.train_loader, self.settings.limit_train)):
            seed_everything(self.settings.seed, STATISTICS, epoch, number, self.accelerator.process_index)
            yield self.shaped(batch, STATISTICS, epoch, number)
            self.leave_if_asked()

    def finish_epoch(self, result: ValidationResult) -> None:
        """Advance the schedule, keep `best` and `last`, record the validation.

        An epoch that the budget has cut short stays where it is: with a larger budget it goes on from there.
        Records are written once `last` is on disk: what a killed run repeats must not be logged twice.
        """
        state, settings = self.state, self.settings
        epoch, value = state.position.epoch, result.value(settings.monitor)
        state.metrics = result.kept or state.metrics
        if result.camera is not None:
            state.camera = result.camera.to_dict()
        if self.at_end_of_epoch():
            self.advance("epoch", result.value(settings.scheduler_monitor or settings.monitor))
            if self.stopping is not None:
                self.stopping.update(result.value(self.stopping.monitor), epoch)
            state.position = Position(epoch + 1, 0, state.position.step)
            self.budget.is_spent |= self.budget.is_set and any_process(self.accelerator, self.budget.is_due())
        else:
            self.budget.validated_at = state.position.step
        is_better = state.best is None or improvement(settings.monitor, value, state.best) > 0
        if math.isfinite(value) and is_better and self.saver.save_best(self.validated):
            state.best, state.best_epoch, state.best_metrics = value, epoch, state.metrics
        self.saver.save_last()
        self.saver.wait()
        self.record_epoch(result)

    def record_epoch(self, result: ValidationResult) -> None:
        """Write the state of the run and the result of its validation."""
        position = self.state.position
        try:
            self.run.write_state("running", position, *learned(self.state.judged, position.step))
        except CannotWrite as error:  # informative only; the checkpoint is what counts
            self.recorder.progress.message(f"warning: {error}")
        items = [self.val_loader.dataset.describe(i) for i in result.shown_items]
        judged = self.settings.monitor, self.state.best
        self.recorder.validation(result, items, *judged, position.step, is_last=self.is_finished())
        self.draw(self.validated)
        loaders = {"train": self.train_loader, "val": self.val_loader}
        read = {mode: loader.dataset for mode, loader in loaders.items() if loader is not None}
        self.recorder.unreadable(read, position.step)
