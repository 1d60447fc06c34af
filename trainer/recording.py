"""What the loop shows and writes while it trains: scalars, pictures, timers, warnings. Nothing here changes the run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainer.distributed import total
from trainer.metrics.validation import VALIDATION_METRICS, validation_metrics
from trainer.types import DATA_STAGES, StepOutput
from trainer.validation import ValidationResult, all_finite

CONSTANT_DISPARITY = 1e-3  # std / mean of a picture below which nothing can be seen in it


class Recorder:
    """Write the records of a run to its trackers and its progress display.

    Args:
        accelerator: for means over processes; its main process alone writes.
        tracker: see `trainer.tracking`. progress: see `trainer.progress`.
        min_depth, max_depth: clamp of predictions in the training metrics.
    """

    def __init__(
        self,
        accelerator: Any,
        tracker: Any,
        progress: Any,
        *,
        min_depth: float = 0.1,
        max_depth: float = 100.0,
    ):
        self.accelerator, self.tracker, self.progress = accelerator, tracker, progress
        self.limits = min_depth, max_depth
        self.norms: dict[str, Tensor] = {}  # gradient norms of the latest step, where they are wanted
        self._parts: dict[str, float] = {}  # milliseconds of the parts of the latest step
        self._waited = self._worked = 0.0  # seconds of this epoch
        self._scheduled_at = -1  # step whose learning rates are written
        self._lost: dict[str, int] = {}  # items that could not be read, as last told

    def timed(self, groups: Iterable[Any]) -> Iterator[Any]:
        """Pass `groups` on and note how long each was waited for and worked on."""
        self._waited = self._worked = 0.0
        iterator, done = iter(groups), object()
        while True:
            start = time.perf_counter()
            group = next(iterator, done)
            fetched = time.perf_counter()
            if group is done:
                return
            self._parts = {"Data/Wait": 1e3 * (fetched - start)}
            self._waited += fetched - start
            yield group
            self._worked += time.perf_counter() - fetched

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of a block to the timer `Module/<name>` of this step; a GPU is not waited for."""
        start = time.perf_counter()
        yield
        key = f"Module/{name}"
        self._parts[key] = self._parts.get(key, 0.0) + 1e3 * (time.perf_counter() - start)

    def step(
        self,
        output: StepOutput,
        batch: Any,
        loss: float,
        scheduled: Mapping[str, float],
        step: int,
        due: bool,
    ) -> None:
        """Count a step; when it is due, show its loss and write its scalars. All processes must call it."""
        if not due:
            self.progress.advance()
            return
        waiting = self._waited / max(self._waited + self._worked, 1e-9)
        self.progress.advance({"loss": loss, "waiting for data": f"{waiting:.0%}"})
        scalars = {"train_losses/loss": loss, **self._terms(output), **self._metrics(output, batch)}
        scalars |= {f"train_timer/{k}": v for k, v in {**self._parts, **_loading(batch)}.items()}
        scalars |= {f"train_grad_norm/{k}": float(v) for k, v in self.norms.items()}
        self.tracker.scalars({**scalars, **scheduled}, step)
        self._scheduled_at = step

    def _terms(self, output: StepOutput) -> dict[str, float]:
        """Unweighted losses of the latest micro-batch, averaged over processes."""
        terms = torch.stack([value.detach() for value in output.losses.values()])
        means = total(self.accelerator, terms) / self.accelerator.num_processes
        return {f"train_losses/loss_{k}": v for k, v in zip(output.losses, means.tolist(), strict=True)}

    def _metrics(self, output: StepOutput, batch: Any) -> dict[str, float]:
        """Depth metrics of the latest micro-batch, averaged over its items with ground truth on all processes."""
        if "depth" not in batch:
            return {}
        depth = output.predictions["depth"][0].detach()
        values, valid = validation_metrics(depth, batch["depth"], *self.limits)
        values = torch.where(valid[:, None], values, 0.0).sum(0)
        *sums, count = total(self.accelerator, torch.cat([values, valid.sum()[None].to(values)])).tolist()
        return {
            f"train_metrics/{k}": s / count for k, s in zip(VALIDATION_METRICS, sums, strict=True) if count
        }

    def pictures(self, output: StepOutput, items: Iterable[str], step: int) -> None:
        """Write the pictures of a training step and the names of its items; only the main process computes them."""
        if self.accelerator.is_main_process and self.tracker.active:
            self.tracker.images(output.images, step, prefix="train_")
            self.tracker.text("train_items", " - ".join(items), step)

    def validation(
        self,
        result: ValidationResult,
        items: Iterable[str],
        monitor: str,
        scheduled: Mapping[str, float],
        step: int,
    ) -> None:
        """Write and show what a validation found, at the number of optimizer steps done before it."""
        scalars = {f"val_losses/loss_{k}".replace("loss_loss", "loss"): v for k, v in result.losses.items()}
        scalars |= {f"val_metrics/{k}": v for k, v in result.metrics.items()}
        if result.num_items:
            told = self._scheduled_at == step  # by the last step of the epoch
            self.tracker.scalars({**scalars, **({} if told else scheduled)}, step)
        if result.images:
            self.tracker.images(result.images, step, prefix="val_")
            self.tracker.text("val_items", " - ".join(items), step)
        self.progress.end_epoch(result.shown)
        self._warn(result, monitor)

    def unreadable(self, datasets: Mapping[str, Any], step: int) -> None:
        """Write how many items of each data set could not be read since the start; say so when there are more.

        All processes must call it: what any of them met is counted once.
        """
        for mode, dataset in datasets.items():
            if dataset.unreadable is None:
                continue
            met = dataset.unreadable.to(self.accelerator.device, torch.float32)
            count = int((total(self.accelerator, met) > 0).sum())
            self.tracker.scalars({f"{mode}_data/unreadable": count}, step)
            if count > self._lost.get(mode, 0):
                self._lost[mode] = count
                self.progress.message(
                    f"warning: {count} of {len(met)} {mode} items could not be read so far; others took their place."
                    " Their files are named above, where they were met"
                )

    def _warn(self, result: ValidationResult, monitor: str) -> None:
        """Say what a person must know about a validation and would not see in its numbers."""
        if result.num_items and not all_finite([result.value(monitor)]):
            self.progress.message(f"warning: {monitor} could not be computed, so `best` stays as it is")
        if result.disp_variation < CONSTANT_DISPARITY:
            self.progress.message(
                f"warning: the disparity is constant (std / mean {result.disp_variation:.1e}): the network sees no"
                " depth. Usual causes: trainer.min_depth too large for video without stereo (use 0.1), a camera that"
                " stands still, or too high a learning rate."
            )


def _loading(batch: Any) -> dict[str, float]:
    """Mean milliseconds per item of each stage of loading, where the dataset measures them (dataset.log_time)."""
    if "load_ms" not in batch:
        return {}
    means = batch["load_ms"].mean(0).tolist()
    return {f"Data/{stage}": ms for stage, ms in zip(DATA_STAGES, means, strict=True)}
