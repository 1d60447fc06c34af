"""Checkpoints: `last` to continue a run exactly, `best` to share and evaluate, capsules to replay failures.

    ckpts/last.safetensors        weights, optimizer, schedule, position: verified before replacing the older
    ckpts/last.prev.safetensors   the one before, for the day that the newest cannot be read
    ckpts/best.safetensors        weights and hparams

Metadata of all: `hparams` (JSON), `epoch`, `batch`, `step`, `monitor`, `metrics` (JSON), and checksums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from trainer import safefile
from trainer.atomic import make_folder
from trainer.rundir import BEST, LAST, PREVIOUS, diff_config, plain, read_hparams
from trainer.safefile import DamagedFile
from trainer.train_state import (
    Position,
    TrainState,
    WrongOptimizer,
    from_json,
    metrics_json,
    pack_state,
    position_metadata,
    read_state,
    to_json,
    unpack_state,
    weights,
)
from trainer.types import UserError

if TYPE_CHECKING:
    from trainer.objective import Objective

_SHOWN = 10  # wrong weights that a message lists


class WrongArchitecture(UserError):
    """Weights that do not fit the networks they are meant for; the message lists them and a likely cause."""


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

    def load_weights(self, objective: nn.Module, built: Mapping[str, Any] | None = None) -> None:
        """Load the weights, all of them and no others. `built` is the config of the objective, for messages.

        Raises WrongArchitecture naming up to 10 weights that are missing, left over or of another shape.
        """
        saved = {name: tensor for name, tensor in self.tensors.items() if name.startswith("networks.")}
        wrong = _compare(saved, weights(objective))
        if wrong:
            shown = [f"  {name}: {reason}" for name, reason in list(wrong.items())[:_SHOWN]]
            if len(wrong) > _SHOWN:
                shown.append(f"  ... and {len(wrong) - _SHOWN} more")
            raise WrongArchitecture(
                f"{self.path}: {len(wrong)} weights do not fit the networks:\n"
                + "\n".join([*shown, self._likely_cause(wrong, built)])
            )
        objective.load_state_dict(saved)

    def _likely_cause(self, wrong: Iterable[str], built: Mapping[str, Any] | None) -> str:
        hparams = from_json(self.metadata.get("hparams", "{}"))
        trained = hparams.get("config", {}).get("net", {})
        if built is None:
            nets = sorted({name.split(".")[1] for name in wrong} & set(trained))
            told = [f"net.{n}: " + ", ".join(f"{k} {v}" for k, v in trained[n].items()) for n in nets]
            held = sorted({name.split(".")[1] for name in self.tensors if name.startswith("networks.")})
            known = (
                f"was trained with {'; '.join(told)}" if told else f"holds {', '.join(held) or 'no network'}"
            )
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


@dataclass(frozen=True)
class Capsule:
    """The step at which a loss became NaN or infinite."""

    batch: dict[str, Tensor]
    position: Position  # before the step
    micro_batch: int  # which of the accumulated batches of the step
    seed: int
    rank: int


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
            tensors, metadata = pack_state(objective, optimizer, scheduler, scaler, state)
            previous = self.folder / PREVIOUS if self._last_is_good else None
            safefile.write(self.folder / LAST, tensors, self._about() | metadata, keep_previous=previous)
            self._last_is_good = True

    def save_best(
        self, objective: nn.Module, state: TrainState, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Save weights and hparams. `metrics` default to those of the state."""
        if self.is_main:
            metadata = self._about() | position_metadata(state.position)
            metadata["metrics"] = metrics_json(state.metrics if metrics is None else metrics)
            safefile.write(self.folder / BEST, weights(objective), metadata)

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


def load_objective(path: Path | str, hparams: Path | str | None = None) -> Objective:
    """Rebuild the networks and losses of a run with their weights, on the CPU and in eval mode.

    Args:
        path: a checkpoint, or the folder of a run (`best` then, else `last`).
        hparams: a corrected hparams.yaml to use instead of what the file says.

    Raises DamagedFile, WrongArchitecture, or UserError when there is no such file or settings are invalid.
    """
    # The one look upwards: only `build` knows both the settings, which lie in the file, and the classes.
    from trainer.build import build_objective
    from trainer.config import Config

    saved = _read(path)
    settings = saved.hparams if hparams is None else read_hparams(hparams)
    config = Config.from_dict(settings["config"], source=str(hparams or saved.path))
    objective = build_objective(
        config, pretrained=False
    )  # the weights come from the file: nothing is downloaded
    saved.load_weights(objective, built=settings["config"])
    return objective.eval()


def load_pretrained(objective: nn.Module, path: Path | str) -> None:
    """Start from the weights of another run: a checkpoint, or the folder of a run (`best` then, else `last`).

    Raises DamagedFile, WrongArchitecture, or UserError when there is no such file.
    """
    _read(path).load_weights(objective)


def load_capsule(path: Path | str) -> Capsule:
    """Read the step that failed; `load_objective` of the same file gives the weights it failed with."""
    saved = _read(path)
    if "rank" not in saved.metadata:
        raise UserError(f"{path}: is a checkpoint, not a capsule; those lie in <run folder>/capsules")
    return Capsule(
        batch={k.removeprefix("batch."): v for k, v in saved.tensors.items() if k.startswith("batch.")},
        position=saved.state.position,
        micro_batch=int(saved.metadata["micro_batch"]),
        seed=int(saved.metadata["seed"]),
        rank=int(saved.metadata["rank"]),
    )


def find_checkpoint(path: Path | str) -> Path:
    """Return `path` itself, or for the folder of a run its best checkpoint, else its last."""
    path = Path(path).expanduser()
    if not path.is_dir():
        return path
    candidates = [folder / name for name in (BEST, LAST, PREVIOUS) for folder in (path / "ckpts", path)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(
        f"{path}: holds no checkpoint. Looked for " + ", ".join(str(c.relative_to(path)) for c in candidates)
    )


def _read(path: Path | str) -> Saved:
    found = find_checkpoint(path)
    return Saved(found, *safefile.read(found))


def _compare(saved: Mapping[str, Tensor], built: Mapping[str, Tensor]) -> dict[str, str]:
    """Say of each weight that is missing, left over or of another shape what is wrong, in network order."""
    wrong = {}
    for name in {**built, **saved}:
        old, new = (str(tuple(t[name].shape)) if name in t else "" for t in (saved, built))
        if old != new:
            wrong[name] = f"{old or 'nothing'} in the file, {new or 'nothing'} in the network"
    return wrong
