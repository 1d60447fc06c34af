"""Convert published weights to a checkpoint of this trainer.

    converted = convert(Path("mono+stereo_640x192"))
    converted.save(Path("monodepth2_MS.safetensors"))

Networks are taken over completely or not at all. Of the other settings, those that change a prediction or its unit are:
image size, support frames, depth range, sampling. The rest are defaults, unless a configuration file says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import models_zoo
from models_zoo.weights import read_foreign
from models_zoo.weights.base import ForeignWeights, MissingSettings, UnreadableWeights, merged
from trainer import __version__
from trainer.checkpoint import safefile
from trainer.checkpoint.encoding import to_json
from trainer.checkpoint.matching import compare, described, is_part, mismatch_lines, planned
from trainer.checkpoint.state import Position, position_metadata
from trainer.checkpoint.trained_on import TrainedOn
from trainer.config import Config, ConfigError, load_config
from trainer.config.slowtv import one_dataset
from trainer.data.kitti_raw.lists import read_list
from trainer.runtime import yaml_text
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder

TAKEN = {"dataset": ("size", "supp_idxs"), "trainer": ("min_depth", "max_depth", "legacy_sampling")}
DEFAULTS: dict[str, Any] = {  # Monodepth2, arXiv:1806.01260
    "dataset": {
        "type": "kitti",
        "split": "eigen_zhou",
        "size": [640, 192],
        "train": {"use_aug": True, "use_depth": False},
    },
    "loss": {
        "img_recon": {"weight": 1.0, "loss_name": "ssim", "use_min": True, "use_automask": True},
        "disp_smooth": {"weight": 0.001, "use_edges": True},
    },
    "loader": {"batch_size": 12, "num_workers": 4},
    "optimizer": {"type": "adam", "lr": 1e-4},
    "scheduler": {"type": "steplr", "step_size": 15, "gamma": 0.1},
    "trainer": {"max_epochs": 20},
}


@dataclass
class Converted:
    """A checkpoint with published weights, not yet written."""

    foreign: ForeignWeights
    tensors: dict[str, Tensor]  # `networks.<network>.<parameter>`
    config: Config
    trained_on: TrainedOn | None = None  # as a user declares it
    notes: list[str] = field(default_factory=list)  # what was changed, assumed or left out

    def save(self, path: Path) -> None:
        """Write the file like `best` of a run, and make its folder. Raises CannotWrite."""
        make_folder(path.parent)
        seen, lists = self.trained_on.pack() if self.trained_on else ({}, {})
        safefile.write(path, self.tensors | seen, self.metadata() | lists)

    def metadata(self) -> dict[str, str]:
        """Return the metadata of `best`, and `parts` when the file holds only parts of the networks."""
        hparams = {
            **_run_names(self.foreign.source),
            "seed": None,
            "trainer_version": __version__,
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


def convert(source: Path, corrections: Path | None = None, trained_on: str | None = None) -> Converted:
    """Read published weights, compare them with their networks, and choose the other settings.

    Args:
        source: a file or folder that `models_zoo.weights.read_foreign` recognises.
        corrections: a configuration, whose keys win, or the hparams.yaml of the run in the words of its code.
        trained_on: a split file of KITTI that lists the training frames; supports are those of the configuration.

    Raises UserError when the source cannot be read, a setting is wrong, or weights do not fit, all of them listed.
    """
    settings, overrides = _read_corrections(corrections)
    try:
        foreign = read_foreign(source, settings)
        check_fit(foreign)
        config, notes = choose_settings(foreign.net, foreign.settings, overrides)
    except MissingSettings as error:
        raise UserError(f"{error}: --cfg-file hparams.yaml") from error
    except UnreadableWeights as error:
        raise UserError(str(error)) from error
    except ConfigError as error:
        where = f"{source} with {corrections}" if corrections else source
        lines = [f"{where}: {line.removeprefix('overrides: ')}" for line in error.problems]
        raise UserError("\n".join(lines)) from error
    tensors = {f"networks.{name}": tensor for name, tensor in foreign.tensors.items()}
    trained = None
    if trained_on is not None:
        entry, frames = read_list(trained_on, None, config.supp_idxs)
        trained = TrainedOn((entry,), frames, is_declared=True)
    return Converted(foreign, tensors, config, trained, [*foreign.notes, *notes])


def check_fit(foreign: ForeignWeights) -> None:
    """Raise UserError unless the weights are exactly those of the networks (or parts) that they name."""
    built: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        for name, options in foreign.net.items():
            try:
                build = partial(models_zoo.create, name, **options)
                state = planned(build) or build().state_dict()  # without memory, whatever size the file asks for
            except (ValueError, TypeError, models_zoo.UnknownName) as error:
                raise UserError(f"{foreign.source}: net.{name}: {error}") from error
            built |= {f"{name}.{key}": tensor for key, tensor in state.items()}
    if foreign.parts:
        built = {name: tensor for name, tensor in built.items() if is_part(name, foreign.parts)}
    if wrong := compare(foreign.tensors, built):
        lines = [f"{foreign.source}: {len(wrong)} weights do not fit the networks that it names:"]
        lines += [*mismatch_lines(wrong), f"The networks are {described(foreign.net)}"]
        raise UserError("\n".join(lines))


def choose_settings(
    net: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> tuple[Config, list[str]]:
    """Make a configuration around given networks.

    Args:
        net: their options, as in the YAML section.
        settings: the other sections in the words of the code that wrote them; only the keys in `TAKEN` are used.
        overrides: sections of a configuration, which win.

    Returns the configuration and notes on what was assumed and what was not taken over. Raises ConfigError for invalid
    settings, and UserError when no support frames suit the networks.
    """
    given = {key: dict(value) for key, value in settings.items() if isinstance(value, Mapping)}
    given["dataset"] = one_dataset(given.get("dataset", {}))
    taken: dict[str, Any] = {
        section: {key: given[section][key] for key in keys if key in given.get(section, {})}
        for section, keys in TAKEN.items()
    }
    if not taken["trainer"].get("min_depth", True):  # null in code that took 1 / disparity as depth
        del taken["trainer"]["min_depth"]
    config = merged({"net": net, **DEFAULTS}, taken)
    notes = []
    wanted = taken["dataset"].get("supp_idxs")
    supports = choose_supports([wanted] if isinstance(wanted, int) else wanted, net)
    config["dataset"]["supp_idxs"] = supports or None
    if not supports:
        config["loss"] = {"disp_smooth": DEFAULTS["loss"]["disp_smooth"]}
        notes.append("no support frames, so no img_recon: to train on, add net.pose and dataset.supp_idxs")
    own = {section: values for section, values in (overrides or {}).items() if section != "net"}
    result = load_config((), overrides=[config, own])
    final = result.to_dict()
    assumed = [
        f"{section}.{key}: {final[section][key]}"
        for section, keys in TAKEN.items()
        for key in keys
        if key not in (*taken[section], "legacy_sampling")
    ]
    if assumed:
        notes.append(f"not in the source, so assumed: {'; '.join(assumed)}")
    left = [
        f"{section}.{key}: {value}"
        for section, values in given.items()
        for key, value in values.items()
        if merged(final, {section: {key: value}}) != final
    ]
    if left:
        notes.append(f"not taken over: {'; '.join(left)}. Give with --cfg-file what a training should keep")
    return result, notes


def choose_supports(wanted: Sequence[int] | None, net: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Choose frame offsets that suit the networks: `wanted` if they do; empty for a depth network of video alone.

    A pose network needs frames in time, a virtual stereo view the partner (0), a mask one support per channel.
    """
    depth, has_pose = net.get("depth", {}), "pose" in net
    channels = depth.get("num_ch_mask") if depth.get("mask_name") else None
    in_time = ([k for k in wanted or () if k] or [-1, 1]) if has_pose else []
    options = [list(wanted or in_time), in_time, [*in_time, 0]]
    for option in options if 0 not in options[0] else (options[0], options[2], options[1]):
        has_stereo = 0 in option or not depth.get("use_virtual_stereo")
        if channels in (None, len(option)) and any(option) == has_pose and has_stereo:
            return option
    if has_pose:
        raise UserError(
            f"no support frames suit the networks (net.depth.num_ch_mask: {channels}). Give dataset.supp_idxs with"
            " --cfg-file"
        )
    return []


def _read_corrections(path: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sections of a YAML file, and those of a configuration: none in an hparams.yaml, which nests them."""
    if path is None:
        return {}, {}
    problems: list[str] = []
    layer = yaml_text.read_file(path, problems)
    if layer is None or problems:
        raise UserError("\n".join(problems))
    sections = ["net", *DEFAULTS]
    for data in [layer.data, *layer.data.values()]:
        if isinstance(data, Mapping) and data.keys() & set(sections):
            return dict(data), dict(data) if data is layer.data else {}
    raise UserError(f"{path}: has none of the sections {', '.join(sections)}")


def _run_names(source: Path) -> dict[str, str]:
    """Name and version of a Lightning run, <name>/<version>/models/<file>.ckpt; else the name of the source."""
    folders = source.resolve().parents
    if source.suffix == ".ckpt" and folders[0].name == "models" and len(folders) > 3:
        return {"name": folders[2].name, "version": folders[1].name}
    return {"name": source.stem if source.is_file() else source.resolve().name, "version": "imported"}
