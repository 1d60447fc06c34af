"""The settings of several configurations beside their default: the keys in which any of them differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.runtime.rundir import ABSENT, diff_config, flatten, shown
from trainer.tables.report.runs import Run

Default = tuple[str, Mapping[str, Any]]  # what it is, and its settings


@dataclass
class Differences:
    """Configurations with one default: `rows` has each key, its default, and its value in every configuration."""

    default: str
    models: list[str] = field(default_factory=list)
    rows: list[tuple[str, str, list[str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def differences(runs: Sequence[Run], default_of: Callable[[Run], Default]) -> list[Differences]:
    """Compare the first run of each configuration with its default; notes say where its other seeds differ."""
    groups: dict[str, tuple[Mapping[str, Any], dict[str, Run], list[str]]] = {}
    firsts: dict[str, Run] = {}
    for run in (run for run in runs if run.config):
        first = firsts.setdefault(run.model, run)
        if first is run:
            label, default = default_of(run)
            groups.setdefault(label, (default, {}, []))[1][run.model] = run
        elif changed := diff_config(first.config, run.config):
            notes = next(notes for _, models, notes in groups.values() if run.model in models)
            notes.append(f"{run} has other settings than {first}: {', '.join(changed)}")
    return [_compared(label, *group) for label, group in groups.items()]


def _compared(label: str, default: Mapping[str, Any], models: Mapping[str, Run], notes: Sequence[str]) -> Differences:
    flat = {model: flatten(run.config) for model, run in models.items()}
    before = flatten(default)
    changed = {line.partition(": ")[0] for run in models.values() for line in diff_config(default, run.config)}
    rows = [
        (key, shown(before.get(key, ABSENT)), [shown(values.get(key, ABSENT)) for values in flat.values()])
        for key in _in_order(before, *flat.values())
        if key in changed
    ]
    return Differences(label, list(models), rows, list(notes))


def _in_order(*settings: Mapping[str, Any]) -> list[str]:
    """List the keys of all settings, those of a section together, sections in the order in which they come."""
    sections: dict[str, dict[str, None]] = {}
    for key in (key for some in settings for key in some):
        sections.setdefault(key.partition(".")[0], {})[key] = None
    return [key for keys in sections.values() for key in keys]
