"""What is evaluated: a checkpoint or a file of predictions, with the configuration to evaluate it by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from models_zoo.registry import did_you_mean
from trainer.checkpoint import Saved, TrainedOn, find_checkpoint, runs_below
from trainer.checkpoint.hub import as_hub_name
from trainer.checkpoint.safefile import read_metadata
from trainer.checkpoint.trained_on import read_trained_on
from trainer.checkpoint.units import metres_of
from trainer.config import Config
from trainer.config.plugins import naming_plugins
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.evaluation.changes import Changes
from trainer.evaluation.mdec import MDEC_ALIGNMENT, PRED_TYPE
from trainer.evaluation.stored import UNITS, Kind, StoredDepth, read_arrays
from trainer.metrics.calibration import PowerLaw
from trainer.metrics.camera import LearnedCamera
from trainer.runtime.errors import UserError
from trainer.runtime.files import sha256
from trainer.runtime.rundir import read_hparams

# The configuration of predictions from a file, complete but for the data set.
NO_RUN: Mapping[str, Any] = {
    "net": {"depth": {"pretrained": False}},
    "loss": {"img_recon": {}, "disp_smooth": {"weight": 0.001}},
    "optimizer": {"type": "adam"},
    "trainer": {"max_epochs": 1},
}


@dataclass(frozen=True)
class Subject:
    """A checkpoint, not loaded yet, or a file of predictions."""

    path: Path
    cfg: Config  # of the run, with the changes of this evaluation
    metadata: dict[str, Any]  # stored with the numbers: "checkpoint" or "predictions"
    alignment: str  # the usual one
    trained: Config | None = None  # of a checkpoint: the configuration without the changes
    trained_on: TrainedOn | None = None  # of a checkpoint that says so: its training frames
    metres: PowerLaw | None = None  # of a checkpoint: makes its depth metres, where something beside stereo says how
    camera: LearnedCamera | None = None  # of a checkpoint: what its pose network has learned
    hparams: Path | None = None  # of a checkpoint: the file that replaces the embedded settings
    stored: StoredDepth | None = None  # of a file: the predictions
    is_flipped: bool = False  # of a file: whether they are blends with those of the mirrored images

    @property
    def has_pose(self) -> bool:
        """Whether a pose network was trained."""
        return self.trained is not None and "pose" in self.trained.net

    def changed(self, changes: Changes, mode: str) -> Subject:
        """The same checkpoint with other changes to its configuration. Raises UserError for wrong settings."""
        assert self.trained is not None
        config = changes.without_split_file(self.trained.to_dict(), mode)
        return replace(self, cfg=changes.apply(config, str(self.hparams or self.path)))

    @property
    def pointless(self) -> dict[str, str]:
        """Alignments that make no sense for the unit of the predictions, and why."""
        return {"stereo": "the predictions are in metres"} if self.alignment == UNITS["m"] else {}

    def camera_words(self, mode: str) -> str:
        """Describe the learned camera, beside that of the data set of a mode where it is known; "" without one."""
        if self.camera is None:
            return ""
        name, arguments = self.cfg.dataset_kwargs(mode)
        known = cast("type[DepthDataset]", DATASETS.get(name)).field_of_view(arguments)
        beside = f"; the data say {known:.1f} horizontally" if known else ""
        return f"field of view {self.camera.words}, measured on {self.camera.images} pictures of the validation{beside}"


def read_checkpoint(ckpt: Path, hparams: Path | None, changes: Changes, mode: str) -> Subject:
    """Read the settings of a checkpoint, from a file `hparams` if given, and change them.

    Raises UserError for a path without checkpoint, one without depth network, and wrong settings.
    """
    path = _find(ckpt)
    saved = Saved(path, {}, read_metadata(path))
    if any(part.startswith("depth.") for part in saved.parts):
        raise UserError(
            f"{path}: holds only {', '.join(saved.parts)}, so its depth would come from random weights. Train with"
            " trainer.load_ckpt set to it, and evaluate that run"
        )
    settings = read_hparams(hparams) if hparams else saved.hparams
    source = str(hparams or path)
    with naming_plugins(settings, source):
        trained = Config.from_dict(settings["config"], source=source, training=False)
    changes.tell_unread()
    law, origin = metres_of(saved, trained) or (None, "")
    about = {
        "file": str(path),
        "sha256": sha256(path),
        "epoch": saved.position.epoch,
        "step": saved.position.step,
        "run": {key: settings.get(key) for key in ("name", "version", "seed", "trainer_version")},
        "hparams": str(hparams) if hparams else "embedded",
        **({"camera": saved.camera.to_dict()} if saved.camera else {}),
        **({"imported": imported["format"]} if (imported := settings.get("imported")) else {}),
        **({"metres": {"a": law.a, "b": law.b, "origin": origin}} if law else {}),
        **({"calibration": saved.calibration.to_dict()} if saved.calibration else {}),
    }
    return Subject(
        path,
        changes.apply(changes.without_split_file(settings["config"], mode), source),
        {"checkpoint": about},
        alignment="none" if law else "stereo" if 0 in trained.supp_idxs else "median",
        trained=trained,
        trained_on=read_trained_on(path),
        metres=law,
        camera=saved.camera,
        hparams=hparams,
    )


def read_predictions(path: Path, changes: Changes, kind: Kind | None, unit: str | None) -> Subject:
    """Read predictions; `kind` and `unit` may be None where the file states them. Raises UserError."""
    keys = ("kind", "unit", "flip", "checkpoint", PRED_TYPE)
    texts = {key: str(value) for key, value in read_arrays(path, keys).items()}
    alignment = MDEC_ALIGNMENT if PRED_TYPE in texts and unit is None else None
    unit = unit or texts.get("unit") or ("any" if PRED_TYPE in texts else "m")
    if unit not in UNITS:
        raise UserError(f"{path}: unknown unit {unit!r}. {did_you_mean(unit, UNITS)}. Add --pred-unit")
    stored = StoredDepth.read(path, kind)
    about = {"file": str(path), "sha256": sha256(path), "kind": stored.kind, "unit": unit}
    if "checkpoint" in texts:
        about["checkpoint_sha256"] = texts["checkpoint"]
    if PRED_TYPE in texts:
        about[PRED_TYPE] = texts[PRED_TYPE]
    # Where no data set is named, the truths come from a file, and any data set that needs no argument will do.
    simple = (n for n in DATASETS.names() if all(p.default is not p.empty for p in DATASETS.parameters(n).values()))
    data = {"type": changes.dataset_type or next(simple), "supp_idxs": [0]}
    return Subject(
        path,
        changes.apply({**NO_RUN, "dataset": data}, str(path)),
        {
            "predictions": {**about, "size": list(stored.values.shape[:0:-1])},  # width, height
            **({"resize": "depth, bilinear, to the size of the truth"} if stored.resized_as == "depth" else {}),
        },
        alignment=alignment or UNITS[unit],
        stored=stored,
        is_flipped=texts.get("flip") == "true",
    )


def _find(path: Path) -> Path:
    """Find the checkpoint of a path. Raises UserError that lists the runs nearby when it has none."""
    path = Path(os.path.expanduser(path))
    if not os.path.exists(path) and not as_hub_name(path):
        above = next((folder for folder in path.parents[:2] if os.path.isdir(folder)), path)
        if runs := runs_below(above):
            raise UserError(f"{path}: no such file or folder. In {above} are the runs {runs}")
    return find_checkpoint(path)
