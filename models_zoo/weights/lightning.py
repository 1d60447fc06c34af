"""Lightning checkpoints of the benchmark of arXiv:2208.01489 and of its successor, SlowTV (arXiv:2307.10713)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models_zoo.standardise import IMAGENET_MEAN, IMAGENET_STD
from models_zoo.weights import FORMATS
from models_zoo.weights.aliases import ALIASES, DEAD
from models_zoo.weights.base import (
    ForeignWeights,
    Format,
    MissingSettings,
    UnreadableWeights,
    complete_batchnorm,
    listed,
    merged,
    tensors_of,
)

DROPPED = {  # prefix -> why
    "weights.": "weights of the losses, which become settings",
    "losses.": "the insides of losses, rebuilt from the settings",
    "synth.": "the pixel grid of the training size",
    "metrics.": "states of metrics",
}
DECODERS = {  # prefixes of decoders, by network
    "depth": ("decoders.disp.", "decoders.mask."),
    "autoencoder": ("decoder.",),
}
# The successor's name -> ours.
POSE_HEADS = {"decoders.pose.": "decoder.", "decoders.focal.": "focal.", "decoders.offset.": "centre."}
IMAGENET = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
LEGACY_SAMPLING = (
    "trainer.legacy_sampling: true, because that code sampled up to half a pixel off in training and its weights"
    " expect this; predicted depth does not depend on it"
)


@FORMATS.register("lightning")
class LightningCheckpoint(Format):
    """A `.ckpt` whose networks are stored as `nets.<network>`; the settings are among its hyper-parameters."""

    source = "arXiv:2208.01489; SlowTV, arXiv:2307.10713"
    looked_for = "a Lightning checkpoint of the KITTI benchmark or of SlowTV: `state_dict` with entries nets.depth. ..."

    def recognises(self, path: Path, content: Any) -> bool:
        state = content.get("state_dict") if isinstance(content, Mapping) else None
        return isinstance(state, Mapping) and any(str(name).startswith("nets.") for name in state)

    def read(self, path: Path, content: Any, corrections: Mapping[str, Any]) -> ForeignWeights:
        settings = _settings(path, content, corrections)
        state = {name.replace("_orig_mod.", ""): t for name, t in tensors_of(content["state_dict"], path).items()}
        networks, dropped = _split(path, state)
        options_of = settings.pop("net")
        notes: list[str] = []
        net = {name: _options(name, options_of.get(name), notes) for name in networks}
        if without := [name for name, opts in options_of.items() if opts is not None and name not in networks]:
            raise UnreadableWeights(
                f"{path}: its settings name net.{', net.'.join(without)}, but it has no weights for it. If this is"
                f" intended, correct the settings with `net: {{{without[0]}: ~}}`"
            )
        tensors: dict[str, Tensor] = {}
        for name, own in networks.items():
            own = _translate(path, name, own, net[name], dropped)
            notes += complete_batchnorm(own)
            tensors |= {f"{name}.{key}": tensor for key, tensor in own.items()}
        if losses := _losses(settings.get("loss"), state):
            settings["loss"] = losses
        settings["trainer"] = {**(settings.get("trainer") or {}), "legacy_sampling": True}
        return ForeignWeights(
            source=path,
            format="Lightning checkpoint of the benchmark (arXiv:2208.01489) or of SlowTV (arXiv:2307.10713)",
            tensors=tensors,
            net=net,
            settings=settings,
            dropped=dropped,
            notes=[*notes, LEGACY_SAMPLING, *_warnings(net, settings)],
            epoch=_count(content.get("epoch")),
            step=_count(content.get("global_step")),
        )


def _settings(path: Path, content: Mapping[str, Any], corrections: Mapping[str, Any]) -> dict[str, Any]:
    """Find the settings, in `hyper_parameters` or one level deeper, and merge the corrections into them."""
    given = content.get("hyper_parameters")
    places = [given, *given.values()] if isinstance(given, Mapping) else []
    found = next((p for p in places if isinstance(p, Mapping) and isinstance(p.get("net"), Mapping)), {})
    settings = merged(copy.deepcopy(dict(found)), corrections)
    if not isinstance(settings.get("net"), Mapping):
        raise MissingSettings(
            f"{path}: does not name the networks of its weights (no `net` in its hyper_parameters). Give the"
            " hparams.yaml of its run, two folders up from the checkpoint"
        )
    settings["net"] = dict(settings["net"])
    return settings


def _split(path: Path, state: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, list[str]]]:
    """Sort entries by network and drop known others with a reason. Raises UnreadableWeights for unknown ones."""
    networks: dict[str, dict[str, Tensor]] = {}
    dropped: dict[str, list[str]] = {}
    unknown = []
    for name, tensor in state.items():
        reason = next((why for prefix, why in DROPPED.items() if name.startswith(prefix)), None)
        if match := re.match(r"nets\.(\w+)\.", name):
            networks.setdefault(match[1], {})[name[match.end() :]] = tensor
        elif reason:
            dropped.setdefault(reason, []).append(name)
        else:
            unknown.append(name)
    if unknown:
        raise UnreadableWeights(f"{path}: {len(unknown)} entries belong to no network: {listed(unknown)}")
    return networks, dropped


def _options(name: str, options: Any, notes: list[str]) -> dict[str, Any]:
    """Return the options of a network, nothing to download; statistics default to those of its training."""
    if not isinstance(options, Mapping):
        notes.append(f"its settings lack net.{name}: the defaults are assumed, and the weights must fit them")
        options = {}
    return {**IMAGENET, **options, "pretrained": False}


def _translate(
    path: Path, name: str, own: dict[str, Tensor], options: Mapping[str, Any], dropped: dict[str, list[str]]
) -> dict[str, Tensor]:
    """Rename the entries of a network as in this zoo: aliases resolved, dead layers dropped."""
    own = _rename(path, name, own, POSE_HEADS, "a second copy of the head", dropped)
    decoder = str(options.get("dec_name", "monodepth"))
    if decoder not in ALIASES:
        return own
    scales = options.get("out_scales", [0, 1, 2, 3])
    scales = [scales] if isinstance(scales, int) else list(scales)
    for prefix in DECODERS.get(name, ()):
        names = {f"{prefix}decoder.{n}.": f"{prefix}convs.{layer}." for n, layer in enumerate(ALIASES[decoder](scales))}
        own = _rename(path, name, own, names, f"second names of weights of {decoder}", dropped)
        dead = tuple(f"{prefix}convs.{layer}." for layer in DEAD[decoder](scales))
        if unused := [key for key in own if key.startswith(dead)]:
            reason = f"layers of {decoder} that no output depends on"
            dropped.setdefault(reason, []).extend(f"nets.{name}.{key}" for key in unused)
        own = {key: tensor for key, tensor in own.items() if key not in unused}
    return own


def _rename(
    path: Path,
    name: str,
    own: Mapping[str, Tensor],
    names: Mapping[str, str],
    reason: str,
    dropped: dict[str, list[str]],
) -> dict[str, Tensor]:
    """Replace prefixes and drop entries stored under both names. Raises UnreadableWeights when the two differ."""
    renamed: dict[str, Tensor] = {}
    twice, differ = [], []
    for key, tensor in own.items():
        old = next((prefix for prefix in names if key.startswith(prefix)), "")
        new = names[old] + key.removeprefix(old) if old else key
        other = own.get(new) if old else None
        if other is None:
            renamed[new] = tensor
        elif _same(other, tensor):
            twice.append(key)
        else:
            differ.append(f"{key} and {new}")
    if differ:
        raise UnreadableWeights(
            f"{path}: net.{name} holds two different weights for the same layer: {listed(differ)}. One of the two was"
            " changed after training; remove it"
        )
    if twice:
        dropped.setdefault(reason, []).extend(f"nets.{name}.{key}" for key in twice)
    return renamed


def _same(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and (torch.equal(a, b) or bool(((a == b) | (a != a) & (b != b)).all()))
    )


def _losses(section: Any, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the section `loss` with the weights of the losses, which that code moved into the state dict."""
    weights = {name.removeprefix("weights."): t for name, t in state.items() if name.startswith("weights.")}
    losses = {name: dict(kwargs) for name, kwargs in (section or {}).items() if kwargs is not None}
    losses = losses or {name: {} for name in weights}
    for name, kwargs in losses.items():
        if name in weights and not weights[name].ndim:
            kwargs["weight"] = float(str(weights[name].numpy()))  # 0.001, not the nearest float32
    return losses


def _warnings(net: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> list[str]:
    """List what that code did differently and results show."""
    trainer, notes = settings["trainer"], []
    if any(options.get("use_stereo_blend") for options in net.values()):
        notes.append("net.depth.use_stereo_blend: that code exchanged the left and right borders, this one does not")
    if trainer.get("always_fwd_pose", True) is False:
        notes.append(
            "trainer.always_fwd_pose: false: its pose network was trained on [target, support] in this order, here"
            " pairs go in by time, so motions to supports before the target come out wrong until it is trained on"
        )
    if {"min_depth", "max_depth"} <= trainer.keys() and not trainer["min_depth"] and not trainer["max_depth"]:
        notes.append(
            "trainer.min_depth, max_depth: null: that code took 1 / disparity as depth. Here both bounds are needed,"
            " and depths of this network will be wrong"
        )
    return notes


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
