"""A checkpoint in memory: what it says about itself, and how its weights go into networks, whole or in parts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainer.checkpoint.matching import compare, fit, is_part, wrong_statistics
from trainer.checkpoint.state import TrainState, WrongOptimizer, from_json, read_state, unpack_state, weights
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import diff_config, plain

_SHOWN = 10  # wrong weights that a message lists


class WrongArchitecture(UserError):
    """Weights that do not fit the networks they are meant for; the message lists them and a likely cause."""


class PartialWeights(UserWarning):
    """A file that holds some parts of the networks alone: the others are those of a new network."""


@dataclass
class Saved:
    """A checkpoint in memory, not yet put to use."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    notes: list[str] = field(default_factory=list)  # what a person should know about how it was read

    @property
    def hparams(self) -> dict[str, Any]:
        """What the run was made of, as the Checkpointer was told. Raises UserError when there are none."""
        hparams: dict[str, Any] = from_json(self.metadata.get("hparams", "{}"))
        if "config" not in hparams:
            raise UserError(
                f"{self.path}: does not say what it was made of. Give hparams=<run folder>/hparams.yaml"
            )
        return hparams

    @property
    def state(self) -> TrainState:
        """Position, best value, metrics."""
        return read_state(self.metadata, self.tensors)

    @property
    def parts(self) -> tuple[str, ...]:
        """What of the networks the file holds ("depth.encoder"); empty = all."""
        return tuple(json.loads(self.metadata.get("parts", "[]")))

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks that the file holds, as a whole or in part."""
        return tuple(dict.fromkeys(name.partition(".")[0] for name in self.weights))

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights alone, as `<network>.<parameter>`."""
        return _bare({name: t for name, t in self.tensors.items() if name.startswith("networks.")})

    def load_weights(self, objective: nn.Module, built: Mapping[str, Any] | None = None) -> None:
        """Load the weights, all of them and no others. `built` is the config of the objective, for messages.

        Only a file that says so may hold parts of the networks alone, a warning then. Raises WrongArchitecture naming
        up to 10 weights that are missing, left over or of another shape.
        """
        expected = _bare(weights(objective))
        if self.parts:
            expected = {name: tensor for name, tensor in expected.items() if is_part(name, self.parts)}
            warnings.warn(
                f"{self.path}: holds {', '.join(self.parts)} alone; the rest of the networks has random weights",
                PartialWeights,
                stacklevel=3,
            )
        self._refuse(compare(self.weights, expected), built)
        objective.load_state_dict(_full(self.weights), strict=not self.parts)

    def start(self, objective: nn.Module) -> list[str]:
        """Load what the file has, network by network; return what starts from scratch, one line each.

        Raises WrongArchitecture when a network of the file does not fit as a whole, or wants other images.
        """
        found = fit(self.weights, _bare(weights(objective)), self.parts)
        self._refuse(found.wrong, None)
        networks: Any = objective.networks
        net = from_json(self.metadata.get("hparams", "{}")).get("config", {}).get("net", {})
        if fault := wrong_statistics(networks, net, self.parts):
            raise WrongArchitecture(f"{self.path}: {fault}")
        objective.load_state_dict(_full(found.tensors), strict=False)
        return [f"{self.path}: {note}" for note in found.notes]

    def _refuse(self, wrong: Mapping[str, str], built: Mapping[str, Any] | None) -> None:
        if not wrong:
            return
        shown = [f"  networks.{name}: {reason}" for name, reason in list(wrong.items())[:_SHOWN]]
        if len(wrong) > _SHOWN:
            shown.append(f"  ... and {len(wrong) - _SHOWN} more")
        raise WrongArchitecture(
            f"{self.path}: {len(wrong)} weights do not fit the networks:\n"
            + "\n".join([*shown, self._likely_cause(wrong, built)])
        )

    def _likely_cause(self, wrong: Iterable[str], built: Mapping[str, Any] | None) -> str:
        hparams = from_json(self.metadata.get("hparams", "{}"))
        trained = hparams.get("config", {}).get("net", {})
        if built is None:
            nets = sorted({name.split(".")[0] for name in wrong} & set(trained))
            told = [f"net.{n}: " + ", ".join(f"{k} {v}" for k, v in trained[n].items()) for n in nets]
            holds = f"holds {', '.join(sorted(self.networks)) or 'no network'}"
            known = f"was trained with {'; '.join(told)}" if told else holds
            return f"The file {known}. Ask for the same, or for another file"
        changes = diff_config({"net": trained}, {"net": plain(built).get("net", {})})
        if changes:
            return "The file was trained with another net (file -> asked for): " + "; ".join(changes)
        version = hparams.get("trainer_version", "unknown")
        return f"The settings are those of the file, so the code of the networks is newer (file: {version})"

    def restore(
        self, objective: nn.Module, optimizer: Any, scheduler: Any = None, scaler: Any = None
    ) -> None:
        """Put weights, optimizer, schedule and scaler back to where they were.

        Raises WrongArchitecture or WrongOptimizer when what was built is not what was saved.
        """
        self.load_weights(objective)
        try:
            unpack_state(objective, optimizer, scheduler, scaler, self.tensors, self.metadata)
        except WrongOptimizer as error:
            raise WrongOptimizer(f"{self.path}: {error}") from error


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("networks."): tensor for name, tensor in tensors.items()}


def _full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"networks.{name}": tensor for name, tensor in tensors.items()}
