"""Put a run together from a configuration: everything built, checked and restored, ready for the first step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from models_zoo.registry import did_you_mean
from trainer.build import build_dataset, build_loader, build_objective
from trainer.checkpoint import Checkpointer, read_pretrained
from trainer.checkpoint.resume import check_resume, to_digest
from trainer.checkpoint.state import Position, TrainState
from trainer.config import Config
from trainer.data.base import DepthDataset
from trainer.metrics.validation import VALIDATION_METRICS
from trainer.objective import Objective, freezing
from trainer.runtime import processes
from trainer.runtime.errors import UserError
from trainer.runtime.files import require_space
from trainer.runtime.rundir import RunDir
from trainer.runtime.seeding import INITIALISATION, seed_everything
from trainer.tracking import tracker as tracking
from trainer.tracking.progress import make_progress
from trainer.training import setup
from trainer.training.loop import Loop, Settings
from trainer.training.recorder import Recorder
from trainer.training.saver import Parts
from trainer.training.setup import build_accelerator, build_optimizer, build_scheduler

COPIES = 4  # times the weights: the least that one save needs (weights and Adam's two moments, and `best`)


@dataclass
class Run:
    """A run that is ready: its loop, its folder, and what a person should be told before it starts."""

    loop: Loop
    folder: RunDir
    notes: list[str] = field(default_factory=list)


def build_run(
    cfg: Config,
    folder: RunDir,
    *,
    seed: int,
    hparams: Mapping[str, Any],
    command: Sequence[str] = (),
    progress: Literal["auto", "rich", "tqdm", "plain"] = "auto",
    lap: Callable[[str], None] = lambda name: None,
) -> Run:
    """Build and check everything, restore `last` where there is one, and return a loop ready for `fit`.

    What can be known without other processes is checked before they meet, so that it is said once. Raises UserError for
    whatever is wrong before the first batch. lap: told the name of each part when it is done.
    """
    _set_backends(cfg)
    datasets = {mode: build_dataset(cfg, mode, seed) for mode in _modes(cfg)}
    notes = [*cfg.warnings, *check_datasets(datasets)]
    check_monitors(_watched(cfg), cfg.loss, datasets)
    trackers = tracking.check_trackers(_names(cfg.trainer.trackers))
    lap("data checked")
    seed_everything(seed, INITIALISATION)
    objective = _with_first_weights(cfg, folder, notes)
    lap("networks built")

    accelerator = build_accelerator(cfg, folder.path)
    lap("Accelerator and process group")
    train_loader, val_loader = _loaders(cfg, datasets, seed, accelerator)
    folder.open()  # takes the lock: from here on nobody else writes here
    if accelerator.is_main_process:
        require_space(folder.ckpts, _num_bytes(cfg, objective), "checkpoints")

    notes += setup.place(cfg, objective, accelerator)
    optimizer = build_optimizer(cfg, objective)
    scheduler = build_scheduler(cfg, optimizer)
    checkpointer = Checkpointer(
        folder.ckpts, hparams=hparams, monitor=cfg.trainer.monitor, is_main=accelerator.is_main_process
    )
    model, prepared = accelerator.prepare(objective, optimizer)
    lap("optimizer, networks in place")
    state = _restore(cfg, checkpointer, hparams, accelerator, (objective, optimizer, scheduler), notes)
    guard = setup.make_guard(cfg, accelerator, objective, checkpointer, folder, seed)
    averages, stopping = setup.make_averages(cfg, objective), setup.make_stopping(cfg)
    parts = Parts(objective, optimizer, scheduler, state, guard, averages, stopping)
    parts.restore()
    notes += freezing.without_statistics(objective)
    lap("restored")
    recorder = _start_records(
        cfg, accelerator, folder, trackers, state, (progress, _steps_per_epoch(cfg, train_loader))
    )
    saver = setup.make_saver(cfg, accelerator, checkpointer, parts, recorder.progress.message)
    folder.write_hparams(hparams, command)
    folder.write_state("running", state.position)
    lap("trackers")
    loop = Loop(
        accelerator=accelerator,
        parts=parts,
        model=model,
        # Accelerate's wrapper serves the scaler of fp16, and costs 0.2 ms a step.
        optimizer=optimizer if accelerator.scaler is None else prepared,
        train_loader=train_loader,
        val_loader=val_loader,
        saver=saver,
        run=folder,
        recorder=recorder,
        settings=_settings(cfg, seed),
    )
    return Run(loop, folder, notes)


def _with_first_weights(cfg: Config, folder: RunDir, notes: list[str]) -> Objective:
    """Build the objective; a new run with `load_ckpt` starts from those weights, and `notes` says from which not."""
    if folder.last_path.exists():
        return build_objective(cfg, given=cfg.net)  # all weights will come from `last`
    if not cfg.trainer.load_ckpt:
        return build_objective(cfg)
    start = read_pretrained(cfg.trainer.load_ckpt)
    objective = build_objective(cfg, given=start.networks)
    notes += start.start(objective)
    return objective


def _watched(cfg: Config) -> dict[str, str | None]:
    """The numbers of the validation that something waits for, by key."""
    stopping = cfg.trainer.early_stopping
    return {
        "trainer.monitor": cfg.trainer.monitor,
        "scheduler.monitor": (cfg.scheduler or {}).get("monitor"),
        "trainer.early_stopping.monitor": None if stopping is None else stopping.monitor,
    }


def _restore(
    cfg: Config,
    checkpointer: Checkpointer,
    hparams: Mapping[str, Any],
    accelerator: Accelerator,
    parts: tuple[Objective, Any, Any],
    notes: list[str],
) -> TrainState:
    """Continue from `last` where there is one; add to `notes`.

    parts: objective, raw optimizer, scheduler.
    """
    saved = checkpointer.load_last()
    state = TrainState()
    if saved is not None:
        defaults = {f"config.trainer.{key}": value for key, value in cfg.trainer_defaults().items()}
        notes += check_resume(saved, hparams, allowed=cfg.trainer.resume_training, defaults=defaults)
        saved.restore(*parts, accelerator.scaler)
        state = saved.state
        if saved.metadata["monitor"] != cfg.trainer.monitor:
            state.best = state.best_epoch = None  # of another quantity
    told = state.position, state.best, to_digest(hparams)
    processes.check_equal(accelerator, told, "where the run stands and its settings")
    if state.best is not None:
        _check_best(checkpointer, state, accelerator, notes)
    return state


def _check_best(
    checkpointer: Checkpointer, state: TrainState, accelerator: Accelerator, notes: list[str]
) -> None:
    """Where `best` is gone or damaged, let the next validation write one: a later best is better than none."""
    fault = checkpointer.fault_of_best() if accelerator.is_main_process else None
    if processes.any_process(accelerator, fault is not None):
        notes.append(f"{fault}. The next validated epoch becomes the best so far")
        state.best = state.best_epoch = None


def _start_records(
    cfg: Config,
    accelerator: Accelerator,
    folder: RunDir,
    trackers: list[str],
    state: TrainState,
    look: tuple[Literal["auto", "rich", "tqdm", "plain"], int],
) -> Recorder:
    """Start trackers and progress display where the run stands. look: kind of display, steps per epoch."""
    kind, steps_per_epoch = look
    show = make_progress(
        kind,
        is_main=accelerator.is_main_process,
        total_epochs=cfg.trainer.max_epochs,
        steps_per_epoch=steps_per_epoch,
    )
    is_new = state.position == Position()
    first_step = 0 if is_new else state.position.step + 1
    tracker = tracking.start(accelerator, trackers, folder.path, first_step=first_step, warn=show.message)
    tracker.hparams(cfg.to_dict(), metrics=[f"val_metrics/{name}" for name in VALIDATION_METRICS])
    limits = {"min_depth": cfg.trainer.min_depth, "max_depth": _max_depth(cfg)}
    return Recorder(accelerator, tracker, show, **limits)


def _max_depth(cfg: Config) -> float:
    return math.inf if cfg.trainer.max_depth is None else cfg.trainer.max_depth


def _names(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _num_bytes(cfg: Config, objective: Objective) -> int:
    """What one save needs at least."""
    copies = COPIES + (cfg.trainer.ema is not None) + (cfg.trainer.swa is not None)
    return copies * sum(p.numel() * p.element_size() for p in objective.parameters())


def _loaders(
    cfg: Config, datasets: Mapping[str, DepthDataset], seed: int, accelerator: Accelerator
) -> tuple[DataLoader, DataLoader | None]:
    """The loaders of this process, for training and, if there is any, validation."""
    rank, world = accelerator.process_index, accelerator.num_processes
    limit = cfg.trainer.limit_val_batches
    train_loader = build_loader(cfg, "train", datasets["train"], seed, rank, world)
    if not limit:
        return train_loader, None
    return train_loader, build_loader(cfg, "val", datasets["val"], seed, rank, world, limit)


def _modes(cfg: Config) -> tuple[str, ...]:
    return ("train", "val") if cfg.trainer.limit_val_batches else ("train",)


def _set_backends(cfg: Config) -> None:
    if cfg.trainer.num_threads:
        torch.set_num_threads(cfg.trainer.num_threads)
    torch.backends.cudnn.benchmark = cfg.trainer.benchmark
    torch.use_deterministic_algorithms(cfg.trainer.deterministic, warn_only=True)
    torch.autograd.set_detect_anomaly(cfg.trainer.detect_anomaly)


def _steps_per_epoch(cfg: Config, loader: DataLoader) -> int:
    limit, size = cfg.trainer.limit_train_batches, len(loader)
    return math.ceil((size if limit is None else min(size, limit)) / cfg.trainer.accumulate_grad_batches)


def _settings(cfg: Config, seed: int) -> Settings:
    trainer = cfg.trainer
    return Settings(
        max_epochs=trainer.max_epochs,
        seed=seed,
        accumulate=trainer.accumulate_grad_batches,
        clip_norm=trainer.gradient_clip_val,
        log_every=trainer.log_every_n_steps,
        monitor=trainer.monitor,
        scheduler_monitor=(cfg.scheduler or {}).get("monitor"),
        min_depth=trainer.min_depth,
        max_depth=_max_depth(cfg),
        log_images=trainer.log_images,
        log_grad_norm=trainer.log_grad_norm,
        limit_train=trainer.limit_train_batches,
    )


def check_datasets(datasets: Mapping[str, DepthDataset]) -> list[str]:
    """Raise UserError listing every problem of every dataset; return their harmless notes."""
    problems = [f"dataset ({mode}): {line}" for mode, dataset in datasets.items() for line in dataset.check()]
    if problems:
        raise UserError("\n".join(problems))
    return [f"dataset ({mode}): {note}" for mode, dataset in datasets.items() for note in dataset.notes()]


def check_monitors(
    wanted: Mapping[str, str | None], loss_names: Iterable[str], datasets: Mapping[str, DepthDataset]
) -> None:
    """Raise UserError when `best`, or the schedule, waits for a number that is never computed.

    wanted: the key that names it -> its name.
    """
    known = [*VALIDATION_METRICS, "loss", *(f"loss_{name}" for name in loss_names)]
    for key, monitor in wanted.items():
        if monitor is None:
            continue
        if monitor not in known:
            raise UserError(f"{key}: {monitor!r} is not tracked. {did_you_mean(monitor, known)}")
        if monitor not in VALIDATION_METRICS and "val" in datasets and not datasets["val"].supp_idxs:
            raise UserError(
                f"{key}: {monitor} needs supports, but dataset.val.supp_idxs is empty. Name supports there,"
                f" or set {key}: AbsRel"
            )
        if monitor in VALIDATION_METRICS and "val" in datasets and not datasets["val"].use_depth:
            raise UserError(
                f"{key}: {monitor} needs ground truth, but dataset.use_depth is false for val."
                f" Set dataset.val.use_depth: true, or {key}: loss"
            )
