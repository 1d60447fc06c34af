"""Why a run of a sweep does not count as complete, in words."""

from __future__ import annotations

import shlex
from contextlib import suppress

from trainer.commands.jobs.sweep_runs import Evaluation, Job
from trainer.runtime.rundir import diff_config, read_hparams
from trainer.types import UserError

SHOWN = 2  # settings that are named


def why_incomplete(job: Job) -> str:
    """What a run lacks; "" when it lacks nothing."""
    if not job.is_trained():
        return _why_untrained(job)
    return "; ".join(_why_unevaluated(e) for e in job.evaluations if not job.is_evaluated(e))


def _why_untrained(job: Job) -> str:
    if not job.folder.is_finished:
        return "not trained to its end"
    with suppress(UserError):
        hparams = read_hparams(job.folder.hparams_path)
        changes = diff_config(hparams["config"], job.config) or [f"seed: {hparams.get('seed')} -> {job.seed}"]
        more = f", and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        return f"trained with other settings: {', '.join(changes[:SHOWN])}{more}"
    return f"{job.folder.hparams_path} cannot be read"


def _why_unevaluated(evaluation: Evaluation) -> str:
    name = evaluation.save.name
    if not evaluation.written:
        others = [path.name for path in sorted(evaluation.save.parent.glob("sweep_*.yaml"))]
        there = f" (there are {', '.join(others)}: name their files with --evaluate)" if others else ""
        return f"{name}: not evaluated{there}"
    earlier = ""
    with suppress(OSError):
        earlier = evaluation.note.read_text(encoding="utf-8").strip()
    if not earlier:
        return f"{name}: its evaluation did not end"
    before, now = _options(earlier), _options(evaluation.asked)
    changes = [
        f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    if changes:
        return f"{name}: evaluated with other options: {', '.join(changes)}"
    return f"{name}: its checkpoint or its YAML has changed since"


def _options(command: str) -> dict[str, str]:
    """The options of a command with their values, as text; "given" for a switch."""
    options: dict[str, str] = {}
    key = ""
    for word in shlex.split(command):
        if word.startswith("-"):
            key = word
            options.setdefault(key, "")
        elif key:
            options[key] = f"{options[key]} {word}".strip()
    return {option: values or "given" for option, values in options.items()}
