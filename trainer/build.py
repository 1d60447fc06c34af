"""Build a run from a configuration: the only place that knows both the YAML keys and the classes.

Nothing below this room ever sees the configuration, and nothing here changes it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration
from torch import nn
from torch.utils.data import DataLoader

import models_zoo
from models_zoo.registry import did_you_mean
from trainer import distributed, optim, tracking
from trainer.atomic import require_space
from trainer.checkpoint import Checkpointer, Saved, load_pretrained
from trainer.config import Config
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.data.loaders import EpochBatches, make_loader
from trainer.loop import Loop, Settings
from trainer.losses import LOSSES
from trainer.metrics.validation import VALIDATION_METRICS
from trainer.objective import Objective
from trainer.progress import make_progress
from trainer.recording import Recorder
from trainer.rundir import RunDir, diff_config, plain
from trainer.seeding import INITIALISATION, seed_everything
from trainer.train_state import TrainState
from trainer.types import UserError

PRECISIONS = {"32": "no", "16": "fp16", "bf16": "bf16"}  # YAML value -> Accelerate's name

UNUSED_WITHOUT_VIDEO = ("pose",)  # networks that stereo alone does not need
COPIES = 4  # times the weights: the least that one save needs (weights and Adam's two moments, and `best`)

# Changing one of these would change which samples the remaining steps see, or what the step count means.
FIXED_ON_RESUME = (
    "seed",
    "config.net.",
    "config.optimizer.",  # the saved optimizer and schedule keep their rates: another value would be ignored
    "config.scheduler.",
    "config.dataset.",
    "config.loader.batch_size",
    "config.loader.shuffle",
    "config.loader.drop_last",
    "config.loader.train.batch_size",
    "config.loader.train.shuffle",
    "config.loader.train.drop_last",
    "config.trainer.accumulate_grad_batches",
    "config.trainer.limit_train_batches",
)
# ... but not these: where the same data lies today, what only validation and timers see, where weights came from.
FREE_ON_RESUME = (
    "config.dataset.root",
    "config.dataset.depth_root",
    "config.dataset.train.root",
    "config.dataset.train.depth_root",
    "config.dataset.log_time",
    "config.dataset.val",
    "config.dataset.test",
    "config.net.depth.pretrained",
    "config.net.pose.pretrained",
)


def build_networks(cfg: Config, pretrained: bool = True) -> dict[str, nn.Module]:
    """Build the networks of `net:` by name. Raises UserError for one that cannot be built or has no weights.

    A pose network that no support would ask is left out. `pretrained` False fetches no weights, whatever the YAML says:
    for networks whose weights come from a checkpoint.
    """
    networks = {}
    for name, kwargs in cfg.net.items():
        if name in UNUSED_WITHOUT_VIDEO and not any(cfg.supp_idxs):
            continue
        try:
            networks[name] = models_zoo.create(
                name, **(kwargs if pretrained else {**kwargs, "pretrained": False})
            )
        except (ValueError, models_zoo.PretrainedUnavailable) as error:
            raise UserError(f"net.{name}: {error}") from error
    return networks


def build_objective(cfg: Config, pretrained: bool = True) -> Objective:
    """Build networks and losses into the one module that the loop trains; `pretrained` as in `build_networks`."""
    weights = {name: kwargs["weight"] for name, kwargs in cfg.loss.items()}
    losses = {
        name: LOSSES.create(name, **{k: v for k, v in kwargs.items() if k != "weight"})
        for name, kwargs in cfg.loss.items()
    }
    networks = build_networks(cfg, pretrained)
    if cfg.trainer.channels_last:
        for network in networks.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Objective(
        networks=networks,
        losses=losses,
        weights=weights,
        supp_idxs=cfg.supp_idxs,
        min_depth=cfg.trainer.min_depth,
        max_depth=cfg.trainer.max_depth,
        legacy_sampling=cfg.trainer.legacy_sampling,
        channels_last=cfg.trainer.channels_last,
    )


def build_dataset(cfg: Config, mode: str, seed: int = 0, **changes: Any) -> DepthDataset:
    """Build the dataset of one mode (train, val, test); `changes` override keys of the `dataset` section."""
    name, kwargs = cfg.dataset_kwargs(mode)
    return DATASETS.create(name, **{**kwargs, "seed": seed, **changes})


def build_loader(
    cfg: Config, mode: str, dataset: DepthDataset, seed: int, rank: int, world: int, limit: int | None = None
) -> DataLoader:
    """Build one process's loader; `limit` keeps only the first batches (validation)."""
    kwargs = dict(cfg.loader_kwargs(mode))
    batch_size = kwargs.pop("batch_size")
    num_items = len(dataset) if limit is None else min(len(dataset), limit * batch_size)
    drop_last, training = kwargs.pop("drop_last"), mode == "train"
    if training and world > 1 and not drop_last and num_items % batch_size:
        raise UserError(
            f"loader.train.drop_last: false leaves a batch of {num_items % batch_size} items, which {world} processes"
            " cannot share equally. Set it to true, or train with one process"
        )
    sampler = EpochBatches(
        num_items=num_items,
        batch_size=batch_size,
        rank=rank,
        world=world,
        seed=seed,
        shuffle=kwargs.pop("shuffle") and training,
        drop_last=drop_last and training,  # validation must see every item
    )
    return make_loader(dataset, sampler, **kwargs)


