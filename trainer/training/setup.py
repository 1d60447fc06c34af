"""Equip a run from its configuration: networks made ready for training, and what watches, averages, saves and stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator

from trainer.averages import Averages
from trainer.checkpoint import Checkpointer
from trainer.config import Config
from trainer.objective import Objective, freezing
from trainer.objective.compiling import compile_networks
from trainer.objective.recompute import recompute
from trainer.runtime import processes
from trainer.training.averages import EMA, SWA
from trainer.training.guard import StepGuard
from trainer.training.saver import Parts, Saver
from trainer.training.stopping import EarlyStopping


def place(cfg: Config, objective: Objective, accelerator: Accelerator) -> list[str]:
    """Bring the networks to the device: layout, batch statistics, what is frozen, recomputed, compiled.

    Returns notes. The order matters: each step finds the modules as the ones before left them. Raises UserError for
    parts that do not exist, or that this machine cannot compile.
    """
    if accelerator.num_processes > 1 and cfg.trainer.sync_batchnorm:
        processes.synchronise_batchnorm(objective, accelerator.device)
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
