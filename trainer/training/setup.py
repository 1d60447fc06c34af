"""Set up what a run trains with: accelerator, placed networks, optimizer, schedule, the other parts, the saver."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    is_hpu_available,
    is_mlu_available,
    is_musa_available,
    is_npu_available,
    is_xpu_available,
)

from trainer.checkpoint import Checkpointer
from trainer.checkpoint.state import TrainState
from trainer.config import Config
from trainer.config.optimizers import make_scheduler
from trainer.objective import Objective, batchnorm, freezing
from trainer.objective.compiling import CompiledFormulas, choose_formulas, compile_networks
from trainer.objective.recompute import recompute
from trainer.runtime import meeting, processes
from trainer.runtime.errors import UserError
from trainer.training import optim
from trainer.training.averages import EMA, SWA, Averages
from trainer.training.guard import StepGuard
from trainer.training.saver import Parts, Saver
from trainer.training.stopping import Budget, EarlyStopping

PRECISIONS = {"32": "no", "16": "fp16", "bf16": "bf16"}  # YAML value -> Accelerate's name
DDP_OPTIONS = {
    "gradient_as_bucket_view": True,
    # A mask without a loss, layers of HRNet that serve maps nobody reads, ...: untrained, which is no error. `wrapping`
    # turns it off where there are none.
    "find_unused_parameters": True,
}


def set_backends(cfg: Config) -> None:
    """Set what torch computes with, before a device is in use."""
    if cfg.trainer.num_threads:
        torch.set_num_threads(cfg.trainer.num_threads)
    precision = cfg.trainer.matmul_precision or "highest"
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"  # torch allows it to convolutions unless it is told
    torch.backends.cudnn.benchmark = cfg.trainer.benchmark
    if cfg.trainer.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may add up in another order
    torch.use_deterministic_algorithms(cfg.trainer.deterministic, warn_only=True)
    torch.autograd.set_detect_anomaly(cfg.trainer.detect_anomaly)


def has_accelerator() -> bool:
    """Return whether torch sees a device other than the CPU that Accelerate knows."""
    own = torch.cuda.is_available() or torch.backends.mps.is_available()
    others = (is_xpu_available, is_npu_available, is_hpu_available, is_mlu_available, is_musa_available)
    return own or any(is_available() for is_available in others)


def build_accelerator(cfg: Config, folder: Path) -> Accelerator:
    """Build the Accelerator with the YAML's precision, without compiling, on the CPU where there is no GPU.

    Raises UserError when the launcher contradicts the YAML, and when the processes do not meet in time.
    """
    precision = PRECISIONS[str(cfg.trainer.precision)]
    _check_launcher(cfg, precision)
    try:
        with processes.leaving_with_launcher():
            accelerator = Accelerator(
                mixed_precision=precision,
                cpu=not has_accelerator(),
                dynamo_backend="no",  # `trainer.compile` compiles; Accelerate must not do it again
                project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
                kwargs_handlers=[
                    DistributedDataParallelKwargs(broadcast_buffers=not cfg.trainer.sync_batchnorm, **DDP_OPTIONS),
                    InitProcessGroupKwargs(
                        init_method=meeting.init_method(),
                        # Accelerate drops the 600 s that NCCL has by default, and gloo would wait for 1800
                        timeout=timedelta(minutes=cfg.trainer.timeout_minutes, milliseconds=1),
                    ),
                ],
            )
    except RuntimeError as error:
        reason = processes.lost_peer(error)
        if reason is None:
            raise
        raise UserError(
            f"the processes did not meet within {cfg.trainer.timeout_minutes:g} minutes: {reason}. Were all started, on"
            " every machine, with the same number of processes? docs/tasks/cluster.md, section `Without a scheduler`"
        ) from error
    # torch deprecates an argument that Accelerate passes on.
    warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
    processes.check_world(accelerator)
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError(
            "trainer.precision: 16 needs a GPU (Accelerate ignores fp16 on a CPU and would train in 32 bit)."
            " Use `--set trainer.precision=bf16` or 32."
        )
    return accelerator


def _check_launcher(cfg: Config, precision: str) -> None:
    """Raise UserError when the settings of `accelerate launch`, found in the environment, contradict the YAML."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", precision):
        value = {name: value for value, name in PRECISIONS.items()}.get(launched, 32)
        raise UserError(
            f"trainer.precision is {cfg.trainer.precision}, but the launcher sets mixed_precision: {launched}. Make"
            f" them equal (`--set trainer.precision={value}`) or launch with mixed_precision: 'no'"
        )
    accumulated = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if accumulated != "1":  # it would divide every gradient once more
        raise UserError(
            f"the launcher sets gradient_accumulation_steps: {accumulated}. Leave that out, and set"
            " trainer.accumulate_grad_batches"
        )
    for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() == "true":
            raise UserError(
                f"the launcher uses {kind}, which this trainer does not support: its networks fit one device. Use"
                " distributed_type: MULTI_GPU (`monodepth launch-file multi_gpu`)"
            )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    own = getattr(cfg.trainer.compile, "backend", "no")
    if backend not in ("no", own):
        raise UserError(
            f"trainer.compile is {'off' if own == 'no' else own}, but the launcher sets dynamo_backend: {backend}."
            f" Make them equal (`--set trainer.compile.backend={backend}`) or launch with dynamo_backend: 'no'"
        )


