"""Checkpoints: `last` to continue a run exactly, `best` to share and evaluate, capsules to replay failures.

    ckpts/last.safetensors        weights, optimizer, schedule, position: verified before replacing the older
    ckpts/last.prev.safetensors   the one before, for the day that the newest cannot be read
    ckpts/best.safetensors        weights and hparams

Metadata of all: `hparams` (JSON), `epoch`, `batch`, `step`, `monitor`, `metrics` (JSON), and checksums.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from trainer.checkpoint import safefile
from trainer.checkpoint.safefile import DamagedFile
from trainer.checkpoint.saved import Saved
from trainer.checkpoint.state import (
    Position,
    TrainState,
    metrics_json,
    pack_state,
    position_metadata,
    to_json,
    weights,
)
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder
from trainer.runtime.rundir import BEST, LAST, PREVIOUS, plain

if TYPE_CHECKING:
    pass


class Checkpointer:
    """Write and read the checkpoints of one run.

    Args:
        folder: where they are, `ckpts/` of the run; it must exist before anything is saved.
        hparams: what the run was made of: `config` (resolved), `seed`, `name`, `version`, ...
        monitor: name of the number that decides what is best.
        is_main: the others save nothing, but load.
    """

    def __init__(self, folder: Path | str, hparams: Mapping[str, Any], monitor: str, *, is_main: bool = True):
        self.folder = Path(folder)
        self.monitor, self.is_main = monitor, is_main
        self._hparams = to_json(plain(hparams))
        self._last_is_good = True

    def save_last(
        self, objective: nn.Module, optimizer: Any, scheduler: Any, scaler: Any, state: TrainState
    ) -> None:
        """Save everything needed to continue exactly. Raises CannotWrite; the older `last` is kept then.

        Saving takes place between optimizer steps: half-accumulated gradients are not part of the state.
        """
        if self.is_main:
            self.write_last(*self.pack_last(objective, optimizer, scheduler, scaler, state))

    def save_best(
        self, objective: nn.Module, state: TrainState, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Save weights and hparams. `metrics` default to those of the state. Raises CannotWrite."""
        if self.is_main:
            self.write_best(*self.pack_best(objective, state, metrics))

    def pack_last(
        self, objective: nn.Module, optimizer: Any, scheduler: Any, scaler: Any, state: TrainState
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What `last` consists of; the memory of the tensors is that of the run."""
        tensors, metadata = pack_state(objective, optimizer, scheduler, scaler, state)
        return tensors, self._about() | metadata

    def pack_best(
        self, objective: nn.Module, state: TrainState, metrics: Mapping[str, float] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What `best` consists of; the memory of the tensors is that of the run."""
        metadata = self._about() | position_metadata(state.position)
        metadata["metrics"] = metrics_json(state.metrics if metrics is None else metrics)
        return weights(objective), metadata

    def write_last(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write what `pack_last` gave. Raises CannotWrite; the older `last` is kept then."""
        previous = self.folder / PREVIOUS if self._last_is_good else None
        safefile.write(self.folder / LAST, tensors, metadata, keep_previous=previous)
        self._last_is_good = True

    def write_best(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write what `pack_best` gave. Raises CannotWrite; the older `best` is kept then."""
        safefile.write(self.folder / BEST, tensors, metadata)

    def load_last(self) -> Saved | None:
        """Read and verify `last`, or the one before when that is damaged (said in `notes`); None without any.

        Raises DamagedFile when neither can be read.
        """
        last, previous = self.folder / LAST, self.folder / PREVIOUS
        if not last.exists() and not previous.exists():
            return None
        try:
            if last.exists():
                return Saved(last, *safefile.read(last))
            reason = f"{last} is missing"
        except DamagedFile as error:
            self._last_is_good = False  # it must not take the place of the good one before it
            if not previous.exists():
                raise
            reason = str(error)
        note = f"{reason}. Continuing from the checkpoint before it, {previous.name}"
        try:
            return Saved(previous, *safefile.read(previous), notes=[note])
        except DamagedFile as error:
            raise DamagedFile(f"{reason}. The one before is no better: {error}") from error

    def fault_of_best(self) -> str | None:
        """Say what is wrong with `best`: gone, damaged; None when it can be read."""
        try:
            safefile.read(self.folder / BEST)
        except UserError as error:
            return str(error)
        return None

    def save_capsule(
        self,
        path: Path,
        objective: nn.Module,
        batch: Mapping[str, Any],
        position: Position,
        micro_batch: int,
        seed: int,
        rank: int,
    ) -> None:
        """Save the weights and the batch of a step that failed, on whichever process it failed."""
        make_folder(path.parent)
        tensors = weights(objective) | {f"batch.{k}": v for k, v in batch.items() if isinstance(v, Tensor)}
        metadata = (
            self._about()
            | position_metadata(position)
            | {
                "micro_batch": str(micro_batch),
                "seed": str(seed),
                "rank": str(rank),
            }
        )
        safefile.write(path, tensors, metadata)

    def _about(self) -> dict[str, str]:
        return {"hparams": self._hparams, "monitor": self.monitor, "metrics": "{}"}
