"""A checkpoint in memory: read its metadata, load its weights into networks, whole or in parts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainer.checkpoint import schema
from trainer.checkpoint.encoding import from_json, to_json
from trainer.checkpoint.matching import (
    compare,
    described,
    fit,
    is_part,
    mismatch_lines,
    other_options,
    to_type,
    wrong_statistics,
)
from trainer.checkpoint.state import (
    Position,
    TrainState,
    WrongOptimizer,
    read_position,
    read_state,
    unpack_state,
    weights,
)
from trainer.checkpoint.trained_on import KEY as TRAINED_ON
from trainer.checkpoint.trained_on import PICTURES, TrainedOn, unpack
from trainer.metrics.calibration import Calibration
from trainer.metrics.camera import LearnedCamera
from trainer.runtime.errors import UserError, printable
from trainer.runtime.rundir import diff_config, plain

PREFIX = "networks."  # of weights in files and in an objective
CALIBRATION = "calibration"  # of the metadata
KEPT = ("epoch", "batch", "step", "monitor", "metrics", "camera", CALIBRATION)  # of the metadata, beside the settings


class WrongArchitecture(UserError):
    """Weights that do not fit their networks; the message lists them and a likely cause."""


class PartialWeights(UserWarning):
    """A file that holds only parts of the networks: the rest is initialised at random."""


@dataclass
class Saved:
    """A checkpoint in memory, not yet used. Raises DamagedFile for metadata that this trainer does not write."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    notes: list[str] = field(default_factory=list)  # how it was read, for the user

    def __post_init__(self) -> None:
        schema.check(self.path, self.metadata)
        self.metadata, note = schema.upgraded(self.path, self.metadata)
        self.notes = [*self.notes, *note]

    def with_tensors(self, tensors: dict[str, Tensor]) -> Saved:
        """Return the same checkpoint with other tensors."""
        other = copy(self)
        other.tensors = tensors
        return other

    @property
    def hparams(self) -> dict[str, Any]:
        """The hparams given to the Checkpointer. Raises UserError when there are none."""
        if "config" not in self._hparams:
            raise UserError(f"{self.path}: holds no settings. Give hparams=<run folder>/hparams.yaml")
        return self._hparams

    @property
    def state(self) -> TrainState:
        """Position, best value, metrics."""
        with schema.reading(self.path, "state"):
            return read_state(self.metadata, self.tensors)

    @property
    def position(self) -> Position:
        """Position alone, which needs no tensors."""
        with schema.reading(self.path, "position"):
            return read_position(self.metadata)

    @property
    def camera(self) -> LearnedCamera | None:
        """The camera that the pose network had learned at the latest validation, if any."""
        data = from_json(self.metadata.get("camera", "null"))
        return data and LearnedCamera.from_dict(data)

    @property
    def trained_on(self) -> TrainedOn | None:
        """The frames that the weights were trained on; None where the file does not say."""
        return unpack(self.path, self.tensors, self.metadata)

    @property
    def calibration(self) -> Calibration | None:
        """How depth becomes metres, if `monodepth calibrate` has measured it."""
        data = from_json(self.metadata.get(CALIBRATION, "null"))
        return data and Calibration.from_dict(data)

    def recalibrated(self, calibration: Calibration | None) -> Saved:
        """Return what `best` holds of this checkpoint, with another calibration or none.

        That is weights, settings, and what they were trained on.
        """
        keys = [key for key in (*KEPT, "hparams", "parts", TRAINED_ON) if key in self.metadata and key != CALIBRATION]
        own = {} if calibration is None else {CALIBRATION: to_json(calibration.to_dict())}
        pictures = {PICTURES: self.tensors[PICTURES]} if PICTURES in self.tensors else {}
        return Saved(self.path, {**_full(self.weights), **pictures}, {**{k: self.metadata[k] for k in keys}, **own})

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the networks in the file ("depth.encoder"); empty = all."""
        return tuple(json.loads(self.metadata.get("parts", "[]")))

    def require_depth(self) -> None:
        """Raise UserError when the file holds only parts of a depth network."""
        if any(part.startswith("depth.") for part in self.parts):
            raise UserError(
                f"{self.path}: holds only {', '.join(self.parts)}, so its depth would come from random weights."
                " Train with trainer.load_ckpt set to it, and use that run"
            )

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks in the file, complete or in part."""
        return tuple(dict.fromkeys(name.partition(".")[0] for name in self.weights))

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights alone, as `<network>.<parameter>`."""
        return _bare(self.tensors)

    def load_weights(self, objective: nn.Module, built: Mapping[str, Any] | None = None) -> None:
        """Load the weights, all of them and no others. `built` is the config of the objective, for messages.

        A file that names its parts needs to fit only these, with a warning. Raises WrongArchitecture naming up to 10
        weights that are missing, left over or of another shape.
        """
        self.check_fit(weights(objective), built)
        if self.parts:
            warnings.warn(
                f"{self.path}: holds {printable(', '.join(self.parts))} alone;"
                " the rest of the networks has random weights",
                PartialWeights,
                stacklevel=3,
            )
        objective.load_state_dict(_full(self.weights), strict=not self.parts)

    def check_fit(self, state: Mapping[str, Tensor], built: Mapping[str, Any] | None = None) -> None:
        """Raise WrongArchitecture as `load_weights` would for an objective of this state."""
        expected = _bare(state)
        if self.parts:
            expected = {name: tensor for name, tensor in expected.items() if is_part(name, self.parts)}
        self._refuse(compare(self.weights, expected), built)

    def start(self, objective: nn.Module, asked: Mapping[str, Any] | None = None) -> list[str]:
        """Load the networks that file and objective share; return notes on what starts from scratch.

        asked: options of the networks of the objective, for messages.

        Raises WrongArchitecture when a network does not fit completely, or was trained with other image statistics.
        """
        found = fit(self.weights, _bare(weights(objective)), self.parts)
        self._refuse(found.wrong, None, asked)
        networks: Any = objective.networks
        if fault := wrong_statistics(networks, self._trained, self.parts):
            raise WrongArchitecture(f"{self.path}: {fault}")
        objective.load_state_dict(_full(found.tensors), strict=False)
        return [f"{self.path}: {note}" for note in found.notes]

    def restore(self, objective: nn.Module, optimizer: Any, scheduler: Any = None, scaler: Any = None) -> None:
        """Restore weights, optimizer, schedule and scaler.

        Raises WrongArchitecture or WrongOptimizer when they are not of the saved kind.
        """
        self.load_weights(objective)
        try:
            with schema.reading(self.path, "state of optimizer and schedule"):
                unpack_state(objective, optimizer, scheduler, scaler, self.tensors, self.metadata)
        except WrongOptimizer as error:
            raise WrongOptimizer(f"{self.path}: {error}") from error

    @property
    def _hparams(self) -> dict[str, Any]:
        hparams: dict[str, Any] = from_json(self.metadata.get("hparams", "{}"))
        return hparams

    @property
    def _trained(self) -> dict[str, Any]:
        """Options of the networks that the weights were trained with."""
        net: dict[str, Any] = self._hparams.get("config", {}).get("net", {})
        return net

    def _refuse(
        self, wrong: Mapping[str, str], built: Mapping[str, Any] | None, asked: Mapping[str, Any] | None = None
    ) -> None:
        if not wrong:
            return
        trained, most = self._trained, 10
        if built is None:
            names = {name.partition(".")[0] for name in wrong}
            net = {name: trained[name] for name in sorted(names & set(trained))}
            other = other_options(net, asked or {}) if asked else {}
            most, net = (3, other) if other else (most, net)
            same = f"Ask for the same{f' (--set {to_type(other)})' if other else ''}, or use another file"
            holds = f"holds {', '.join(sorted(self.networks)) or 'no network'}"
            known = f"was trained with {described(net)}" if net else holds
            cause = f"The file {known}. {same}"
        elif changes := diff_config({"net": trained}, {"net": plain(built).get("net", {})}):
            cause = "The file was trained with another net (file -> asked for): " + "; ".join(changes)
        else:
            version = self._hparams.get("trainer_version", "unknown")
            cause = f"The settings are those of the file, so the code of the networks is newer (file: {version})"
        lines = [f"{self.path}: {len(wrong)} weights do not fit the networks:", *mismatch_lines(wrong, most), cause]
        raise WrongArchitecture("\n".join(lines))


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}


def _full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {PREFIX + name: tensor for name, tensor in tensors.items()}