def place(cfg: Config, objective: Objective, accelerator: Accelerator) -> list[str]:
    """Move the networks to the device, then freeze, recompute and compile as the configuration says.

    Returns notes. Each step needs the modules as the steps before left them. Raises UserError for parts that do not
    exist or that this machine cannot compile.
    """
    if accelerator.num_processes > 1 and cfg.trainer.sync_batchnorm:
        batchnorm.synchronise_batchnorm(objective, accelerator.device)
    objective.use_channels_last(cfg.trainer.channels_last, accelerator.device.type)
    objective.to(accelerator.device)
    notes = freezing.freeze(objective, cfg.trainer.freeze or [], cfg.trainer.frozen_batchnorm)
    notes += freezing.trained_share(objective)
    if cfg.trainer.gradient_checkpointing:
        notes += recompute(objective)
    if cfg.trainer.compile is not None:
        notes += compile_networks(objective, cfg.trainer.compile.model_dump())
    if cfg.trainer.gradient_compression and accelerator.num_processes == 1:
        notes.append("trainer.gradient_compression has no effect on one process, which exchanges no gradients")
    objective.fused = choose_formulas(cfg.trainer.fuse, accelerator.device.type)
    if isinstance(objective.fused, CompiledFormulas):
        notes.append(
            "compiled: photometric error and projection (inductor); the first step takes a minute longer, the first of"
            " the next start does not. trainer.fuse: off leaves it out"
        )
    if cfg.trainer.deterministic and accelerator.device.type == "cuda":
        notes.append(
            "trainer.deterministic: PyTorch has no deterministic backward pass of grid_sample (view synthesis) and of"
            " reflection padding (decoders) on CUDA; gradients repeat to rounding, not to the bit"
        )
    return notes


def build_optimizer(cfg: Config, objective: Objective) -> torch.optim.Optimizer:
    """Build the one optimizer of all networks."""
    return optim.make_optimizer(objective.networks, **cfg.optimizer_kwargs())


def build_schedule(cfg: Config, optimizer: torch.optim.Optimizer, steps_per_epoch: int, notes: list[str]) -> Any:
    """Build the schedule, laid out over all epochs; None without one. Adds notes on odd lengths."""
    options = cfg.scheduler_kwargs()
    if not options:
        return None
    length = cfg.trainer.max_epochs
    if options.get("by") == "step":
        length *= max(1, steps_per_epoch)
        if (given := options.get("T_max", length)) < length:
            fix = "by: step counts optimizer steps; leave it out, or `T_max: ~`, for the whole run"
            notes.append(f"scheduler.T_max: {given} is less than the {length:,} steps of the run: {fix}")
    unit, warmup = options.get("by", "epoch"), options.get("warmup", 0)
    if warmup >= length:
        notes.append(f"scheduler.warmup: {warmup:,} {unit}s are not over in this run of {length:,}")
    return make_scheduler(optimizer, length, **options)


def make_parts(
    cfg: Config,
    accelerator: Accelerator,
    checkpointer: Checkpointer,
    folder: Any,
    seed: int,
    trained: tuple[Objective, Any, Any],
    state: TrainState,
) -> Parts:
    """Add guard, averages, early stopping and budget to `trained` (objective, raw optimizer, scheduler); restore."""
    policy, limit = cfg.trainer.nonfinite, cfg.trainer.nonfinite_limit
    guard = StepGuard(accelerator, trained[0], checkpointer, folder, policy=policy, limit=limit, seed=seed)
    stopping, wanted = None, cfg.trainer.early_stopping
    if wanted is not None:
        stopping = EarlyStopping(wanted.monitor or cfg.trainer.monitor, wanted.patience, wanted.min_delta)
    budget = Budget(cfg.trainer.max_minutes, reads_clock=accelerator.is_main_process)
    parts = Parts(*trained, state, guard, make_averages(cfg, trained[0]), stopping, budget)
    parts.restore()
    return parts


def make_averages(cfg: Config, objective: Objective) -> Averages:
    """Build the averages of weights; they start from the current ones."""
    ema, swa = cfg.trainer.ema, cfg.trainer.swa
    moving = None if ema is None else EMA(objective, ema.decay, ema.warmup)
    if swa is None:
        return Averages(moving)
    start = round(swa.start * cfg.trainer.max_epochs) if swa.start < 1 else int(swa.start)
    return Averages(moving, SWA(objective, start, swa.lr, swa.anneal_epochs, swa.bn_batches))


def make_saver(
    cfg: Config, accelerator: Accelerator, checkpointer: Checkpointer, parts: Parts, warn: Callable[[str], None]
) -> Saver:
    """Build the saver, which writes checkpoints when they are due."""
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