def build_optimizer(cfg: Config, objective: Objective) -> torch.optim.Optimizer:
    """Build the one optimizer over all networks."""
    return optim.make_optimizer(objective.networks, **cfg.optimizer_kwargs())


def build_scheduler(cfg: Config, optimizer: torch.optim.Optimizer) -> Any:
    """Build the epoch schedule, or None."""
    kwargs = cfg.scheduler_kwargs()
    return optim.make_scheduler(optimizer, **kwargs) if kwargs else None


def build_accelerator(cfg: Config, folder: Path) -> Accelerator:
    """Build the Accelerator: precision from the YAML, whatever the launcher says; CPU where there is nothing better."""
    precision = PRECISIONS[str(cfg.trainer.precision)]
    on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available() or _has_xpu())
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=on_cpu,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                broadcast_buffers=not cfg.trainer.sync_batchnorm,
                gradient_as_bucket_view=True,
                find_unused_parameters=bool(cfg.net["depth"].get("mask_name")),  # a mask need not have a loss
            )
        ],
    )
    distributed.check_world(accelerator)
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError(
            "trainer.precision: 16 needs a GPU (Accelerate ignores fp16 on a CPU and would train in 32 bit)."
            " Use `--set trainer.precision=bf16` or 32."
        )
    return accelerator


def _has_xpu() -> bool:
    return hasattr(torch, "xpu") and torch.xpu.is_available()


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
) -> Run:
    """Build and check everything, restore `last` where there is one, and return a loop ready for `fit`.

    What can be known without other processes is checked before they meet, so that it is said once. Raises UserError for
    whatever is wrong before the first batch.
    """
    _set_backends(cfg)
    datasets = {mode: build_dataset(cfg, mode, seed) for mode in _modes(cfg)}
    notes = [*cfg.warnings, *_check_datasets(datasets)]
    _check_monitor(cfg, datasets)
    trackers = tracking.check_trackers(_names(cfg.trainer.trackers))
    seed_everything(seed, INITIALISATION)
    has_weights = bool(cfg.trainer.load_ckpt) or folder.last_path.exists()
    objective = build_objective(cfg, pretrained=not has_weights)

    accelerator = build_accelerator(cfg, folder.path)
    rank, world = accelerator.process_index, accelerator.num_processes
    limit = cfg.trainer.limit_val_batches
    train_loader = build_loader(cfg, "train", datasets["train"], seed, rank, world)
    val_loader = build_loader(cfg, "val", datasets["val"], seed, rank, world, limit) if limit else None
    folder.open()  # takes the lock: from here on nobody else writes here
    if accelerator.is_main_process:
        require_space(folder.ckpts, COPIES * _num_bytes(objective), "checkpoints")

    if world > 1 and cfg.trainer.sync_batchnorm:
        distributed.synchronise_batchnorm(objective, accelerator.device)
    objective.to(accelerator.device)
    optimizer = build_optimizer(cfg, objective)
    scheduler = build_scheduler(cfg, optimizer)
    checkpointer = Checkpointer(
        folder.ckpts, hparams=hparams, monitor=cfg.trainer.monitor, is_main=accelerator.is_main_process
    )
    model, prepared = accelerator.prepare(objective, optimizer)
    saved = checkpointer.load_last()
    if saved is not None:
        notes += _check_resume(cfg, saved, hparams)
        saved.restore(objective, optimizer, scheduler, accelerator.scaler)
    elif cfg.trainer.load_ckpt:
        load_pretrained(objective, cfg.trainer.load_ckpt)
    state = saved.state if saved else TrainState()
    if saved and saved.metadata["monitor"] != cfg.trainer.monitor:
        state.best = state.best_epoch = None  # of another quantity
    distributed.check_equal(
        accelerator, (state.position, to_digest(hparams)), "where the run stands and its settings"
    )

    show = make_progress(
        progress,
        is_main=accelerator.is_main_process,
        total_epochs=cfg.trainer.max_epochs,
        steps_per_epoch=_steps_per_epoch(cfg, train_loader),
    )
    tracker = tracking.start(
        accelerator,
        trackers,
        folder.path,
        first_step=state.position.step + 1 if saved else 0,
        warn=show.message,
    )
    folder.write_hparams(hparams, command)
    folder.write_state("running", state.position)
    tracker.hparams(cfg.to_dict(), metrics=[f"val_metrics/{name}" for name in VALIDATION_METRICS])
    settings = _settings(cfg, seed)
    loop = Loop(
        accelerator=accelerator,
        objective=objective,
        model=model,
        optimizer=prepared,
        scheduler=scheduler,
        train_loader=train_loader,
        val_loader=val_loader,
        checkpointer=checkpointer,
        state=state,
        run=folder,
        recorder=Recorder(
            accelerator, tracker, show, min_depth=settings.min_depth, max_depth=settings.max_depth
        ),
        settings=settings,
    )
    return Run(loop, folder, notes)


