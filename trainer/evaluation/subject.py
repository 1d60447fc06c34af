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

from models_zoo.registry import did_you_mean
from trainer.checkpoint import Saved, find_checkpoint
from trainer.checkpoint.safefile import read_metadata
from trainer.config import Config, ConfigError, load_config
from trainer.config.plugins import naming_plugins
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.evaluation.section import Settings, listed, read_settings, without_settings
from trainer.evaluation.split import of_the_split_asked_for, told_sections
from trainer.evaluation.stored import UNITS, read_arrays
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import BEST, LAST, read_hparams

DEFAULT_CROPS = {"kitti": "garg", "kitti_lmdb": "garg"}  # by data set; none elsewhere
# Where a data set has these arguments: images as they are, every truth at its own size.
PLAIN_DATA = {
    "use_hints": False,
    "use_aug": False,
    "use_strong_aug": False,
    "log_time": False,
    "depth_size": None,
}
NEEDED_DATA: dict[str, dict[str, Any]] = {"K": {}, "edges": {"use_edges": True}}  # by what metric sets need
ANNOTATED_SPLITS = frozenset(
    {"eigen_benchmark", "eigen_zhou"}
)  # of KITTI, scored on annotated depth by custom

LISTED = 8  # runs that a message names

# What predictions from a file are laid over: a configuration that is complete but for its data set.
NO_RUN: dict[str, Any] = {
    "net": {"depth": {"pretrained": False}},
    "loss": {"img_recon": {}, "disp_smooth": {"weight": 0.001}},
    "dataset": {"type": "synthetic", "supp_idxs": [0]},
    "optimizer": {"type": "adam"},
    "trainer": {"max_epochs": 1},
}


@dataclass(frozen=True)
class Source:
    """What is scored, not loaded yet: its origin, what it was trained on, what it is scored on."""

    path: Path
    cfg: Config  # of the run, with what this evaluation changes
    about: dict[str, Any]  # stored with the numbers: "checkpoint" or "predictions"
    alignment: str  # where nobody asks for another
    settings: Settings  # of the files
    trained: Config | None = None  # of the run, as it was; None for a file of predictions
    is_flipped: bool = False  # a file says that its predictions are blends with those of mirrored images

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
    if args.targets:
        raise UserError(
            f"{args.targets}: holds ground truth without images, and a network needs images. Leave out --targets, or"
            " score what export_depth writes: --pred-file NPZ --targets NPZ"
        )
    return read_checkpoint(args)


def read_checkpoint(args: argparse.Namespace) -> Source:
    """Read what a checkpoint says about itself, and lay the changes of the command line over it."""
    path = _checkpoint(args.ckpt)
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
    embedded = of_the_split_asked_for(hparams["config"], args.cfg_file, args.set, args.mode)
    return Source(
        path,
        changed_config(embedded, args.cfg_file, args.set),
        {"checkpoint": about},
        alignment="stereo" if 0 in trained.supp_idxs else "median",
        settings=read_settings(args.cfg_file),
        trained=trained,
    )


def _checkpoint(path: Path) -> Path:
    """The checkpoint that a path means. Raises UserError, naming the runs that are there, when it means none."""
    path = path.expanduser()
    if not path.exists():
        above = next((folder for folder in path.parents[:2] if folder.is_dir()), path)
        if runs := _runs_below(above):
            raise UserError(f"{path}: there is no such file or folder. In {above} are the runs {runs}")
    try:
        return find_checkpoint(path)
    except UserError as error:
        if runs := _runs_below(path):
            raise UserError(f"{path}: is not the folder of a run. Name one of those in it: {runs}") from error
        raise


def _runs_below(folder: Path) -> str:
    """Folders of runs one to three levels below, sorted; the first of them where they are many. "" without any."""
    found = {
        str(checkpoint.parent.parent.relative_to(folder))
        for depth in range(1, 4)
        for checkpoint in folder.glob("*/" * depth + "ckpts/*.safetensors")
        if checkpoint.name in (BEST, LAST)
    }
    more = f", ... ({len(found)} in all)" if len(found) > LISTED else ""
    return ", ".join(sorted(found)[:LISTED]) + more


