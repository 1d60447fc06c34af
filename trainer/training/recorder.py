"""Records of a run: scalars, pictures, timers and warnings. Nothing here changes the run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainer.data.aspect import AspectRatios
from trainer.metrics.camera import NAMES, LearnedCamera
from trainer.metrics.validation import VALIDATION_METRICS, metric_limits, shown_name, validation_metrics
from trainer.runtime.processes import total
from trainer.tracking.health import Health
from trainer.training.validation import ValidationResult, overview
from trainer.types import DATA_STAGES, StepOutput

CAMERA_TAGS = tuple(f"camera/{name}" for name in NAMES)
FIRST_STEPS = 10  # of a start: workers are still starting
TOGETHER = ("Forward", "Backward", "Verdict")  # parts of a step in which processes may wait for each other


class Recorder:
    """Write the records of a run to its trackers and its progress display.

    Args:
        tracker, progress: see `trainer.tracking`; they write on the main process only.
        min_depth, max_depth: limits of the predicted depth, for training metrics and the health watch; 0 and infinity =
            none.
        aspect: of training batches, whose items are shown whole.
    """

    def __init__(
        self,
        accelerator: Any,
        tracker: Any,
        progress: Any,
        *,
        min_depth: float = 0.1,
        max_depth: float = 100.0,
        aspect: AspectRatios | None = None,
    ):
        self.accelerator, self.tracker, self.progress = accelerator, tracker, progress
        self.limits, self.aspect = (min_depth, max_depth), aspect
        self.health = Health(min_depth, max_depth)
        self.extra: dict[str, float] = {}  # scalars of the loop, by tag
        self.norms: dict[str, Tensor] = {}  # gradient norms of the latest logged step
        self._parts: dict[str, float] = {}  # milliseconds of the parts of the latest step
        self._waited = self._worked = 0.0  # seconds of this epoch
        self._began = self._together = 0.0  # when this step began, and what it has waited for other processes
        self._own, self._counted = 0.0, 0  # seconds without that of the steps since the latest point, and their number
        self._since, self._images = 0.0, 0  # when the latest speed was written, and images of all processes since
        self._steps = 0  # of this start
        self._shown: dict[str, float | str] = {}  # beside the loss, of the latest step whose scalars were written
        self.scored: int | None = None  # items behind the monitored number, once validated in this start
        self._lost: dict[str, int] = {}  # unreadable items, as last reported

    def timed(self, groups: Iterable[Any]) -> Iterator[Any]:
        """Yield `groups`, and measure the time spent waiting for each and working on it."""
        self._waited = self._worked = 0.0
        start = self._since = time.perf_counter()
        self._images = 0
        for group in groups:
            fetched = time.perf_counter()
            self._began, self._together = start, 0.0
            self._images += self.accelerator.num_processes * sum(len(batch["target"]) for batch in group)
            self._parts = {"Data/Wait": 1e3 * (fetched - start)}
            self._waited += fetched - start
            yield group
            start = time.perf_counter()
            self._worked += start - fetched

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of a block to the timer `Module/<name>` of this step, without waiting for a GPU."""
        start, busy = time.perf_counter(), time.thread_time()
        yield
        took = time.perf_counter() - start
        if name in TOGETHER:
            self._together += took - (time.thread_time() - busy if name != "Verdict" else 0.0)
        key = f"Module/{name}"
        self._parts[key] = self._parts.get(key, 0.0) + 1e3 * took

    def step(
        self, output: StepOutput, batch: Any, loss: float, scheduled: Mapping[str, float], step: int, due: bool
    ) -> None:
        """Count a step, show its loss, write what is `scheduled`; if due, write all scalars. For all processes.

        The guard has brought the loss of every step to the host. What else is shown is of the latest step that was due.
        """
        self._steps += 1
        self._own += time.perf_counter() - self._began - self._together
        self._counted += 1
        if due and "total" in self.norms:
            self._shown["grad"] = float(self.norms["total"])
        if due and self._steps > FIRST_STEPS:  # before, the workers start
            self._shown["waiting for data"] = f"{self._waited / max(self._waited + self._worked, 1e-9):.0%}"
        self.progress.advance({"train loss": loss, **self._shown})
        if not due:
            if scheduled:
                self.tracker.scalars(scheduled, step)
            return
        numbers, seen, own = self._measured(output, batch)
        waited, worked = seen.pop("waited"), seen.pop("worked")
        seen["waiting_share"] = waited / max(waited + worked, 1e-9)
        scalars: dict[str, float | Tensor] = {"train_losses/loss": loss, **numbers}
        scalars |= {f"train_timer/{k}": v for k, v in self._parts.items()}
        scalars |= {f"train_timer/Process/{k}": v for k, v in spread_of(own).items()}
        scalars |= {f"train_speed/{k}": v for k, v in self._speed().items()}
        if "load_ms" in batch:  # dataset.log_time: mean over items
            loading = batch["load_ms"].mean(0).unbind()
            scalars |= {f"train_timer/Data/{k}": v for k, v in zip(DATA_STAGES, loading, strict=True)}
        scalars |= {f"train_grad_norm/{k}": v for k, v in self.norms.items()}
        scalars |= {f"train_health/{k}": v for k, v in seen.items()}
        self.tracker.scalars({**scalars, **self.extra, **scheduled}, step)
        warnings = self.health.judge(seen, seen["waiting_share"], waited=waited, step=step)
        for warning in warnings + self.health.judge_processes(own):
            self.progress.message(warning)

    def _speed(self) -> dict[str, float]:
        """Return target images per second since the last point, and the most memory that tensors took on the device.

        Call it where the numbers of a step have been fetched, so that a device has done its work.
        """
        now = time.perf_counter()
        speed = {"images_per_second": self._images / max(now - self._since, 1e-9)}
        self._since, self._images = now, 0
        device = self.accelerator.device
        peak = getattr(getattr(torch, device.type, None), "max_memory_allocated", None)  # CUDA, XPU
        return speed if peak is None else {**speed, "device_memory_mb": peak(device) / 1e6}

    def _measured(self, output: StepOutput, batch: Any) -> tuple[dict[str, float], dict[str, float], list[float]]:
        """Measure the latest micro-batch over all processes: scalars by tag, values of the health watch, and times.

        Unweighted losses, learned cameras and health values are averaged over processes, depth metrics over items with
        ground truth, in one reduction and one transfer. The times are what a step takes each process by itself, ms.
        """
        terms = {f"train_losses/loss_{k}": v.detach() for k, v in output.losses.items()}
        if "focal" in output.predictions:  # learned: image widths and heights
            seen_K = torch.cat([output.predictions[key][:, 0] for key in ("focal", "centre")], 1).mean(0)
            terms |= zip(CAMERA_TAGS, seen_K, strict=True)
        like = output.loss.detach()
        seconds = {"waited": self._waited, "worked": self._worked}
        seen = self.health.look(output, batch) | {k: torch.full_like(like, v) for k, v in seconds.items()}
        means = torch.stack([v.to(like) for v in (*terms.values(), *seen.values())])
        world = self.accelerator.num_processes
        own = 1e3 * self._own / max(self._counted, 1)  # each process fills its place
        times = like.new_tensor([own * (rank == self.accelerator.process_index) for rank in range(world)])
        self._own, self._counted = 0.0, 0
        sums = total(self.accelerator, torch.cat([means, times, self._metric_sums(output, batch).to(like)]))
        sums[: len(means)] /= world
        numbers = sums.tolist()
        *scores, scored = numbers[len(means) + world :] or [0.0]
        tagged = dict(zip(terms, numbers[: len(terms)], strict=True))
        if scored:
            named = zip(VALIDATION_METRICS, scores, strict=True)
            tagged |= {f"train/{k}": score / scored for k, score in named}
        each = numbers[len(means) : len(means) + world]
        return tagged, dict(zip(seen, numbers[len(terms) : len(means)], strict=True)), each

    def _metric_sums(self, output: StepOutput, batch: Any) -> Tensor:
        """Return depth metrics summed over this process's items with ground truth, and their number: (6) or (0)."""
        if "depth" not in batch:
            return output.loss.new_zeros(0)
        depth = output.predictions["depth"][0].detach()
        values, valid = validation_metrics(depth, batch["depth"], *self.limits)
        return torch.cat([torch.where(valid[:, None], values, 0.0).sum(0), valid.sum()[None].to(values)])

    def pictures(self, output: StepOutput, items: Iterable[str], step: int) -> None:
        """Write the pictures of a training step and the names of its items, on the main process only."""
        if self.accelerator.is_main_process and self.tracker.active:
            self.tracker.images(output.images, step, prefix="train_")
            self.tracker.text("train_items", " - ".join(items), step)

    def overview(self, objective: Any, loaders: Mapping[str, Any], seed: int, step: int) -> None:
        """Write a sheet of the same few items of each data set, on the main process only; it leaves evaluation mode on.

        A failure is reported and ends nothing.
        """
        if not (self.accelerator.is_main_process and self.tracker.active):
            return
        objective.eval()
        for mode, loader in loaders.items():
            if loader is None:
                continue
            whole = self.aspect.whole if self.aspect and mode == "train" else dict
            try:
                rows = overview(objective, loader, self.accelerator, seed, *self.limits, prepare=whole)
            except Exception as error:
                self.progress.message(f"warning: no pictures of {mode} items: {type(error).__name__}: {error}")
                continue
            names = "   ".join(f"{row['label']}: {row['name']}".replace(" ", "\u00a0") for row in rows)  # break between
            self.tracker.sheet(f"{mode}/overview", rows, step, title=f"{mode} items after step {step}", footer=names)

    def validation(
        self,
        result: ValidationResult,
        items: Iterable[str],
        monitor: str,
        best: float | None,
        step: int,
        is_last: bool = False,
    ) -> None:
        """Write and show a validation after `step` optimizer steps, and the best value of `monitor` so far.

        is_last: no training follows.
        """
        scalars = {f"val_losses/loss_{k}".replace("loss_loss", "loss"): v for k, v in result.losses.items()}
        scalars |= {f"val/{k}": v for k, v in result.metrics.items()}
        if result.num_with_depth:
            scalars["baseline/constant_AbsRel"] = result.constant
        if best is not None:
            scalars[f"best/{monitor}"] = best
        if result.camera is not None:
            scalars |= camera_scalars(result.camera)
            if not math.isnan(result.stretch):
                scalars["val_camera/stretch"] = result.stretch
        if result.num_items:
            self.tracker.scalars(scalars, step)
        if result.images:
            self.tracker.images(result.images, step, prefix="val_")
            self.tracker.text("val_items", " - ".join(items), step)
        self.scored = result.num_with_depth if monitor in VALIDATION_METRICS else result.num_items
        self.progress.end_epoch({shown_name(name): value for name, value in result.shown.items()})
        if result.num_items and not math.isfinite(result.value(monitor)):
            near, far = metric_limits(*self.limits)
            has_no_truth = monitor in VALIDATION_METRICS and not result.num_with_depth
            why = f": no item has a true depth between {near:g} and {far:g} m. Check its unit" if has_no_truth else ""
            self.progress.message(f"warning: {monitor} could not be computed, so `best` stays as it is{why}")
        warnings = self.health.judge_validation(result.disp_variation, step)
        if result.camera is not None:
            self.progress.message(f"camera learned: {shown_camera(result)}")
            spread, bend = result.camera.spread, result.camera.bend
            warnings += self.health.judge_camera(spread, bend, result.stretch, step=step, is_last=is_last)
        for warning in warnings:
            self.progress.message(warning)

    def unreadable(self, datasets: Mapping[str, Any], step: int) -> None:
        """Write how many items of each dataset could not be read so far; warn when there are more than before.

        Call it on all processes: an item that several met is counted once.
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
                    " Their files are named above"
                )


def spread_of(own: list[float]) -> dict[str, float]:
    """Return the mean and the largest of the times of several processes, and whose it is; nothing of one."""
    if len(own) == 1:
        return {}
    slowest = max(own)
    return {"mean": sum(own) / len(own), "slowest": slowest, "slowest_process": float(own.index(slowest))}


def camera_scalars(camera: LearnedCamera) -> dict[str, float]:
    """Return the scalars of a camera measured in validation, by tag."""
    scalars = {f"val_{tag}": value for tag, value in zip(CAMERA_TAGS, camera.mean, strict=True)}
    for axis, fov, sd in zip("xy", camera.fov, camera.fov_sd, strict=True):
        scalars |= {f"val_camera/fov_{axis}": fov, f"val_camera/fov_{axis}_sd": sd}
    return {**scalars, "val_camera/spread": camera.spread, "val_camera/bend": camera.bend}


def shown_camera(result: ValidationResult) -> str:
    """Write the measured field of view beside that of the data, if it is known."""
    assert result.camera is not None
    known = " x ".join(f"{degrees:.1f}" for degrees in result.true_view or ())
    return f"field of view {result.camera.words}" + (f"; the data say {known}" if known else "")
