"""Continue a run from its `last`: which settings may have changed since, and which `best` is its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint.safefile import HEADER_CHECKSUM, read_metadata
from trainer.checkpoint.saved import Saved
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import ABSENT, diff_config, plain, shown

BEST_CHECKSUM = "best_checksum"  # in `last`: header checksum of its `best`, "" before there is one

# These decide which samples the remaining steps see, and what the step count means.
FIXED_ON_RESUME = re.compile(
    r"seed|config\.(net|dataset)\."
    r"|config\.(optimizer|scheduler)\."  # those saved keep their rates: another value would be ignored
    r"|config\.loader\.(train\.)?(batch_size|shuffle|drop_last)"
    r"|config\.trainer\.(accumulate_grad_batches|limit_train_batches|freeze|frozen_batchnorm|ema|swa)"
)
# ... but not these: where the same data is now, what only validation and timers see, where weights came from.
FREE_ON_RESUME = re.compile(
    r"config\.(net\.\w+\.pretrained|dataset\.(train\.)?(datasets\.\w+\.)?(\w*root|path|cache)"
    r"|dataset\.(log_time|val|test))\b"
)


def check_resume(
    saved: Saved, hparams: Mapping[str, Any], allowed: bool, defaults: Mapping[str, Any] | None = None
) -> list[str]:
    """Raise UserError when `last` must not (`allowed`) or cannot be continued exactly; return notes on changes.

    defaults: values of keys, by dotted name, that an older run lacks: it was trained with these.
    """
    if not allowed:
        raise UserError(
            f"{saved.path} already holds a run, at step {saved.state.position.step}."
            " Set trainer.resume_training: true to continue it, or use another --version"
        )
    same = {f"{key}: {ABSENT} -> {shown(value)}" for key, value in (defaults or {}).items()}
    changes = [change for change in diff_config(saved.hparams, hparams) if change not in same]
    if fixed := _fixed(changes):
        raise UserError(
            f"{saved.path} was trained with other settings and cannot be continued exactly (then -> now):\n  "
            + "\n  ".join(fixed)
            + f"\nUse the old values; or start a new run from these weights: another --version with"
            f" --set trainer.load_ckpt={saved.path}"
        )
    return [*saved.notes, *(f"continuing with a changed setting: {change}" for change in changes)]


def check_best(last: Saved, best: Path) -> None:
    """Raise UserError when the file `best` is neither the one that `last` names nor a later one of the same run.

    A later one remains when a run dies between its two writes or continues from an older `last`; the epoch is trained
    again and the file replaced. Runs of earlier versions name no file, and one that cannot be read is not judged here.
    """
    known = last.metadata.get(BEST_CHECKSUM)
    try:
        found = Saved(best, {}, read_metadata(best))
    except UserError:
        return
    if known in (None, found.metadata[HEADER_CHECKSUM]):
        return
    ours, theirs = last.hparams, found.hparams
    now, then = last.position, found.position
    # Inside an epoch `best` is written only where a budget ends the run, and then at the position of `last`.
    is_later = now.epoch < then.epoch or (then.batch > 0 and now.step <= then.step)
    will_come = is_later and then.epoch <= ours["config"].get("trainer", {}).get("max_epochs", 0)
    if will_come and not _fixed(diff_config(ours, theirs)):
        return
    run = f"{theirs.get('name')}/{theirs.get('version')}, seed {theirs.get('seed')}, epoch {found.position.epoch}"
    raise UserError(
        f"{best}: is not the `best` of this run, by what {last.path.name} knows, but a file of {run}. Restore the one"
        " that was there, or delete this one: the next validated epoch is then the best; `last` is evaluated until then"
    )


def _fixed(changes: list[str]) -> list[str]:
    """Choose the lines of `diff_config` that make another experiment."""
    return [change for change in changes if FIXED_ON_RESUME.match(change) and not FREE_ON_RESUME.match(change)]


def to_digest(hparams: Mapping[str, Any]) -> str:
    """Hash settings, to compare those of several processes."""
    return hashlib.sha256(json.dumps(plain(hparams), sort_keys=True).encode()).hexdigest()[:12]
