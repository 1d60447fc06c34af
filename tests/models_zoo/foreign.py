"""Checkpoints of other code bases with random weights: the benchmark's, its successor's, Monodepth2's, torchvision's.

BatchNorm statistics and disparity bins look trained: they are not those of a new network.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision

from tests.models_zoo.layouts import Shapes, State, conv, decoder_state, encoder_layout, fill, plain

TRAINED_WITH: dict[str, dict[str, Any]] = {
    "loss": {
        "img_recon": {"weight": 1, "loss_name": "ssim", "use_min": True, "use_automask": True},
        "disp_smooth": {"weight": 0.001, "use_edges": True},
    },
    "dataset": {"type": "kitti_lmdb", "split": "eigen_zhou", "size": [640, 192], "supp_idxs": [-1, 1], "use_aug": True},
    "loader": {"batch_size": 8, "num_workers": 8, "drop_last": True},
    "optimizer": {"type": "adam", "lr": 1e-4, "frozen_bn": False},
    "scheduler": {"type": "steplr", "step_size": 15, "gamma": 0.1, "monitor": None},
    "trainer": {"max_epochs": 30, "min_depth": 0.1, "max_depth": 100, "monitor": "AbsRel"},
}  # fmt: skip


MOMENTS = {"step": torch.tensor(149_250.0), "exp_avg": torch.zeros(4), "exp_avg_sq": torch.zeros(4)}
FROZEN_BINS = torch.arange(128.0).view(1, 128, 1, 1) / 128


def _under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{key}": value for key, value in state.items()}


def _scales(options: dict[str, Any]) -> list[int]:
    scales = options.get("out_scales", [0, 1, 2, 3])
    return [scales] if isinstance(scales, int) else list(scales)


def depth_state(options: dict[str, Any], generator: torch.Generator) -> State:
    """A depth network as stored under `nets.depth.`; `options` are the YAML keys of `net.depth`."""
    shapes, E, R = encoder_layout(options.get("enc_name", "resnet18"))
    heads = {"disp": 3 if options.get("use_virtual_stereo") else 1}
    if options.get("mask_name"):
        heads["mask"] = options["num_ch_mask"]
    state = _under("encoder", fill(shapes, generator))
    for head, out_ch in heads.items():
        name = options.get("dec_name", "monodepth")
        state |= _under(f"decoders.{head}", decoder_state(name, E, R, _scales(options), out_ch, True, generator))
    return state


def autoencoder_state(options: dict[str, Any], generator: torch.Generator) -> State:
    """An autoencoder as stored under `nets.autoencoder.`."""
    shapes, E, R = encoder_layout(options.get("enc_name", "resnet18"))
    name = options.get("dec_name", "monodepth")
    decoder = decoder_state(name, E, R, _scales(options), 3, False, generator)
    return _under("encoder", fill(shapes, generator)) | _under("decoder", decoder)


def pose_state(options: dict[str, Any], generator: torch.Generator, successor: bool = False) -> State:
    """A pose network as stored under `nets.pose.`; the successor names its head `decoders.pose`."""
    shapes, E, _ = encoder_layout(options.get("enc_name", "resnet18"), 6)
    heads = {"decoders.pose" if successor else "decoder": 12}
    heads |= {"decoders.focal": 2, "decoders.offset": 2} if options.get("learn_K") else {}
    head = conv("squeeze.0", E[-1], 256, 1)
    for p, out_ch in heads.items():
        head |= conv(f"{p}.0.0", 256, 256) | conv(f"{p}.1.0", 256, 256) | conv(f"{p}.2", 256, out_ch, 1)
    return _under("encoder", fill(shapes, generator)) | fill(head, generator)


def saved_cfg(net: dict, losses: dict, dataset: dict | None) -> tuple[dict, dict]:
    """The configuration as saved, without the parts that the code removes, and the loss weights it removes."""
    cfg: dict[str, Any] = copy.deepcopy({"net": net, **TRAINED_WITH, "loss": losses})
    cfg["dataset"] |= dataset or {}
    weights = {k: kwargs.pop("weight", 1) for k, kwargs in cfg["loss"].items() if kwargs is not None}
    cfg["optimizer"]["opt"] = cfg["optimizer"].pop("type")
    cfg["optimizer"].pop("frozen_bn")
    cfg["scheduler"].pop("monitor")
    return cfg, weights


def lightning_checkpoint(
    net: dict[str, Any],
    *,
    losses: dict | None = None,
    dataset: dict | None = None,
    seed: int = 0,
    successor: bool = False,
    compiled: bool = False,
) -> dict[str, Any]:
    """The content of a `.ckpt` of the benchmark (arXiv:2208.01489) or of its successor (2307.10713).

    Args:
        net: the YAML section: {"depth": {...}, "pose": {...}, "autoencoder": {...}}.
        losses: the YAML section with weights; minimum reprojection and smoothness by default.
        dataset: keys that replace those of a KITTI section of size [640, 192].
        successor: pose keys `decoders.pose.*`, no pixel grid, frozen bins, an entry `loops`.
        compiled: encoders wrapped by `torch.compile`, hence `encoder._orig_mod.`.
    """
    g = torch.Generator().manual_seed(seed)
    cfg, weights = saved_cfg(net, TRAINED_WITH["loss"] if losses is None else losses, dataset)
    makers: dict[str, Callable[..., State]] = {
        "depth": depth_state,
        "pose": functools.partial(pose_state, successor=successor),
        "autoencoder": autoencoder_state,
    }
    state: State = OrderedDict()
    for name, options in net.items():
        for key, value in makers[name](options, g).items():
            stored = f"encoder._orig_mod.{key[8:]}" if compiled and key.startswith("encoder.") else key
            state[f"nets.{name}.{stored}"] = FROZEN_BINS if successor and key.endswith(".bins") else value
    if cfg["loss"].get("disp_occ") is not None:
        state["losses.disp_occ._sign"] = torch.tensor(-1 if cfg["loss"]["disp_occ"].get("invert") else 1)
    state |= {f"weights.{key}": torch.tensor(weight) for key, weight in weights.items()}
    if not successor:
        w, h = cfg["dataset"]["size"]
        ys, xs = torch.meshgrid(torch.arange(float(h)), torch.arange(float(w)), indexing="ij")
        state["synth.backproj.ones"] = torch.ones(1, 1, h * w)
        state["synth.backproj.pix"] = torch.stack([xs, ys, torch.ones_like(xs)]).view(1, 3, h * w)
    return {
        "epoch": 29,
        "global_step": 149_250,
        "pytorch-lightning_version": "1.9.0" if successor else "1.5.8",
        "state_dict": state,
        **({"loops": {"fit_loop": {"epoch_progress": {"current": {"completed": 30}}}}} if successor else {}),
        "callbacks": {"ModelCheckpoint{'monitor': 'AbsRel'}": {"best_model_score": torch.tensor(0.08)}},
        "optimizer_states": [{"state": {0: MOMENTS}, "param_groups": [{"lr": 1e-6, "params": [0]}]}],
        "lr_schedulers": [{"step_size": 15, "gamma": 0.1, "last_epoch": 30, "_last_lr": [1e-6]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"cfg": cfg},
    }


@functools.lru_cache(maxsize=16)
def _torchvision_layout(name: str) -> Shapes:
    with torch.device("meta"):
        return {k: tuple(v.shape) for k, v in torchvision.models.get_model(name, weights=None).state_dict().items()}


def torchvision_resnet(name: str, seed: int = 0) -> State:
    """A classifier's state dict with torchvision's names: resnet18/34/50/101, resnext101_32x8d."""
    return OrderedDict(fill(_torchvision_layout(name), torch.Generator().manual_seed(seed)))


def _monodepth2_decoder(E: Sequence[int], out_ch: int, g: torch.Generator) -> State:
    """The monodepth decoder with one more `.conv` in every key."""
    state = fill(plain(E, (2, 4, 8, 16, 32), (0, 1, 2, 3), out_ch, True), g)
    return {".conv.".join(key.rsplit(".", 1)): value for key, value in state.items()}


def monodepth2_folder(
    path: str | Path,
    *,
    enc_name: str = "resnet18",
    pose: bool = True,
    stereo: bool = True,
    mask_channels: int = 0,
    seed: int = 0,
    legacy: bool = True,
) -> None:
    """Write the files of a Monodepth2 model (arXiv:1806.01260) into the new folder `path`.

    Args:
        pose: with `pose_encoder.pth` and `pose.pth`; False for a model trained on stereo pairs only.
        stereo: the flag `use_stereo` in `encoder.pth`.
        mask_channels: channels of `predictive_mask.pth`, one per source frame; 0 = no such file.
        legacy: serialised as before torch 1.6, like the released files.
    """
    g = torch.Generator().manual_seed(seed)
    encoder = _under("encoder", fill(_torchvision_layout(enc_name), g))
    bottleneck = "encoder.layer1.0.conv3.weight" in encoder
    E = (64, 256, 512, 1024, 2048) if bottleneck else (64, 64, 128, 256, 512)
    files: dict[str, dict] = {
        "encoder": {**encoder, "height": 192, "width": 640, "use_stereo": stereo},
        "depth": _monodepth2_decoder(E, 1, g),
        "adam": {"state": {0: MOMENTS}, "param_groups": [{"lr": 1e-5, "params": [0]}]},
    }
    if pose:
        stem = {"conv1.weight": (64, 6, 7, 7)}
        files["pose_encoder"] = _under("encoder", fill({**_torchvision_layout(enc_name), **stem}, g))
        head = conv("net.0", E[-1], 256, 1) | conv("net.1", 256, 256) | conv("net.2", 256, 256)
        files["pose"] = fill(head | conv("net.3", 256, 12, 1), g)
    if mask_channels:
        files["predictive_mask"] = _monodepth2_decoder(E, mask_channels, g)
    Path(path).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        torch.save(OrderedDict(content), Path(path) / f"{name}.pth", _use_new_zipfile_serialization=not legacy)
