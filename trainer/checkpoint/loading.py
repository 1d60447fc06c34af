"""Rebuild an objective from a checkpoint, to evaluate or to use it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from models_zoo.weights import is_foreign
from trainer.build import build_objective
from trainer.checkpoint import hub, safefile
from trainer.checkpoint.matching import planned
from trainer.checkpoint.resume import check_best
from trainer.checkpoint.saved import Saved
from trainer.config import Config
from trainer.config.plugins import naming_plugins
from trainer.objective import Objective
from trainer.runtime.errors import UserError, listed
from trainer.runtime.rundir import BEST, LAST, PREVIOUS, read_hparams

LISTED = 8  # runs that a message names


def load_objective(path: Path | str, hparams: Path | str | None = None) -> Objective:
    """Rebuild the networks and losses of a run with their weights, float32 on the CPU and in eval mode.

        depth = load_objective("models/kitti/monodepth2/42").predict_depth(images)  # (b 3 h w) in [0, 1] -> (b 1 h w)

    Args:
        path: a checkpoint, the folder of a run (its `best`, else its `last`), a folder of `monodepth share`, or the
            name of a model on the Hugging Face Hub, `user/name` or `user/name@revision` (see `checkpoint.hub`).
        hparams: a corrected hparams.yaml, used instead of the settings in the file.

    Networks in it: `objective.networks["depth"]`, and "pose" and "autoencoder" if trained. Only a model on the Hub is
    downloaded. The file must fit the networks that its settings name, which is found out before they take memory.

    Raises DamagedFile for a changed file or one of another make, WrongArchitecture for weights that do not fit, and
    UserError when the file is missing, settings are invalid, or the `best` of a folder is not that of its `last`.
    """
    return load_with_config(path, hparams)[0]


def load_with_config(path: Path | str, hparams: Path | str | None = None) -> tuple[Objective, Config]:
    """Do as `load_objective`, and return its configuration as well."""
    saved = read(path)
    settings = saved.hparams if hparams is None else read_hparams(hparams)
    with naming_plugins(settings, hparams or saved.path):
        config = Config.from_dict(settings["config"], source=str(hparams or saved.path), training=False)
    build = partial(build_objective, config, given=config.net)  # all weights come from the file
    if (state := planned(build)) is not None:  # a file may name networks that would fill the memory
        saved.check_fit(state, built=settings["config"])
    objective = build()
    saved.load_weights(objective, built=settings["config"])
    return objective.eval(), config


def read(path: Path | str) -> Saved:
    """Read and verify the checkpoint that `find_checkpoint` finds. Raises DamagedFile and UserError."""
    found = find_checkpoint(path)
    return Saved(found, *safefile.read(found))


def find_checkpoint(path: Path | str) -> Path:
    """Return `path` itself, or for the folder of a run its best checkpoint, else its last; that of a shared folder.

    A model on the Hugging Face Hub is fetched first. Raises UserError for one that cannot be, for a folder without any
    checkpoint, and for a best that is not the one `last` knows.
    """
    if name := hub.as_hub_name(path):
        path = hub.download(name)
    path = Path(os.path.expanduser(path))  # os.path says no to names that are too long, pathlib raises
    if not os.path.isdir(path):
        return path
    candidates = [folder / name for name in (BEST, LAST, PREVIOUS) for folder in (path / "ckpts", path)]
    for candidate in candidates:
        if os.path.exists(candidate):
            if candidate.name == BEST:
                _check_beside_last(candidate)
            return candidate
    if is_foreign(path):
        raise UserError(f"{path}: holds weights of other code. Turn them into a checkpoint with `monodepth convert`")
    if os.path.exists(shared := path / hub.CHECKPOINT):
        return shared
    if runs := runs_below(path):
        raise UserError(f"{path}: is not the folder of a run. Choose one of those in it: {runs}")
    looked_for = [*(str(candidate.relative_to(path)) for candidate in candidates), hub.CHECKPOINT]
    raise UserError(f"{path}: holds no checkpoint. Looked for {', '.join(looked_for)}")


def runs_below(folder: Path) -> str:
    """List the folders of runs one to three levels below, sorted; "" without any."""
    found = {
        str(checkpoint.parent.parent.relative_to(folder))
        for depth in (range(1, 4) if os.path.isdir(folder) else ())
        for checkpoint in folder.glob("*/" * depth + "ckpts/*.safetensors")
        if checkpoint.name in (BEST, LAST)
    }
    return listed(sorted(found), LISTED)


def _check_beside_last(best: Path) -> None:
    """Raise UserError when the `last` beside `best` knows another one; without a readable `last` nothing is known."""
    last = best.with_name(LAST)  # read first: a run may be writing both
    try:
        saved = Saved(last, {}, safefile.read_metadata(last))
    except UserError:
        return
    check_best(saved, best)
