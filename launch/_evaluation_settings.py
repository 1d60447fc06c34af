"""What is evaluated and how: a checkpoint or a file, a changed configuration, a protocol. Nothing runs here."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from models_zoo.registry import did_you_mean
from trainer.checkpoint import Saved, find_checkpoint
from trainer.config import Config, ConfigError, load_config
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.evaluation.predictions import UNITS, read_arrays
from trainer.metrics.protocol import DepthProtocol
from trainer.plugins import naming_plugins
from trainer.rundir import read_hparams
from trainer.safefile import read_metadata
from trainer.types import UserError

SECTION = "evaluation"  # of a configuration file: the protocol
DEFAULT_CROPS = {"kitti": "garg", "kitti_lmdb": "garg"}  # by data set; none elsewhere
# Where a data set has these arguments: images as they are, every truth at its own size.
PLAIN_DATA = {
    "use_hints": False,
    "use_aug": False,
    "use_strong_aug": False,
    "log_time": False,
    "depth_size": None,
}
NEEDED_DATA: dict[str, dict[str, Any]] = {
    "K": {"intrinsics": "calibrated"},
    "edges": {"use_edges": True},
}  # by what metric sets need

# What predictions from a file are laid over: a configuration that is complete but for its data set.
NO_RUN: dict[str, Any] = {
    "net": {"depth": {"pretrained": False}},
    "loss": {"img_recon": {}, "disp_smooth": {"weight": 0.001}},
    "dataset": {"type": "synthetic", "supp_idxs": [0]},
    "optimizer": {"type": "adam"},
    "trainer": {"max_epochs": 1},
}


class Settings(BaseModel):
    """The section `evaluation` of a configuration file; null = not said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: list[str] | str | None = None  # metric sets
    alignment: list[str] | str | None = None  # one or several, see `trainer.metrics.align`
    crop: str | None = None  # see `trainer.metrics.crop`
    min_depth: float | None = None  # metres
    max_depth: float | None = None  # metres
    flip: bool | None = None  # blend with the prediction for the mirrored image


@dataclass(frozen=True)
class Source:
    """What is scored, not loaded yet: its origin, what it was trained on, what it is scored on."""

    path: Path
    cfg: Config  # of the run, with what this evaluation changes
    about: dict[str, Any]  # stored with the numbers: "checkpoint" or "predictions"
    alignment: str  # where nobody asks for another
    settings: Settings  # of the files
    trained: Config | None = None  # of the run, as it was; None for a file of predictions

    @property
    def is_stereo(self) -> bool:
        """Whether a network was trained with a stereo pair, so that it knows the scale of the world."""
        return self.trained is not None and 0 in self.trained.supp_idxs


def read_source(args: argparse.Namespace) -> Source:
    """Read what a checkpoint or a file says about itself, and lay the changes of the command line over it."""
    if args.pred_file is not None:
        return _read_predictions(args)
    if args.pred_kind or args.pred_unit:
        raise UserError("--pred-kind and --pred-unit describe a --pred-file; leave them out with --ckpt")
    return read_checkpoint(args)


def read_checkpoint(args: argparse.Namespace) -> Source:
    """Read what a checkpoint says about itself, and lay the changes of the command line over it."""
    path = find_checkpoint(args.ckpt)
    metadata = read_metadata(path)
    saved = Saved(path, {}, metadata)
    if any(part.startswith("depth.") for part in saved.parts):
        raise UserError(
            f"{path}: holds only {', '.join(saved.parts)}, so its depth would come from random weights. Train with"
            " trainer.load_ckpt set to it, and evaluate that run"
        )
    hparams = read_hparams(args.hparams) if args.hparams else saved.hparams
    about = {
        "file": str(path),
        "sha256": sha256(path),
        "epoch": int(metadata["epoch"]),
        "step": int(metadata["step"]),
        "run": {key: hparams.get(key) for key in ("name", "version", "seed", "trainer_version")},
        "hparams": str(args.hparams) if args.hparams else "embedded",
    }
    with naming_plugins(hparams, args.hparams or path):
        trained = Config.from_dict(hparams["config"], source=str(args.hparams or path))
    return Source(
        path,
        changed_config(hparams["config"], args.cfg_file, args.set),
        {"checkpoint": about},
        alignment="stereo" if 0 in trained.supp_idxs else "median",
        settings=read_settings(args.cfg_file),
        trained=trained,
    )


def _read_predictions(args: argparse.Namespace) -> Source:
    path = args.pred_file
    for option in ("hparams", "pose", "odometry", "flip"):
        if getattr(args, option):
            raise UserError(f"--{option} is about a network; leave it out with --pred-file")
    if _new_dataset_type(args.cfg_file, args.set) is None:
        raise UserError("--pred-file needs a data set: add --cfg-file, e.g. cfg/eval/kitti_eigen.yaml")
    told = {key: str(value) for key, value in read_arrays(path).items() if value.ndim == 0}
    kind, unit = args.pred_kind or told.get("kind"), args.pred_unit or told.get("unit") or "m"
    if unit not in UNITS:
        raise UserError(f"{path}: its unit {unit!r} is none. {did_you_mean(unit, UNITS)}. Add --pred-unit")
    if unit == "m" and args.pred_unit and "stereo" in (args.alignment or []):
        raise UserError("--pred-unit m: depth in metres needs no factor of 5.4. Leave out --alignment stereo")
    about = {"file": str(path), "sha256": sha256(path), "kind": kind, "unit": unit}
    return Source(
        path,
        changed_config(NO_RUN, args.cfg_file, args.set),
        {"predictions": about},
        alignment=UNITS[unit],
        settings=read_settings(args.cfg_file),
    )


