"""Continue a run from its `last`: which settings may have changed since."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from trainer.checkpoint.saved import Saved
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import ABSENT, diff_config, plain, shown

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
    fixed = [c for c in changes if FIXED_ON_RESUME.match(c) and not FREE_ON_RESUME.match(c)]
    if fixed:
        raise UserError(
            f"{saved.path} was trained with other settings and cannot be continued exactly (then -> now):\n  "
            + "\n  ".join(fixed)
            + f"\nUse the old values; or start a new run from these weights: another --version with"
            f" --set trainer.load_ckpt={saved.path}"
        )
    return [*saved.notes, *(f"continuing with a changed setting: {change}" for change in changes)]


def to_digest(hparams: Mapping[str, Any]) -> str:
    """Hash settings, to compare those of several processes."""
    return hashlib.sha256(json.dumps(plain(hparams), sort_keys=True).encode()).hexdigest()[:12]
