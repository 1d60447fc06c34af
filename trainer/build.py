"""Build the parts of a run from a configuration: the place that knows both the YAML keys and the classes.

Nothing below this room ever sees the configuration, and nothing here changes it. `trainer.training.run` puts the parts
together.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration
from torch import nn
from torch.utils.data import DataLoader

import models_zoo
from trainer.config import Config
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.data.loaders import EpochBatches, make_loader
from trainer.losses import LOSSES
from trainer.objective import Objective
from trainer.runtime import processes
from trainer.training import optim
from trainer.types import UserError

PRECISIONS = {"32": "no", "16": "fp16", "bf16": "bf16"}  # YAML value -> Accelerate's name

DDP_OPTIONS = {
    "gradient_as_bucket_view": True,
    # A mask without a loss, layers of HRNet that serve maps nobody reads, ...: untrained, which is no error.
    "find_unused_parameters": True,
}
UNUSED_WITHOUT_VIDEO = ("pose",)  # networks that stereo alone does not need


def build_networks(cfg: Config, given: Collection[str] = ()) -> dict[str, nn.Module]:
    """Build the networks of `net:` by name. Raises UserError for one that cannot be built or has no weights.

    A pose network that no support would ask is left out. `given` names the networks whose weights come from a
    checkpoint: nothing is fetched for them, whatever the YAML says.
    """
    networks: dict[str, nn.Module] = {}
    problems = []
    for name, kwargs in cfg.net.items():
        if name in UNUSED_WITHOUT_VIDEO and not any(cfg.supp_idxs):
            continue
        if name in given and "pretrained" in kwargs:
            kwargs = {**kwargs, "pretrained": False}
        try:
            networks[name] = models_zoo.create(name, **kwargs)
        except (ValueError, models_zoo.PretrainedUnavailable) as error:
            problems.append(f"net.{name}: {error}".replace("net.<network>", f"net.{name}"))
    if problems:
        raise UserError("\n".join(problems))
    return networks


def build_losses(cfg: Config) -> dict[str, nn.Module]:
    """Build the losses of `loss:` by name, in their order. Raises UserError for arguments that a loss refuses."""
    try:
        return {
            name: LOSSES.create(name, **{k: v for k, v in kwargs.items() if k != "weight"})
            for name, kwargs in cfg.loss.items()
        }
    except ValueError as error:
        raise UserError(f"loss: {error}") from error


def build_objective(cfg: Config, given: Collection[str] = ()) -> Objective:
    """Build networks and losses into the one module that the loop trains; `given` as in `build_networks`.

    Raises UserError for what cannot be built, and for losses that need what networks and data do not give.
    """
    losses, networks = build_losses(cfg), build_networks(cfg, given)
    try:
        return Objective(
            networks=networks,
            losses=losses,
            weights={name: kwargs["weight"] for name, kwargs in cfg.loss.items()},
            supp_idxs=cfg.supp_idxs,
            min_depth=cfg.trainer.min_depth,
            max_depth=cfg.trainer.max_depth,
            legacy_sampling=cfg.trainer.legacy_sampling,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


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
