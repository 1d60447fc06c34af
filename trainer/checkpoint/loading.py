"""Rebuild an objective from a checkpoint, to evaluate or to use it."""

from __future__ import annotations

from pathlib import Path

from models_zoo.weights import is_foreign
from trainer.build import build_objective
from trainer.checkpoint import safefile
from trainer.checkpoint.resume import check_best
from trainer.checkpoint.saved import Saved
from trainer.config import Config
from trainer.config.plugins import naming_plugins
from trainer.objective import Objective
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import BEST, LAST, PREVIOUS, read_hparams


def load_objective(path: Path | str, hparams: Path | str | None = None) -> Objective:
    """Rebuild the networks and losses of a run with their weights, on the CPU and in eval mode.

    Args:
        path: a checkpoint, or the folder of a run (its `best`, else its `last`).
        hparams: a corrected hparams.yaml, used instead of the settings in the file.

    Raises DamagedFile, WrongArchitecture, or UserError when the file is missing or settings are invalid.
    """
    saved = read(path)
    settings = saved.hparams if hparams is None else read_hparams(hparams)
    with naming_plugins(settings, hparams or saved.path):
        config = Config.from_dict(settings["config"], source=str(hparams or saved.path))
    objective = build_objective(config, given=config.net)  # all weights come from the file
    saved.load_weights(objective, built=settings["config"])
    return objective.eval()


def read(path: Path | str) -> Saved:
    """Read and verify the checkpoint that `find_checkpoint` finds. Raises DamagedFile and UserError."""
    found = find_checkpoint(path)
    return Saved(found, *safefile.read(found))


def find_checkpoint(path: Path | str) -> Path:
    """Return `path` itself, or for the folder of a run its best checkpoint, else its last.

    Raises UserError for a folder without any, and for a best that is not the one `last` knows.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return path
    candidates = [folder / name for name in (BEST, LAST, PREVIOUS) for folder in (path / "ckpts", path)]
    for candidate in candidates:
        if candidate.is_file():
            if candidate.name == BEST:
                _check_beside_last(candidate)
            return candidate
    if is_foreign(path):
        raise UserError(f"{path}: holds weights of other code. Turn them into a checkpoint with launch/convert.py")
    raise UserError(
        f"{path}: holds no checkpoint. Looked for " + ", ".join(str(c.relative_to(path)) for c in candidates)
    )


def _check_beside_last(best: Path) -> None:
    """Raise UserError when the `last` beside `best` knows another one; without a readable `last` nothing is known."""
    last = best.with_name(LAST)  # read first: a run may be writing both
    try:
        saved = Saved(last, {}, safefile.read_metadata(last))
    except UserError:
        return
    check_best(saved, best)
