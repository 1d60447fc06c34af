"""Published weights become a checkpoint of this trainer: tensors under our names, and settings that pass our checks.

    converted = convert(Path("mono+stereo_640x192"))
    converted.save(Path("monodepth2_MS.safetensors"))

Networks are taken as they are, or not at all. Of the other settings, what this trainer does not know is left out,
with a note each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import models_zoo
from models_zoo.weights import read_foreign
from models_zoo.weights.base import LISTED, ForeignWeights, MissingSettings, UnreadableWeights
from trainer.checkpoint import safefile
from trainer.checkpoint.matching import compare, is_part
from trainer.checkpoint.state import Position, position_metadata, to_json
from trainer.config import Config, ConfigError, Registries
from trainer.runtime import yaml_text
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder
from trainer.runtime.rundir import installed_version


@dataclass
class Converted:
    """A checkpoint made of published weights, not yet written."""

    foreign: ForeignWeights
    tensors: dict[str, Tensor]  # `networks.<network>.<parameter>`
    config: Config
    notes: list[str] = field(default_factory=list)  # what was changed, assumed or left out

    def save(self, path: Path) -> None:
        """Write the file as `best` of a run is written, making its folder. Raises CannotWrite."""
        make_folder(path.parent)
        safefile.write(path, self.tensors, self.metadata())

    def metadata(self) -> dict[str, str]:
        """What the file says of itself: as `best`, and `parts` when it does not hold the networks as a whole."""
        hparams = {
            **_run_names(self.foreign.source),
            "seed": None,
            "trainer_version": installed_version(),
            "config": self.config.to_dict(),
            "imported": {
                "source": str(self.foreign.source),
                "format": self.foreign.format,
                "dropped": self.foreign.dropped,
                "notes": self.notes,
            },
        }
        position = Position(epoch=self.foreign.epoch, step=self.foreign.step)
        about = {"hparams": to_json(hparams), "monitor": self.config.trainer.monitor, "metrics": "{}"}
        parts = {"parts": json.dumps(self.foreign.parts)} if self.foreign.parts else {}
        return about | position_metadata(position) | parts


def convert(source: Path, corrections: Path | None = None) -> Converted:
    """Read published weights, compare them with the networks that they are meant for, choose settings.

    Args:
        source: what `models_zoo.weights.read_foreign` knows.
        corrections: a YAML file with sections, or an hparams.yaml; its keys win over those of the source.

    Raises UserError when the source cannot be read, or its weights do not fit the networks, all of them listed.
    """
    try:
        foreign = read_foreign(source, _read_corrections(corrections))
    except MissingSettings as error:
        raise UserError(f"{error}: --cfg-file hparams.yaml") from error
    except UnreadableWeights as error:
        raise UserError(str(error)) from error
    check_fit(foreign)
    try:
        config, notes = choose_settings(foreign.net, foreign.settings)
    except ConfigError as error:
        raise UserError("\n".join(f"{source}: {line}" for line in error.problems)) from error
    tensors = {f"networks.{name}": tensor for name, tensor in foreign.tensors.items()}
    return Converted(foreign, tensors, config, [*foreign.notes, *notes])


def check_fit(foreign: ForeignWeights) -> None:
    """Raise UserError unless every weight has its place in the networks, and every place its weight."""
    built: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        for name, options in foreign.net.items():
            try:
                network = models_zoo.create(name, **options)
            except (ValueError, TypeError, models_zoo.UnknownName) as error:
                raise UserError(f"{foreign.source}: net.{name}: {error}") from error
            built |= {f"{name}.{key}": tensor for key, tensor in network.state_dict().items()}
    if foreign.parts:
        built = {name: tensor for name, tensor in built.items() if is_part(name, foreign.parts)}
    if wrong := compare(foreign.tensors, built):
        shown = [f"  {name}: {reason}" for name, reason in list(wrong.items())[:LISTED]]
        if len(wrong) > LISTED:
            shown.append(f"  ... and {len(wrong) - LISTED} more")
        told = [
            f"net.{name}: " + ", ".join(f"{k} {v}" for k, v in kw.items()) for name, kw in foreign.net.items()
        ]
        raise UserError(
            f"{foreign.source}: {len(wrong)} weights do not fit the networks that it names:\n"
            + "\n".join([*shown, "The networks are " + "; ".join(told)])
        )


def _read_corrections(path: Path | None) -> dict[str, Any]:
    """Read sections from a YAML file, which may lie one level deeper, as in an hparams.yaml."""
    if path is None:
        return {}
    problems: list[str] = []
    layer = yaml_text.read_file(path, problems)
    if layer is None or problems:
        raise UserError("\n".join(problems))
    sections = {"net", *SECTIONS}
    for data in [layer.data, *layer.data.values()]:
        if isinstance(data, Mapping) and sections & data.keys():
            return dict(data)
    raise UserError(f"{path}: has none of the sections {', '.join(['net', *SECTIONS])}")


def _run_names(source: Path) -> dict[str, str]:
    """Name and version as that code had them: <name>/<version>/models/<file>.ckpt; else the name of the source."""
    folders = source.resolve().parents
    if source.suffix == ".ckpt" and folders[0].name == "models" and len(folders) > 3:
        return {"name": folders[2].name, "version": folders[1].name}
    return {"name": source.stem if source.is_file() else source.resolve().name, "version": "imported"}


# Later ones lean on earlier ones.
SECTIONS = ("dataset", "loss", "loader", "optimizer", "scheduler", "trainer")
DEFAULTS: dict[str, Any] = {  # where a source says nothing, or nothing that can be used
    "loss": {
        "img_recon": {"weight": 1.0, "loss_name": "ssim", "use_min": True, "use_automask": True},
        "disp_smooth": {"weight": 0.001, "use_edges": True},
    },
    "dataset": {
        "type": "kitti",
        "split": "eigen_zhou",
        "size": [640, 192],
        "train": {"use_aug": True, "use_depth": False},
    },
    "loader": {"batch_size": 8, "num_workers": 4},
    "optimizer": {"type": "adam", "lr": 1e-4},
    "scheduler": {"type": "steplr", "step_size": 15, "gamma": 0.1},
    "trainer": {"max_epochs": 30},
}
# Sections of independent keys: those of a source are laid over the defaults.
INDEPENDENT = ("loader", "trainer")
PLACES = ("load_ckpt",)  # keys of `trainer` that mean a file on another machine


def choose_settings(
    net: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> tuple[Config, list[str]]:
    """Make a configuration around networks that are given.

    Args:
        net: their options, as the YAML section.
        settings: the other sections, in the words of the code that wrote them.

    Returns the configuration, and a note for each thing that was changed, assumed or left out. Raises ConfigError when
    the options of the networks are wrong.
    """
    notes: list[str] = []
    net = dict(net)
    given = _in_our_words(settings, notes)
    depth = net.get("depth", {})
    channels = depth.get("num_ch_mask") if depth.get("mask_name") else None
    wanted = _wanted_supports(given["dataset"])
    supports = choose_supports(wanted, channels, "pose" in net, bool(depth.get("use_virtual_stereo")))
    if wanted is not None and supports != wanted:
        notes.append(
            f"dataset.supp_idxs: {supports} instead of {wanted}, which does not go with the networks"
        )
    config: dict[str, Any] = {"net": net, **DEFAULTS}
    config["dataset"] = {**DEFAULTS["dataset"], "supp_idxs": supports or None}
    if not supports:
        config["loss"] = {"disp_smooth": DEFAULTS["loss"]["disp_smooth"]}
        notes.append(
            "no loss that compares images is left: without a pose network or a stereo pair nothing can be warped."
            " Add net.pose and dataset.supp_idxs to train on"
        )
    Config.from_dict(config, source="")
    given["dataset"] = {**given["dataset"], "supp_idxs": supports or None}
    for section in SECTIONS:
        if section in given:
            config = _adopt(config, section, given[section], notes)
    return Config.from_dict(config), notes


def choose_supports(
    wanted: list[int] | None, channels: int | None, has_pose: bool, needs_stereo: bool
) -> list[int]:
    """Choose frame offsets that go with the networks, those of the source if they do; empty when there are none.

    Args:
        channels: of the mask, one per support; None = no mask.
        has_pose: there is a pose network, so there must be a frame in time, and only then can there be.
        needs_stereo: the partner (0) must be among them.
    """
    counts = [channels] if channels else [2, 3, 1]
    # An odd number is taken as frames in time and the partner, an even one as frames in time; else the other way.
    options = [_offsets(n, stereo=n % 2 == 1) for n in counts] + [
        _offsets(n, stereo=n % 2 == 0) for n in counts
    ]
    if wanted and 0 in wanted and not channels:
        options.sort(key=lambda option: 0 not in option)
    for option in [wanted or [], *options]:
        fits_mask = channels in (None, len(option)) and len(set(option)) == len(option)
        if option and fits_mask and any(option) == has_pose and (0 in option or not needs_stereo):
            if option == [0] and wanted != [0] and not (needs_stereo or channels):
                return []  # a depth network alone says nothing of stereo, and its depth would count as metric
            return option
    return []


def _offsets(count: int, stereo: bool) -> list[int]:
    """The nearest frames in time, before and after, in order, then the stereo partner: 3 -> [-1, 1, 0]."""
    temporal = [k for i in range(1, count + 1) for k in (-i, i)][: count - stereo]
    return [*sorted(temporal), *([0] if stereo else [])]


def _wanted_supports(dataset: dict[str, Any]) -> list[int] | None:
    """What a source says about supports in training; it is taken out of the section of that mode."""
    train = dict(dataset.get("train") or {})
    told = train.pop("supp_idxs", dataset.get("supp_idxs"))
    if "train" in dataset:
        dataset["train"] = train
    offsets = [told] if isinstance(told, int) else told
    is_list = isinstance(offsets, Sequence) and all(isinstance(k, int) for k in offsets)
    return list(offsets) if offsets and is_list else None


def _in_our_words(settings: Mapping[str, Any], notes: list[str]) -> dict[str, dict[str, Any]]:
    """Translate what other code calls differently; leave out what it has and we have not."""
    told = {key: settings[key] or {} for key in SECTIONS if key in settings}
    given = {key: dict(value) for key, value in told.items() if isinstance(value, Mapping)}
    if missing := [key for key in SECTIONS if key not in given]:
        notes.append(f"it does not say what the settings of {', '.join(missing)} were: defaults are assumed")
    notes += [
        f"left out: {key}, which is not a section of this trainer" for key in settings if key not in SECTIONS
    ]
    given["dataset"] = _one_dataset(given.get("dataset", {}), notes)
    optimizer = given.get("optimizer", {})
    if "opt" in optimizer:
        given["optimizer"] = {"type": optimizer.pop("opt"), **optimizer}
    for key in PLACES:
        if given.get("trainer", {}).pop(key, None) is not None:
            notes.append(f"left out: trainer.{key}, a place on the machine where the weights were trained")
    return given


def _one_dataset(section: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Bring a `dataset` section into our form: one type that we have, its size as [width, height]."""
    several = {key: value for key, value in section.items() if isinstance(value, Mapping)}
    named = [key for key in several if key not in ("train", "val", "test")]
    if named and "type" not in section:  # SlowTV: a mapping of data sets by type
        chosen = next((key for key in named if key.startswith("kitti")), named[0])
        if len(named) > 1:
            notes.append(f"dataset: of {', '.join(named)} only {chosen} is kept")
        section = {"type": chosen, **several[chosen]}
    shape = section.pop("shape", None)
    if isinstance(shape, Sequence) and len(shape) == 2 and "size" not in section:
        section["size"] = [shape[1], shape[0]]
        notes.append(f"dataset.size: {section['size']} [width, height], there called shape: {list(shape)}")
    told = str(section.get("type", DEFAULTS["dataset"]["type"]))
    if told not in Registries.installed().datasets:
        section["type"] = DEFAULTS["dataset"]["type"]
        notes.append(
            f"dataset.type: {told} is not a data set of this trainer; {section['type']} takes its place"
        )
    return section