def _read_predictions(args: argparse.Namespace) -> Source:
    path = args.pred_file
    for option in ("hparams", "pose", "odometry", "flip"):
        if getattr(args, option):
            raise UserError(f"--{option} is about a network; leave it out with --pred-file")
    if args.targets is None and new_dataset_type(args.cfg_file, args.set) is None:
        raise UserError(
            "--pred-file needs ground truth: add --cfg-file, e.g. cfg/eval/kitti_eigen.yaml, or --targets NPZ"
        )
    if args.targets is not None and args.sheet:
        raise UserError(f"--sheet shows images, and {args.targets} has none. Leave out one of them")
    told = {
        key: str(value) for key, value in read_arrays(path, ("kind", "unit", "flip", "checkpoint")).items()
    }
    kind, unit = args.pred_kind or told.get("kind"), args.pred_unit or told.get("unit") or "m"
    if unit not in UNITS:
        raise UserError(f"{path}: its unit {unit!r} is none. {did_you_mean(unit, UNITS)}. Add --pred-unit")
    settings = read_settings(args.cfg_file)
    if unit == "m" and args.pred_unit and "stereo" in (args.alignment or listed(settings.alignment or [])):
        raise UserError("--pred-unit m: depth in metres needs no factor of 5.4. Leave out --alignment stereo")
    about = {"file": str(path), "sha256": sha256(path), "kind": kind, "unit": unit}
    about |= {"checkpoint_sha256": told["checkpoint"]} if "checkpoint" in told else {}
    return Source(
        path,
        changed_config(NO_RUN, args.cfg_file, args.set),
        {"predictions": about},
        alignment=UNITS[unit],
        settings=settings,
        is_flipped=told.get("flip") == "true",
    )


def protocols_of(args: argparse.Namespace, source: Source, type_name: str) -> list[DepthProtocol]:
    """One protocol per alignment asked for: the command line wins, then the files, then the defaults."""
    told = source.settings

    def first(option: str, default: Any) -> Any:
        given = (getattr(args, option), getattr(told, option), default)
        return next(value for value in given if value is not None)

    alignments = list(dict.fromkeys(listed(first("alignment", source.alignment))))
    return [
        DepthProtocol(
            listed(first("metrics", ["eigen"])),
            alignment,
            first("crop", DEFAULT_CROPS.get(type_name, "none")),
            first("min_depth", 1e-3),
            first("max_depth", 80.0),
            flip=source.is_flipped if source.trained is None else first("flip", False),
        )
        for alignment in alignments
    ]


def plain_data(type_name: str, needs: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Arguments of a data set that an evaluation decides: nothing random, and what metric sets need."""
    wanted: dict[str, Any] = dict(PLAIN_DATA)
    for need in sorted(needs):
        wanted.update(NEEDED_DATA[need])
    return {key: value for key, value in wanted.items() if key in DATASETS.parameters(type_name)}


def changed_config(embedded: Mapping[str, Any], files: Sequence[Path], overrides: list[str]) -> Config:
    """Lay files and overrides over the embedded configuration, `evaluation` left out.

    Another `dataset.type` starts afresh: of the embedded data set only what every data set knows (size,
    supports) stays.
    """
    new_type = new_dataset_type(files, overrides)
    base = dict(embedded)
    if new_type not in (None, embedded["dataset"]["type"]):
        shared = inspect.signature(DepthDataset).parameters
        kept = {key: value for key, value in embedded["dataset"].items() if key in shared and key != "mode"}
        base["dataset"] = {"type": new_type, **kept}
    with tempfile.TemporaryDirectory() as folder:
        beneath = Path(folder) / "embedded_config.yaml"
        beneath.write_text(json.dumps(base, indent=1, ensure_ascii=False), encoding="utf-8")  # JSON is YAML
        staged = {without_settings(path, Path(folder) / f"{i}.yaml"): path for i, path in enumerate(files)}
        staged.pop(None, None)
        try:
            return load_config([beneath, *filter(None, staged)], overrides=overrides)
        except ConfigError as error:
            raise ConfigError([_renamed(line, staged) for line in error.problems]) from error


def run_folder(path: Path) -> Path:
    """The folder of the run that a checkpoint belongs to, or that a file lies in."""
    return path.parent.parent if path.parent.name == "ckpts" else path.parent


def split_name(data: Mapping[str, Any]) -> str | None:
    """The name of the list of items, for data sets that have one: a file of its own wins over a known split."""
    return Path(data["split_file"]).stem if data.get("split_file") else data.get("split")


def file_stem(data: Mapping[str, Any], *rest: str | None) -> str:
    """`<data set>_<split>_<part>_<rest>`: name of a file about items of a data set; "test" goes without saying."""
    part = None if data["mode"] == "test" else data["mode"]
    return "_".join(filter(None, (data["type"], split_name(data), part, *rest)))


def truth_name(data: Mapping[str, Any]) -> str | None:
    """A word for the truth of a data set that offers several, where it is not the one that goes without saying."""
    if "use_benchmark" not in DATASETS.parameters(data["type"]):
        return None
    customary = split_name(data) in ANNOTATED_SPLITS
    if data.get("use_benchmark"):
        return None if customary else "annotated"
    along = data.get("depth_along", "optical_axis")
    return along if along != "optical_axis" else "lidar" if customary else None


def sha256(path: Path) -> str:
    """Checksum of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _renamed(line: str, staged: Mapping[Path | None, Path]) -> str:
    for copy, path in staged.items():
        line = line.replace(str(copy), str(path))
    return line


def new_dataset_type(files: Sequence[Path], overrides: list[str]) -> str | None:
    """The `dataset.type` that files or overrides ask for."""
    types = [section["type"] for section in told_sections(files, overrides) if "type" in section]
    return types[-1] if types else None
