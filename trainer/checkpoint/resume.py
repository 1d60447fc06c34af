"""Continue a run from its `last`: which settings may have changed since, and which `best` is its own."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.checkpoint.safefile import HEADER_CHECKSUM, read_metadata
from trainer.checkpoint.saved import Saved
from trainer.data.loaders import ORDERS
from trainer.runtime.errors import UserError
from trainer.runtime.processes import gathered
from trainer.runtime.rundir import ABSENT, LAST, PREVIOUS, diff_config, plain, shown

BEST_CHECKSUM = "best_checksum"  # in `last`: header checksum of its `best`, "" before there is one

# These decide which samples the remaining steps see, and what the step count means.
FIXED_ON_RESUME = re.compile(
    r"seed|config\.(net|dataset)\."
    r"|config\.(optimizer|scheduler)\."  # those saved keep their rates: another value would be ignored
    r"|config\.loader\.(train\.)?(batch_size|shuffle|drop_last)"
    r"|data\.train\."  # the items themselves
    r"|pseudo\.(.+\.)?(model|revision|sha256)"  # the teacher of their labels
    r"|config\.trainer\.(accumulate_grad_batches|limit_train_batches|freeze|frozen_batchnorm|ema|swa)"
)
# ... but not these: where the same data is now, what only validation and timers see, where weights came from.
FREE_ON_RESUME = re.compile(
    r"config\.(net\.\w+\.pretrained"
    r"|dataset\.(train\.)?(datasets\.\w+\.)?(\w*root|path|cache|cache_gb|tries|timeout|storage_options)"
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
    changes = [change for change in _changes(saved.hparams, hparams) if change not in same]
    if fixed := _told(_fixed(changes)):
        raise UserError(
            f"{saved.path} was trained with other settings and cannot be continued exactly (then -> now):\n  "
            + "\n  ".join(fixed)
            + "\nUse the old values; or start a new run beside this one with -n NAME or -v VERSION; or one from these"
            f" weights: another --version with --set trainer.load_ckpt={saved.path}"
        )
    if any(change.startswith("data.train.") for change in changes):
        raise UserError(_other_items(saved, hparams, changes))
    settings = [change for change in changes if not change.startswith("data.")]
    return [*saved.notes, *(f"continuing with a changed setting: {change}" for change in settings)]


def keep_order(accelerator: Any, ckpts: Path, sampler: Any) -> dict[str, Any]:
    """Let the run in `ckpts` go on in the order of samples that it began with; return what its hparams note of it.

    sampler: the `EpochBatches` of the training, for a new run. Nothing is noted of format 1, which earlier versions
    have. Call it on all processes. Raises UserError for an order of a later version.
    """
    known: dict[str, Any] = {"order": sampler.order, **_blocks(sampler)}
    begun = None
    for path in (ckpts / PREVIOUS, ckpts / LAST):
        with suppress(UserError):
            hparams = Saved(path, {}, read_metadata(path)).hparams
            begun = {"order": 1} | {key: hparams[key] for key in ("order", "window", "blocks") if key in hparams}
    kept = gathered(accelerator, begun)[0] or known
    sampler.order = kept["order"]
    if sampler.order not in ORDERS:
        raise UserError(f"{ckpts}: the run was begun with samples in the order {sampler.order!r}. Update the trainer")
    if "window" in kept:
        sampler.window = kept["window"]
        if _blocks(sampler) != {key: kept.get(key) for key in ("window", "blocks")}:
            raise UserError(
                f"{ckpts}: the run was begun on shards that are cut in another way, in the order of which it cannot go"
                " on. Give it the shards that it began with, or start a new run"
            )
    return {} if sampler.order == 1 else kept


def _blocks(sampler: Any) -> dict[str, Any]:
    """Return what an order by blocks is a function of, beside seed and epoch; {} without a window."""
    if sampler.window is None:
        return {}
    blocks = b"" if sampler.blocks is None else sampler.blocks.astype("<i4").tobytes()
    return {"window": sampler.window, "blocks": f"{zlib.crc32(blocks):08x}"}


def other_validation(saved: Saved, hparams: Mapping[str, Any]) -> str:
    """Return a note when `last` was validated on other items, so that its best value is of other data; else ""."""
    then, now = (settings.get("data", {}).get("val") for settings in (saved.hparams, hparams))
    if then is None or now is None or then == now:
        return ""
    return (
        f"validation is on other items than before ({_items(then)} then; {_items(now)} now): the best value so far"
        " is not compared with theirs, the next validated epoch becomes the best"
    )


def _other_items(saved: Saved, hparams: Mapping[str, Any], changes: list[str]) -> str:
    """Say that `last` was trained on other items, which setting leads there, and the way out."""
    then, now = saved.hparams["data"]["train"], hparams["data"]["train"]
    places = [change.removeprefix("config.") for change in changes if change.startswith("config.dataset.")]
    why = "; ".join(place for place in places if not re.match(r"dataset\.(val|test)\.", place))
    return (
        f"{saved.path} was trained on other items: {_items(then)} then; {_items(now)} now"
        f" ({why or 'with the same settings: files were added, removed or renamed'}). Train on these under another"
        " --name or --version, or use the data of before: in another place they continue as long as files and folders"
        " keep their names (a link of the old name will do)"
    )


def _items(data: Mapping[str, Any]) -> str:
    return f"{data.get('items')}, the first {data.get('first')}"


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List the differences, leaving out the items where a run of an earlier version did not note them."""
    return [line for line in diff_config(old, new) if not (line.startswith("data.") and ABSENT in line)]


def _told(fixed: list[str]) -> list[str]:
    """Leave out what follows from others: the items, and all arguments of another type of data set."""
    kind = [line for line in fixed if line.startswith("config.dataset.type: ")]
    ruled = ("data.", "config.dataset.") if kind else ("data.",)
    return kind + [line for line in fixed if not line.startswith(ruled)]


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
    if will_come and not _fixed(_changes(ours, theirs)):
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
