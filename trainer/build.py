"""Build a run from a configuration: the only place that knows both the YAML keys and the classes.

Nothing below this room ever sees the configuration, and nothing here changes it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration
from torch import nn
from torch.utils.data import DataLoader

import models_zoo
from trainer import distributed, optim, tracking
from trainer.atomic import require_space
from trainer.checkpoint import Checkpointer, Saved, read_pretrained
from trainer.checks import check_datasets, check_monitors, check_resume, to_digest
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
from trainer.rundir import RunDir
from trainer.seeding import INITIALISATION, seed_everything
from trainer.train_state import Position, TrainState
from trainer.types import UserError

PRECISIONS = {"32": "no", "16": "fp16", "bf16": "bf16"}  # YAML value -> Accelerate's name

UNUSED_WITHOUT_VIDEO = ("pose",)  # networks that stereo alone does not need
COPIES = 4  # times the weights: the least that one save needs (weights and Adam's two moments, and `best`)


def build_networks(cfg: Config, given: Collection[str] = ()) -> dict[str, nn.Module]:
    """Build the networks of `net:` by name. Raises UserError for one that cannot be built or has no weights.

    A pose network that no support would ask is left out. `given` names the networks whose weights come from a
    checkpoint: nothing is fetched for them, whatever the YAML says.
    """
    networks = {}
    for name, kwargs in cfg.net.items():
        if name in UNUSED_WITHOUT_VIDEO and not any(cfg.supp_idxs):
            continue
        try:
            if name in given and "pretrained" in kwargs:
                kwargs = {**kwargs, "pretrained": False}
            networks[name] = models_zoo.create(name, **kwargs)
        except (ValueError, models_zoo.PretrainedUnavailable) as error:
            raise UserError(f"net.{name}: {error}") from error
    return networks


def build_objective(cfg: Config, given: Collection[str] = ()) -> Objective:
    """Build networks and losses into the one module that the loop trains; `given` as in `build_networks`."""
    weights = {name: kwargs["weight"] for name, kwargs in cfg.loss.items()}
    losses = {
        name: LOSSES.create(name, **{k: v for k, v in kwargs.items() if k != "weight"})
        for name, kwargs in cfg.loss.items()
    }
    networks = build_networks(cfg, given)
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
                find_unused_parameters=_may_leave_out(cfg),
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


def _may_leave_out(cfg: Config) -> bool:
    """True where a step need not use every parameter, which DistributedDataParallel wants to know.

    A mask need not have a loss; where only the deepest feature is read (pose, autoencoder), an encoder like HRNet has
    layers that serve the others alone. ResNets have none.
    """
    deepest_only = [net for name, net in cfg.net.items() if name != "depth"]
    has_heads = any(not str(net.get("enc_name")).startswith("resn") for net in deepest_only)
    return bool(cfg.net["depth"].get("mask_name")) or has_heads


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
    notes = [*cfg.warnings, *check_datasets(datasets)]
    watched = {
        "trainer.monitor": cfg.trainer.monitor,
        "scheduler.monitor": (cfg.scheduler or {}).get("monitor"),
    }
    check_monitors(watched, cfg.loss, datasets)
    trackers = tracking.check_trackers(_names(cfg.trainer.trackers))
    seed_everything(seed, INITIALISATION)
    fresh = not folder.last_path.exists()
    start = read_pretrained(cfg.trainer.load_ckpt) if fresh and cfg.trainer.load_ckpt else None
    objective = build_objective(cfg, given=start.networks if start else () if fresh else cfg.net)

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
    state = _restore(cfg, checkpointer, hparams, accelerator, (objective, optimizer, scheduler), start, notes)
    recorder = _start_records(
        cfg, accelerator, folder, trackers, state, (progress, _steps_per_epoch(cfg, train_loader))
    )
    folder.write_hparams(hparams, command)
    folder.write_state("running", state.position)
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
        recorder=recorder,
        settings=_settings(cfg, seed),
    )
    return Run(loop, folder, notes)


def _restore(
    cfg: Config,
    checkpointer: Checkpointer,
    hparams: Mapping[str, Any],
    accelerator: Accelerator,
    parts: tuple[Objective, Any, Any],
    start: Saved | None,
    notes: list[str],
) -> TrainState:
    """Continue from `last` where there is one, else start from the weights of `start` or from scratch; add to `notes`.

    parts: objective, raw optimizer, scheduler.
    """
    saved = checkpointer.load_last()
    state = TrainState()
    if saved is not None:
        notes += check_resume(saved, hparams, allowed=cfg.trainer.resume_training)
        saved.restore(*parts, accelerator.scaler)
        state = saved.state
        if saved.metadata["monitor"] != cfg.trainer.monitor:
            state.best = state.best_epoch = None  # of another quantity
    elif start is not None:
        notes += start.start(parts[0])
    told = state.position, to_digest(hparams)
    distributed.check_equal(accelerator, told, "where the run stands and its settings")
    return state


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
        max_depth=_max_depth(cfg),
        log_images=trainer.log_images,
        log_grad_norm=trainer.log_grad_norm,
        limit_train=trainer.limit_train_batches,
    )
