"""The files that a run writes and reads back: `last` to continue, `best` to share, capsules to replay a failed step.

    ckpts/last.safetensors        weights, optimizer, schedule, position: verified before it replaces the older one
    ckpts/last.prev.safetensors   the one before, in case the newest cannot be read
    ckpts/best.safetensors        weights and hparams

Metadata of all: `hparams` (JSON), `epoch`, `batch`, `step`, `monitor`, `metrics` (JSON), `camera` (JSON, where it is
learned), `trained_on` (JSON, see the file of that name), and checksums. `last` also names its `best` by the header
checksum of that file. `best` is written first, so a run that dies in between leaves a `best` that is one epoch ahead of
`last`; it writes the same once more when it continues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.checkpoint import safefile
from trainer.checkpoint.encoding import to_json
from trainer.checkpoint.resume import BEST_CHECKSUM
from trainer.checkpoint.safefile import ADVICE, HEADER_CHECKSUM, DamagedFile
from trainer.checkpoint.saved import Saved
from trainer.checkpoint.state import (
    Metadata,
    Position,
    Tensors,
    TrainState,
    pack_state,
    position_metadata,
    validation_metadata,
    weights,
)
from trainer.checkpoint.trained_on import TrainedOn
from trainer.runtime import processes
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder
from trainer.runtime.rundir import BEST, LAST, PREVIOUS, plain


class Checkpointer:
    """Write and read the checkpoints of one run.

    Args:
        folder: `ckpts/` of the run; it must exist before anything is saved.
        hparams: `config` (resolved), `seed`, `name`, `version`, ...
        monitor: name of the metric that decides what is best.
        is_main: the other processes must not write.
    """

    def __init__(self, folder: Path | str, hparams: Mapping[str, Any], monitor: str, *, is_main: bool = True):
        self.folder = Path(folder)
        self.monitor, self.is_main = monitor, is_main
        self._hparams = to_json(plain(hparams))
        self._last_is_good = True
        self.trained_on: Callable[[], TrainedOn] | None = None  # called at the first save, which waits for it
        self._seen: tuple[Tensors, Metadata] | None = None
        self._best: str | None = ""  # checksum of `best`; "" = none yet, None = written before `last` named it

    def pack_last(
        self, objective: nn.Module, optimizer: Any, scheduler: Any, scaler: Any, state: TrainState
    ) -> tuple[Tensors, Metadata]:
        """Return the tensors of `last`, in the memory of the run, and its metadata.

        Call it between optimizer steps: accumulated gradients are not part of the state.
        """
        tensors, metadata = pack_state(objective, optimizer, scheduler, scaler, state)
        known = {} if self._best is None else {BEST_CHECKSUM: self._best}
        seen, lists = self._packed_frames()
        return tensors | seen, self._metadata(state.position) | metadata | known | lists

    def pack_best(self, objective: nn.Module, state: TrainState) -> tuple[Tensors, Metadata]:
        """Return the tensors of `best`, in the memory of the run, and its metadata."""
        seen, lists = self._packed_frames()
        return weights(objective) | seen, self._metadata(state.position) | validation_metadata(state) | lists

    def write_last(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write the result of `pack_last`. Raises CannotWrite, and keeps the older `last` then."""
        previous = self.folder / PREVIOUS if self._last_is_good else None
        safefile.write(self.folder / LAST, tensors, metadata, keep_previous=previous)
        self._last_is_good = True

    def write_best(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write the result of `pack_best`. Raises CannotWrite, and keeps the older `best` then."""
        self._best = safefile.write(self.folder / BEST, tensors, metadata)

    def load_last(self) -> Saved | None:
        """Read and verify `last`, or the one before (with a note) when it is damaged; None when there is neither.

        Raises DamagedFile when neither can be read.
        """
        saved = self._read_last()
        if saved is not None:
            self._best = saved.metadata.get(BEST_CHECKSUM)
        return saved

    def load_last_together(self, accelerator: Any) -> Saved | None:
        """Do as `load_last` on all processes: the main one reads and verifies, the others get what it has read.

        Its errors are raised on all. Whether the others see the same file is not asked here (`checksum_here`).
        """
        if accelerator.num_processes == 1:
            return self.load_last()
        saved, told = None, list[Any]([None])
        if self.is_main:
            try:
                saved = self.load_last()
                told = [saved and saved.with_tensors({name: t.to("meta") for name, t in saved.tensors.items()})]
            except UserError as error:
                told = [error]
        torch.distributed.broadcast_object_list(told)
        if isinstance(told[0], UserError):
            raise told[0]
        if told[0] is None:
            return None
        shapes: Saved = told[0]
        saved = saved or shapes.with_tensors({n: torch.empty_like(t, device="cpu") for n, t in shapes.tensors.items()})
        processes.broadcast(saved.tensors.values(), accelerator.device)
        return saved

    def checksum_here(self, saved: Saved | None) -> str | None:
        """Return the header checksum of the file `saved`, or of any for None, as this process sees it; None without."""
        for name in (LAST, PREVIOUS) if saved is None else (saved.path.name,):
            with suppress(UserError):
                return safefile.read_metadata(self.folder / name)[HEADER_CHECKSUM]
        return None

    def position_of_last(self) -> Position | None:
        """Read where the run would continue, from headers alone; None when nothing (readable) is saved."""
        for name in (LAST, PREVIOUS):
            with suppress(UserError):
                path = self.folder / name
                return Saved(path, {}, safefile.read_metadata(path)).position
        return None

    def fault_of_best(self) -> str | None:
        """Return what is wrong with `best` (missing, damaged); None when it can be read."""
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
        """Save weights and batch of a failed step, on the process where it failed; see `Capsule`."""
        make_folder(path.parent)
        tensors = weights(objective) | {f"batch.{k}": v for k, v in batch.items() if isinstance(v, Tensor)}
        own = {"micro_batch": str(micro_batch), "seed": str(seed), "rank": str(rank)}
        safefile.write(path, tensors, self._metadata(position) | own)

    def _read_last(self) -> Saved | None:
        last, previous = self.folder / LAST, self.folder / PREVIOUS
        if not last.exists() and not previous.exists():
            return None
        try:
            if last.exists():
                return Saved(last, *safefile.read(last))
            reason = f"{last} is missing"
        except DamagedFile as error:
            self._last_is_good = False  # it must not replace the good one before it
            if not previous.exists():
                raise
            reason = str(error).removesuffix(f". {ADVICE}")  # what it advises is done here
        note = f"{reason}. Continuing from the checkpoint before it, {previous.name}"
        try:
            return Saved(previous, *safefile.read(previous), notes=[note])
        except DamagedFile as error:
            raise DamagedFile(f"{reason}. The one before is no better: {error}") from error

    def _packed_frames(self) -> tuple[Tensors, Metadata]:
        if self._seen is None:
            self._seen = ({}, {}) if self.trained_on is None else self.trained_on().pack()
        return self._seen

    def _metadata(self, position: Position) -> Metadata:
        about = {"hparams": self._hparams, "monitor": self.monitor, "metrics": "{}"}
        return about | position_metadata(position)


@dataclass(frozen=True)
class Capsule:
    """The step at which a loss or gradient became NaN or infinite."""

    batch: dict[str, Tensor]
    position: Position  # before the step
    micro_batch: int  # which of the accumulated batches of the step
    seed: int
    rank: int
    hparams: dict[str, Any]  # of the run


def load_capsule(path: Path | str) -> Capsule:
    """Read a capsule; `load_objective` of the same file returns the weights of that step."""
    saved = Saved(Path(path), *safefile.read(Path(path)))
    if "rank" not in saved.metadata:
        raise UserError(f"{path}: is a checkpoint, not a capsule; those are in <run folder>/capsules")
    return Capsule(
        batch={k.removeprefix("batch."): v for k, v in saved.tensors.items() if k.startswith("batch.")},
        position=saved.state.position,
        hparams=saved.hparams,
        **{key: int(saved.metadata[key]) for key in ("micro_batch", "seed", "rank")},
    )