def _adopt(
    config: dict[str, Any], section: str, given: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Put a section into a configuration, without the keys that make it wrong. Returns the new configuration."""
    base = config[section] if section in INDEPENDENT else {}
    trial = {**config, section: {**base, **given}}
    if section == "dataset":
        trial[section] = {"type": "kitti", "size": config[section]["size"], **trial[section]}
    problems = _problems(trial)
    for path in _paths(given) if problems else ():
        without = {**trial, section: _without(trial[section], path)}
        fewer = _problems(without)
        if len(fewer) < len(problems):
            solved = "; ".join(_short(line) for line in problems if line not in fewer)
            key = ".".join((section, *path))
            notes.append(f"left out: {solved if solved.startswith(key) else f'{key}, because {solved}'}")
            trial, problems = without, fewer
        if not problems:
            return trial
    if problems:
        notes.append(f"{section}: replaced by a default, because {'; '.join(map(_short, problems))}")
        return config
    return trial


def _problems(config: Mapping[str, Any]) -> list[str]:
    try:
        Config.from_dict(config, source="")
    except ConfigError as error:
        return error.problems
    return []


def _paths(section: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """All keys of nested settings, the deepest first, so that no more is left out than must be."""
    paths = []
    for key, value in section.items():
        if isinstance(value, Mapping):
            paths += _paths(value, (*prefix, key))
        paths.append((*prefix, key))
    return sorted(paths, key=len, reverse=True)


def _without(section: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    key, *rest = path
    if key not in section:
        return dict(section)
    if not rest:
        return {k: v for k, v in section.items() if k != key}
    return {**section, key: _without(section[key], tuple(rest))}


def _short(problem: str) -> str:
    """A problem without the list of all choices."""
    return problem.partition(" Known: ")[0].removesuffix(".")
