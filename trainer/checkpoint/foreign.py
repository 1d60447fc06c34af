"""Published weights become a checkpoint of this trainer: tensors under our names, and settings that pass our checks.

    converted = convert(Path("mono+stereo_640x192"))
    converted.save(Path("monodepth2_MS.safetensors"))

Networks are taken as they are, or not at all. Of the other settings, what this trainer does not know is left out,
with a note each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import models_zoo
from models_zoo.weights import read_foreign
from models_zoo.weights.base import LISTED, ForeignWeights, MissingSettings, UnreadableWeights
from trainer._adopted import SECTIONS, choose_settings
from trainer.checkpoint import safefile
from trainer.checkpoint.matching import compare, is_part
from trainer.checkpoint.state import Position, position_metadata, to_json
from trainer.config import Config, ConfigError
from trainer.runtime import yaml_text
from trainer.runtime.files import make_folder
from trainer.runtime.rundir import installed_version
from trainer.types import UserError


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
