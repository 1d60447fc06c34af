"""From YAML to classes: networks, losses, objective, datasets and loaders of a configuration, which stays unchanged.

Only this room and those above it know the configuration.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

import models_zoo
from models_zoo.decoders import DECODERS
from trainer.config import Config
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.data.loaders import EpochBatches, make_loader
from trainer.losses import LOSSES
from trainer.objective import Objective
from trainer.runtime.errors import UserError

UNUSED_WITHOUT_VIDEO = ("pose",)  # networks that supports from stereo alone do not need


def build_networks(cfg: Config, given: Collection[str] = ()) -> dict[str, nn.Module]:
    """Build the networks of `net:` by name. Raises UserError for one that cannot be built or has no weights.

    A pose network that no support uses is left out. Networks in `given` get their weights from a checkpoint: none are
    downloaded for them.
    """
    networks: dict[str, nn.Module] = {}
    problems: dict[str, list[str]] = {}  # what is wrong: networks
    net = dict(cfg.net)
    if "depth" in net and net["depth"].get("init_disp") is None and not net["depth"].get("pretrained", True):
        net["depth"] = {**net["depth"], "init_disp": start_disparity(cfg)}
    for name, kwargs in net.items():
        if name in UNUSED_WITHOUT_VIDEO and not any(cfg.supp_idxs):
            continue
        if name in given and "pretrained" in kwargs:
            kwargs = {**kwargs, "pretrained": False}
        try:
            networks[name] = models_zoo.create(name, **kwargs)
        except (ValueError, models_zoo.PretrainedUnavailable) as error:
            problems.setdefault(str(error), []).append(f"net.{name}")
    if problems:
        lines = [
            f"{', '.join(names)}: {text.replace('net.<network>', names[0]) if len(names) == 1 else text}"
            for text, names in problems.items()
        ]
        raise UserError("\n".join(lines))
    return networks


def build_objective(cfg: Config, given: Collection[str] = ()) -> Objective:
    """Build networks and losses into one module, the one that is trained; `given` as in `build_networks`.

    Raises UserError when one cannot be built, or a loss needs something that networks and data do not provide.
    """
    weights = {name: _by_epoch(kwargs["weight"]) for name, kwargs in cfg.loss.items()}
    losses = {}
    for name, kwargs in cfg.loss.items():
        options = {key: value for key, value in kwargs.items() if key != "weight"}
        try:
            losses[name] = LOSSES.create(name, **options)
        except ValueError as error:
            raise UserError(f"loss: {error}") from error
    networks = build_networks(cfg, given)
    near, far = depth_limits(cfg)
    try:
        return Objective(
            networks=networks,
            losses=losses,
            weights=weights,
            supp_idxs=cfg.supp_idxs,
            min_depth=near,
            max_depth=far,
            legacy_sampling=cfg.trainer.legacy_sampling,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _by_epoch(weight: float | dict[str, float]) -> float | dict[int, float]:
    return {int(epoch): value for epoch, value in weight.items()} if isinstance(weight, dict) else weight


def start_disparity(cfg: Config) -> float | None:
    """Return the disparity that a new depth network starts from where `net.depth.init_disp` is null; None = its own.

    Where a stereo pair or a loss fixes the scale, 0.06 is some 9 m away, about where streets are: from 0.5, the first
    warps of a pair miss by half an image. Video alone fixes none; there the start is the middle of the sigmoid, where
    its slope is largest. From 0.06 a few steps of a pose network that has learned nothing yet push depth to its far
    limit, where the slope is nearly 0 and the network learns nothing more.
    """
    is_metric = 0 in cfg.supp_idxs or any(getattr(LOSSES.get(name), "fixes_scale", False) for name in cfg.loss)
    depth = cfg.net["depth"]
    decoder: Any = DECODERS.get(depth.get("dec_name", "monodepth"))
    can_start = depth.get("activation", "sigmoid") == "sigmoid" and decoder.supports_init
    return 0.06 if is_metric and can_start else None


def depth_limits(cfg: Config) -> tuple[float, float | None]:
    """Return depth at disparity 1 and 0 (None = no bound): those of the trainer, but none for a ReLU disparity."""
    activation = cfg.net.get("depth", {}).get("activation")
    if activation == "relu":
        return 1.0, None  # depth = 1 / disparity
    if activation == "metric":
        return cfg.trainer.max_depth or 1.0, None  # depth = max_depth / disparity
    return cfg.trainer.min_depth, cfg.trainer.max_depth


def has_free_depth(cfg: Config) -> bool:
    """Return whether predicted depth has no limits of its own: unless the disparity is that of a sigmoid."""
    return cfg.net.get("depth", {}).get("activation", "sigmoid") != "sigmoid"


def build_dataset(cfg: Config, mode: str, seed: int = 0, **changes: Any) -> DepthDataset:
    """Build the dataset of one mode (train, val, test); `changes` override keys of the `dataset` section."""
    name, kwargs = cfg.dataset_kwargs(mode)
    dataset: DepthDataset = DATASETS.create(name, **{**kwargs, "seed": seed, **changes})
    dataset.K_is_learned = bool(cfg.net.get("pose", {}).get("learn_K"))
    return dataset


def build_loader(
    cfg: Config,
    mode: str,
    dataset: DepthDataset,
    seed: int,
    rank: int,
    world: int,
    limit: int | None = None,
    device: str = "cpu",
) -> DataLoader:
    """Build the loader of process `rank` of `world` for a kind of device; `limit` keeps the first batches only."""
    kwargs = dict(cfg.loader_kwargs(mode))
    batch_size = kwargs.pop("batch_size")
    num_items = len(dataset) if limit is None else min(len(dataset), limit * batch_size)
    drop_last, training = kwargs.pop("drop_last"), mode == "train"
    groups = None if dataset.groups is None else dataset.groups[:num_items]
    rest = max((size % batch_size for size in ([num_items] if groups is None else np.bincount(groups))), default=0)
    if training and world > 1 and not drop_last and rest:
        raise UserError(
            f"loader.train.drop_last: false leaves a batch of {rest} items, which {world} processes"
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
        groups=groups,
        blocks=None if dataset.blocks is None else dataset.blocks[:num_items],
        window=dataset.window,
    )
    return make_loader(dataset, sampler, device=device, **kwargs)
