"""Read checkpoints: rebuild an objective, start from weights of others, replay a capsule."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from models_zoo.weights import is_foreign, read_foreign
from models_zoo.weights.base import MissingSettings, UnreadableWeights
from trainer.build import build_objective
from trainer.checkpoint import safefile
from trainer.checkpoint.saved import Saved
from trainer.checkpoint.state import (
    Position,
    to_json,
)
from trainer.config import Config
from trainer.config.plugins import naming_plugins
from trainer.objective import Objective
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import BEST, LAST, PREVIOUS, read_hparams


@dataclass(frozen=True)
class Capsule:
    """The step at which a loss became NaN or infinite."""

    batch: dict[str, Tensor]
    position: Position  # before the step
    micro_batch: int  # which of the accumulated batches of the step
    seed: int
    rank: int


def load_objective(path: Path | str, hparams: Path | str | None = None) -> Objective:
    """Rebuild the networks and losses of a run with their weights, on the CPU and in eval mode.

    Args:
        path: a checkpoint, or the folder of a run (`best` then, else `last`).
        hparams: a corrected hparams.yaml to use instead of what the file says.

    Raises DamagedFile, WrongArchitecture, or UserError when there is no such file or settings are invalid.
    """
    saved = _read(path)
    settings = saved.hparams if hparams is None else read_hparams(hparams)
    with naming_plugins(settings, hparams or saved.path):
        config = Config.from_dict(settings["config"], source=str(hparams or saved.path))
    objective = build_objective(config, given=config.net)  # all weights come from the file
    saved.load_weights(objective, built=settings["config"])
    return objective.eval()


def load_pretrained(objective: nn.Module, path: Path | str) -> list[str]:
    """Start from the weights of another run, or of other code; return what starts from scratch, one line each.

    path: a checkpoint or the folder of a run (`best` then, else `last`), or what `models_zoo.weights` can read.
    Raises DamagedFile, WrongArchitecture, or UserError when there is no such file.
    """
    return read_pretrained(path).start(objective)


def read_pretrained(path: Path | str) -> Saved:
    """Read the file or folder that `load_pretrained` starts from. Raises as that does."""
    path = Path(path).expanduser()
    return _read_foreign(path) if is_foreign(path) else _read(path)


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
    if is_foreign(path):
        raise UserError(
            f"{path}: holds weights of other code. Turn them into a checkpoint with launch/convert.py"
        )
    raise UserError(
        f"{path}: holds no checkpoint. Looked for " + ", ".join(str(c.relative_to(path)) for c in candidates)
    )


def _read(path: Path | str) -> Saved:
    found = find_checkpoint(path)
    return Saved(found, *safefile.read(found))


def _read_foreign(path: Path) -> Saved:
    """Read weights of other code as if they were ours. Their settings are not used, but for messages."""
    try:
        foreign = read_foreign(path)
    except MissingSettings as error:
        raise UserError(
            f"{error}: turn it into a checkpoint with launch/convert.py {path} DST.safetensors -c hparams.yaml"
        ) from error
    except UnreadableWeights as error:
        raise UserError(str(error)) from error
    tensors = {f"networks.{name}": tensor for name, tensor in foreign.tensors.items()}
    hparams = {"config": {"net": foreign.net}}
    return Saved(path, tensors, {"hparams": to_json(hparams), "parts": json.dumps(foreign.parts)})
