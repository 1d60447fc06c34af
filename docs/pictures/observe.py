"""One training step, watched: which keys of a batch reach which network, what a scene is given and who reads it.

Nothing is written down by hand: dependence is asked of autograd, reads are noted as they happen, and the letters of
shapes come from the comments beside the fields, held against the tensors of the step.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from trainer.build import build_dataset, build_objective
from trainer.config import Config, load_config
from trainer.config.pages import default_beside, find_page
from trainer.data.loaders import collate
from trainer.geometry.scene import Scene
from trainer.types import Batch, Predictions

SIZES = {"b": 2, "h": 64, "w": 128}
TINY = [
    *("dataset.type=synthetic", f"dataset.size=[{SIZES['w']},{SIZES['h']}]", "dataset.items_per_scene=1"),
    *(f"dataset.num_items={SIZES['b']}", f"loader.batch_size={SIZES['b']}"),
]
ALWAYS = {"size", "scales", "n_supports", "supp_idxs", "fused", "is_virtual", "views", "others"}  # no data


@dataclass
class Observed:
    """What flowed in a step of a page."""

    cfg: Config
    batch: list[str] = field(default_factory=list)  # keys that reach a network or the scene
    sees: dict[str, list[str]] = field(default_factory=dict)  # network -> keys of the batch
    gives: dict[str, list[str]] = field(default_factory=dict)  # network -> predictions
    predictions: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)  # fields of the scene
    reads: dict[str, set[str]] = field(default_factory=dict)  # loss, or method of the scene -> what it reads
    losses: dict[str, float] = field(default_factory=dict)  # name -> weight


def pages_of(name: str) -> tuple[Any, Any]:
    """Return a page by name, and the default that it builds on."""
    page = find_page(name)
    return page, default_beside([page])


@cache
def observe(name: str) -> Observed:
    """Run one step of a page, with tiny encoders on two made items. Raises ValueError when a shape is not as stated."""
    page, default = pages_of(name)
    seen = Observed(load_config(page, default))
    small = {net: {"enc_name": "test_resnet", "pretrained": False} for net in seen.cfg.net}
    cfg = load_config(page, default, overrides=[*TINY, {"net": small}])
    dataset, objective = build_dataset(cfg, "train"), build_objective(cfg).train()
    batch = collate([dataset[(0, i)] for i in range(SIZES["b"])])
    leaves = {key: value.requires_grad_() for key, value in batch.items() if value.is_floating_point()}
    outputs = _listen(objective, seen)
    predictions = objective(batch).predictions

    for network, out in outputs.items():
        answers = [t for t in _tensors(out) if t.requires_grad]
        gradients = torch.autograd.grad([t.sum() for t in answers], [*leaves.values()], allow_unused=True)
        seen.sees[network] = [key for key, g in zip(leaves, gradients, strict=True) if g is not None]
        seen.gives[network] = [key for key in out if key in predictions]
    seen.losses = {key: objective.weights[key] for key in objective.losses}
    made = {*seen.given, *(key for keys in seen.gives.values() for key in keys)}  # depth is made by the scene
    seen.predictions = [key for key in notes_on(Predictions) if key in predictions and key in made]
    flowing = {*seen.given, *(key for keys in seen.sees.values() for key in keys)}
    seen.batch = [key for key in notes_on(Batch) if key in batch and key in flowing]
    sizes = {**SIZES, "n": len(objective.supp_idxs)}
    _check_shapes(Batch, {key: batch[key] for key in seen.batch}, sizes)
    _check_shapes(Predictions, {key: predictions[key] for key in seen.predictions}, sizes)
    return seen


def notes_on(cls: type) -> dict[str, tuple[str, str]]:
    """Return the shape, "b 3 h w" or "", and the first words of the comment beside each field that has one."""
    field = r"^    (\w+): [^#\n]*# (?:(?:\{s: )?\(([^)]*)\)\}? )?([^\n]*)"
    found = re.findall(field, inspect.getsource(cls), re.MULTILINE)
    return {key: (shape, re.split(r"[,;](?![^\[(]*[\])])", note)[0]) for key, shape, note in found}


def public_reads(names: Iterable[str]) -> list[str]:
    """List what is read of a scene, in the order of its class, without the numbers that describe it."""
    order = dict.fromkeys([*notes_on(Scene), *vars(Scene)])
    return [name for name in order if name in {*names} - ALWAYS]


def _listen(objective: Any, seen: Observed) -> dict[str, Any]:
    outputs: dict[str, Any] = {}
    now = [""]  # the loss that runs

    class Watched(Scene):
        def __getattribute__(self, name: str) -> Any:
            frame: Any = sys._getframe(1)
            while frame.f_code.co_name.startswith(("<", "_")) and frame.f_globals["__name__"] == Scene.__module__:
                frame = frame.f_back
            is_inside = frame.f_globals["__name__"] == Scene.__module__
            reader = frame.f_code.co_name if is_inside else now[0]
            if reader and not name.startswith("_"):
                seen.reads.setdefault(reader, set()).add(name)
            return super().__getattribute__(name)

    def begin(key: str, scene: Scene) -> None:
        now[0] = key
        if not (scene.is_virtual or seen.given):
            seen.given = [name for name in notes_on(Scene) if _is_data(getattr(scene, name))]
            scene.__class__ = Watched

    def end(*_: Any) -> None:
        now[0] = ""

    def answered(key: str, out: Any) -> None:
        outputs.setdefault(key, out)  # of the targets, which come first

    for key, network in objective.networks.items():
        network.register_forward_hook(lambda _, __, out, key=key: answered(key, out))
    for key, loss in objective.losses.items():
        loss.register_forward_pre_hook(lambda _, args, key=key: begin(key, args[0]))
        loss.register_forward_hook(end)
    return outputs


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    return [value] if isinstance(value, Tensor) else [t for part in value for t in _tensors(part)]


def _is_data(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, dict) and bool(value))


def _check_shapes(cls: type, values: dict[str, Any], sizes: dict[str, int]) -> None:
    """Raise ValueError where a tensor is not of the shape that the comment of its field states."""
    notes = notes_on(cls)
    for key, value in values.items():
        for s, tensor in value.items() if isinstance(value, dict) else [(0, value)]:
            if isinstance(tensor, Tensor) and not _fits(notes[key][0].split(), tensor.shape, {**sizes, "s": s}):
                raise ValueError(f"{cls.__name__}.{key} is {tuple(tensor.shape)}, not ({notes[key][0]})")


def _fits(letters: list[str], shape: torch.Size, sizes: dict[str, int]) -> bool:
    """Compare a shape with letters; one that has no size fits whatever there is, and so does "..." for the rest."""
    for i, letter in enumerate(letters):
        if letter == "...":
            return True
        base, _, scale = letter.partition("/")
        wanted = int(base) if base.isdigit() else sizes.get(base)
        if i >= len(shape) or (wanted is not None and shape[i] != wanted // (2 ** sizes["s"] if scale else 1)):
            return False
    return len(letters) == len(shape)