def _names(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def to_digest(hparams: Mapping[str, Any]) -> str:
    """A short fingerprint of settings, to compare those of several processes."""
    return hashlib.sha256(json.dumps(plain(hparams), sort_keys=True).encode()).hexdigest()[:12]


def _num_bytes(objective: Objective) -> int:
    return sum(p.numel() * p.element_size() for p in objective.parameters())


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
        save_every=trainer.save_every_n_steps,
        monitor=trainer.monitor,
        scheduler_monitor=(cfg.scheduler or {}).get("monitor"),
        min_depth=trainer.min_depth,
        max_depth=math.inf if trainer.max_depth is None else trainer.max_depth,
        log_images=trainer.log_images,
        log_grad_norm=trainer.log_grad_norm,
        limit_train=trainer.limit_train_batches,
    )


def _check_datasets(datasets: Mapping[str, DepthDataset]) -> list[str]:
    """Raise UserError listing every problem of every dataset; return their harmless notes."""
    problems = [f"dataset ({mode}): {line}" for mode, dataset in datasets.items() for line in dataset.check()]
    if problems:
        raise UserError("\n".join(problems))
    return [f"dataset ({mode}): {note}" for mode, dataset in datasets.items() for note in dataset.notes()]


def _check_monitor(cfg: Config, datasets: Mapping[str, DepthDataset]) -> None:
    """Raise UserError when `best`, or the schedule, waits for a number that is never computed."""
    known = [*VALIDATION_METRICS, "loss", *(f"loss_{name}" for name in cfg.loss)]
    wanted = {
        "trainer.monitor": cfg.trainer.monitor,
        "scheduler.monitor": (cfg.scheduler or {}).get("monitor"),
    }
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


def _check_resume(cfg: Config, saved: Saved, hparams: Mapping[str, Any]) -> list[str]:
    """Raise UserError when `last` must not or cannot be continued exactly; return what has changed."""
    if not cfg.trainer.resume_training:
        raise UserError(
            f"{saved.path} already holds a run, at step {saved.state.position.step}."
            " Set trainer.resume_training: true to continue it, or use another --version"
        )
    changes = diff_config(saved.hparams, hparams)
    fixed = [c for c in changes if c.startswith(FIXED_ON_RESUME) and not c.startswith(FREE_ON_RESUME)]
    if fixed:
        raise UserError(
            f"{saved.path} was trained with other settings and cannot be continued exactly (then -> now):\n  "
            + "\n  ".join(fixed)
            + "\nUse the old values, or another --version for a new run"
        )
    return [*saved.notes, *(f"continuing with a changed setting: {change}" for change in changes)]
