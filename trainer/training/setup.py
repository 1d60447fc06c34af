"""Equip a run from its configuration: networks made ready for training, and what watches, averages, saves and stops."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration

from trainer.checkpoint import Checkpointer
from trainer.config import Config, optimizers
from trainer.objective import Objective, batchnorm, freezing
from trainer.objective.compiling import compile_networks
from trainer.objective.recompute import recompute
from trainer.runtime import processes
from trainer.runtime.errors import UserError
from trainer.training import optim
from trainer.training.averages import EMA, SWA, Averages
from trainer.training.guard import StepGuard
from trainer.training.saver import Parts, Saver
from trainer.training.stopping import EarlyStopping


def place(cfg: Config, objective: Objective, accelerator: Accelerator) -> list[str]:
    """Bring the networks to the device: layout, batch statistics, what is frozen, recomputed, compiled.

    Returns notes. The order matters: each step finds the modules as the ones before left them. Raises UserError for
    parts that do not exist, or that this machine cannot compile.
    """
    if accelerator.num_processes > 1 and cfg.trainer.sync_batchnorm:
        batchnorm.synchronise_batchnorm(objective, accelerator.device)
    if cfg.trainer.channels_last:
        objective.use_channels_last()
    objective.to(accelerator.device)
    notes = freezing.freeze(objective, cfg.trainer.freeze or [], cfg.trainer.frozen_batchnorm)
    if cfg.trainer.gradient_checkpointing:
        notes += recompute(objective)
    if cfg.trainer.compile is not None:
        notes += compile_networks(objective, cfg.trainer.compile.model_dump())
    return notes


def make_guard(
    cfg: Config,
    accelerator: Accelerator,
    objective: Objective,
    checkpointer: Checkpointer,
    folder: Any,
    seed: int,
) -> StepGuard:
    """Make what decides whether a step may be taken."""
    return StepGuard(
        accelerator,
        objective,
        checkpointer,
        folder,
        policy=cfg.trainer.nonfinite,
        limit=cfg.trainer.nonfinite_limit,
        seed=seed,
    )


def make_averages(cfg: Config, objective: Objective) -> Averages:
    """Make the averages of weights; they begin with those that the objective has now."""
    ema, swa = cfg.trainer.ema, cfg.trainer.swa
    moving = None if ema is None else EMA(objective, ema.decay, ema.warmup)
    if swa is None:
        return Averages(moving)
    start = round(swa.start * cfg.trainer.max_epochs) if swa.start < 1 else int(swa.start)
    return Averages(moving, SWA(objective, start, swa.lr, swa.anneal_epochs, swa.bn_batches))


def make_stopping(cfg: Config) -> EarlyStopping | None:
    """Make what ends the run early, if anything does."""
    stopping = cfg.trainer.early_stopping
    if stopping is None:
        return None
    return EarlyStopping(stopping.monitor or cfg.trainer.monitor, stopping.patience, stopping.min_delta)


def make_saver(
    cfg: Config,
    accelerator: Accelerator,
    checkpointer: Checkpointer,
    parts: Parts,
    warn: Callable[[str], None],
) -> Saver:
    """Make what writes the checkpoints when they are due."""
    return Saver(
        accelerator,
        checkpointer,
        parts,
        every_steps=cfg.trainer.save_every_n_steps,
        every_minutes=cfg.trainer.save_every_minutes,
        background=cfg.trainer.save_async,
        on_error=cfg.trainer.on_save_error,
        warn=warn,
    )


PRECISIONS = {"32": "no", "16": "fp16", "bf16": "bf16"}  # YAML value -> Accelerate's name


DDP_OPTIONS = {
    "gradient_as_bucket_view": True,
    # A mask without a loss, layers of HRNet that serve maps nobody reads, ...: untrained, which is no error.
    "find_unused_parameters": True,
}


def build_optimizer(cfg: Config, objective: Objective) -> torch.optim.Optimizer:
    """Build the one optimizer over all networks."""
    return optim.make_optimizer(objective.networks, **cfg.optimizer_kwargs())


def build_scheduler(cfg: Config, optimizer: torch.optim.Optimizer) -> Any:
    """Build the epoch schedule, or None."""
    kwargs = cfg.scheduler_kwargs()
    return optimizers.make_scheduler(optimizer, **kwargs) if kwargs else None


def build_accelerator(cfg: Config, folder: Path) -> Accelerator:
    """Build the Accelerator: precision and compiling from the YAML, whatever the launcher says; CPU without a GPU.

    Raises UserError where the launcher contradicts the YAML, and when the processes do not meet in time.
    """
    precision = PRECISIONS[str(cfg.trainer.precision)]
    _check_launcher(cfg, precision)
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available() or _has_xpu()),
            dynamo_backend="no",  # `trainer.compile` compiles; a launcher that says so, too, must not do it again
            project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
            kwargs_handlers=[
                DistributedDataParallelKwargs(
                    broadcast_buffers=not cfg.trainer.sync_batchnorm,
                    **DDP_OPTIONS,
                ),
                InitProcessGroupKwargs(
                    init_method=processes.init_method(),
                    # Accelerate drops the 600 s that NCCL has by default, and gloo would wait for 1800
                    timeout=timedelta(minutes=cfg.trainer.timeout_minutes, milliseconds=1),
                ),
            ],
        )
    except RuntimeError as error:
        told = processes.lost_peer(error)
        if told is None:
            raise
        raise UserError(
            f"the processes did not meet within {cfg.trainer.timeout_minutes:g} minutes: {told}. Were all started, on"
            " every machine, with the same number of processes? docs/launching.md, section `Several machines`"
        ) from error
    # What torch says once where all are used after all, and of an argument that Accelerate passes on.
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
    warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
    processes.check_world(accelerator)
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError(
            "trainer.precision: 16 needs a GPU (Accelerate ignores fp16 on a CPU and would train in 32 bit)."
            " Use `--set trainer.precision=bf16` or 32."
        )
    return accelerator


def _check_launcher(cfg: Config, precision: str) -> None:
    """Raise UserError when what `accelerate launch` read from its file is not what the YAML says."""
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if told not in ("no", precision):
        known = {name: value for value, name in PRECISIONS.items()}
        raise UserError(
            f"trainer.precision is {cfg.trainer.precision}, but the launcher was told mixed_precision: {told}. Say the"
            f" same twice (`--set trainer.precision={known.get(told, 32)}`) or launch with mixed_precision: 'no'"
        )
    accumulated = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if accumulated != "1":  # it would divide every gradient once more
        raise UserError(
            f"the launcher was told gradient_accumulation_steps: {accumulated}. Leave that out, and set"
            " trainer.accumulate_grad_batches"
        )
    for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() == "true":
            raise UserError(
                f"the launcher was told to use {kind}, which this trainer does not: its networks fit one device. Use"
                " distributed_type: MULTI_GPU (launch/accelerate/multi_gpu.yaml)"
            )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    own = getattr(cfg.trainer.compile, "backend", "no")
    if backend not in ("no", own):
        raise UserError(
            f"trainer.compile is {'off' if own == 'no' else own}, but the launcher was told dynamo_backend: {backend}."
            f" Say the same twice (`--set trainer.compile.backend={backend}`) or launch with dynamo_backend: 'no'"
        )


def _has_xpu() -> bool:
    return hasattr(torch, "xpu") and torch.xpu.is_available()