def protocols_of(args: argparse.Namespace, source: Source, type_name: str) -> list[DepthProtocol]:
    """One protocol per alignment asked for: the command line wins, then the files, then the defaults."""
    told = source.settings

    def first(option: str, default: Any) -> Any:
        given = (getattr(args, option), getattr(told, option), default)
        return next(value for value in given if value is not None)

    alignments = list(dict.fromkeys(_listed(first("alignment", source.alignment))))
    return [
        DepthProtocol(
            _listed(first("metrics", ["eigen"])),
            alignment,
            first("crop", DEFAULT_CROPS.get(type_name, "none")),
            first("min_depth", 1e-3),
            first("max_depth", 80.0),
            flip=source.trained is not None and first("flip", False),
        )
        for alignment in alignments
    ]


def plain_data(type_name: str, needs: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Arguments of a data set that an evaluation decides: nothing random, and what metric sets need."""
    wanted: dict[str, Any] = dict(PLAIN_DATA)
    for need in sorted(needs):
        wanted.update(NEEDED_DATA[need])
    return {key: value for key, value in wanted.items() if key in DATASETS.parameters(type_name)}


def read_settings(files: Sequence[Path]) -> Settings:
    """Merge the sections `evaluation` of files, later ones winning. Raises UserError naming file, key, choices."""
    merged: dict[str, Any] = {}
    for path in files:
        section = _section(path, SECTION)
        if section is None:
            continue
        if not isinstance(section, dict):
            raise UserError(f"{path}: {SECTION} must be a mapping of keys to values")
        for key in section:
            if key not in Settings.model_fields:
                raise UserError(
                    f"{path}: {SECTION}.{key} is not an option. {did_you_mean(str(key), Settings.model_fields)}"
                )
        try:
            Settings(**section)
        except ValidationError as error:
            lines = [
                f"{path}: {SECTION}.{e['loc'][0]}: {e['msg']}, got {e['input']!r}" for e in error.errors()
            ]
            raise UserError("\n".join(lines)) from error
        merged |= section
    return Settings(**merged)


def changed_config(embedded: Mapping[str, Any], files: Sequence[Path], overrides: list[str]) -> Config:
    """Lay files and overrides over the embedded configuration, `evaluation` left out.

    Another `dataset.type` starts afresh: of the embedded data set only what every data set knows (size,
    supports) stays.
    """
    new_type = _new_dataset_type(files, overrides)
    base = dict(embedded)
    if new_type not in (None, embedded["dataset"]["type"]):
        shared = inspect.signature(DepthDataset).parameters
        kept = {key: value for key, value in embedded["dataset"].items() if key in shared and key != "mode"}
        base["dataset"] = {"type": new_type, **kept}
    with tempfile.TemporaryDirectory() as folder:
        beneath = Path(folder) / "embedded_config.yaml"
        beneath.write_text(json.dumps(base, indent=1, ensure_ascii=False), encoding="utf-8")  # JSON is YAML
        staged = {_without_section(path, Path(folder) / f"{i}.yaml"): path for i, path in enumerate(files)}
        staged.pop(None, None)
        try:
            return load_config([beneath, *filter(None, staged)], overrides=overrides)
        except ConfigError as error:
            raise ConfigError([_renamed(line, staged) for line in error.problems]) from error


def split_name(data: Mapping[str, Any]) -> str | None:
    """The name of the list of items, for data sets that have one: a file of its own wins over a known split."""
    return Path(data["split_file"]).stem if data.get("split_file") else data.get("split")


def sha256(path: Path) -> str:
    """Checksum of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _without_section(path: Path, staged: Path) -> Path | None:
    """Write a copy of a file whose section `evaluation` is blank, lines numbered as before.

    Returns the file itself where it has no such section, None where it has no other.
    """
    if _section(path, SECTION) is None:
        return path
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    if len(root.value) == 1:
        return None
    starts = [key.start_mark.line for key, _ in root.value] + [len(lines)]
    for (key, _), start, end in zip(root.value, starts, starts[1:], strict=False):
        if key.value == SECTION:
            lines[start:end] = [""] * (end - start)
    if root.flow_style:  # sections share lines
        lines = [yaml.safe_dump({k: v for k, v in yaml.safe_load(text).items() if k != SECTION})]
    staged.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return staged


def _renamed(line: str, staged: Mapping[Path | None, Path]) -> str:
    for copy, path in staged.items():
        line = line.replace(str(copy), str(path))
    return line


def _section(path: Path, name: str) -> Any:
    """A section of a YAML file; None where there is none. What is wrong with the file, `load_config` tells."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return data.get(name) if isinstance(data, dict) else None


def _new_dataset_type(files: Sequence[Path], overrides: list[str]) -> str | None:
    """The `dataset.type` that files or overrides ask for."""
    found = None
    for path in files:
        section = _section(path, "dataset")
        found = section.get("type", found) if isinstance(section, dict) else found
    for text in overrides:
        key, _, value = text.partition("=")
        found = value.strip() if key.strip() == "dataset.type" else found
    return found


def _listed(value: list[str] | str) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
