"""Run folders as they are: state, settings, records, and what the health watch finds in the records."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models_zoo.registry import did_you_mean
from trainer.data.base import DepthDataset
from trainer.metrics.validation import VALIDATION, VALIDATION_METRICS, higher_is_better
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import RunState, read_hparams, read_state
from trainer.tables.aggregate import by_number, model_names
from trainer.tables.columns import Column
from trainer.tables.events import Events, read_events
from trainer.tables.results import Result
from trainer.tracking.health import Health

MARKS = ("state.json", "hparams.yaml", "events.out.tfevents.*", "results/*.yaml")  # any of them makes a folder a run
HEALTH = "train_health/"


@dataclass
class Run:
    """One run folder; what is missing or damaged in it is empty, and named in `problems`."""

    path: Path
    model: str  # the name of its configuration
    seed: str  # the name of its version folder
    state: RunState | None = None
    hparams: Mapping[str, Any] = field(default_factory=dict)
    events: Events = field(default_factory=Events, repr=False)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.model}/{self.seed}"

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration; empty when it is unknown."""
        return mapping(self.hparams.get("config"))

    @property
    def monitor(self) -> str:
        """The number that selected `best`."""
        return str(mapping(self.config.get("trainer")).get("monitor") or VALIDATION_METRICS[3])

    def best(self) -> tuple[int, float] | None:
        """Step and value of the best validation; None before the first."""
        steps, values = self.events.curves.get(tag_of(self.monitor), ((), ()))
        known = [(float(v), int(s)) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
        if not known:
            return None
        pick = max if higher_is_better(self.monitor) else min
        value, step = pick(known, key=lambda pair: pair[0])
        return step, value


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def tag_of(monitor: str) -> str:
    """The scalar of a number that can select `best`."""
    return f"val/{monitor}" if monitor in VALIDATION else f"val_losses/{monitor}"


def find_runs(root: Path) -> list[Path]:
    """List the run folders at and below `root`. Raises UserError when there are none."""
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder")
    found = {path.parent.parent if "/" in mark else path.parent for mark in MARKS for path in root.rglob(mark)}
    if not found:
        raise UserError(
            f"{root}: holds no run, that is no folder with {', '.join(MARKS[:3])} or results. Name the folder of a run,"
            " models/<EXP>/<name>/<version>, or one above it"
        )
    return sorted((path.absolute() for path in found), key=lambda run: (str(run.parent), by_number(run.name)))


def read_runs(root: Path, models: Sequence[str] | None = None, seeds: Sequence[str] | None = None) -> list[Run]:
    """Read the runs at and below `root`: of these names and versions, or of all.

    Raises UserError without any, and for a name or version that no run has.
    """
    paths = find_runs(root)
    names = model_names({path.parent for path in paths}, root)
    for option, wanted, known in (
        ("--models", models, set(names.values())),
        ("--seeds", seeds, {p.name for p in paths}),
    ):
        for name in wanted or ():
            if name not in known:
                raise UserError(f"{option} {name}: no run below {root} is called so. {did_you_mean(name, known)}")
    runs = [Run(path, names[path.parent], path.name) for path in paths]
    runs = [run for run in runs if (not models or run.model in models) and (not seeds or run.seed in seeds)]
    if not runs:
        raise UserError(f"{root}: no run has one of these names (--models) and one of these versions (--seeds)")
    for run in runs:
        _read(run)
    return runs


def _read(run: Run) -> None:
    try:
        run.state = read_state(run.path / "state.json")
    except UserError as error:
        run.problems.append(str(error))
    try:
        run.hparams = read_hparams(path) if os.path.lexists(path := run.path / "hparams.yaml") else {}
    except UserError as error:
        run.problems.append(str(error))
    run.events = read_events(run.path)
    run.problems += run.events.problems


def watch(run: Run) -> list[tuple[int, str]]:
    """Judge the recorded statistics as the health watch of a training does: the step and text of each warning.

    Warnings of a run are printed, not stored, so they are found again here, by the rules of this version.
    """
    looks: dict[int, dict[str, float]] = {}
    for tag, points in run.events.points.items():
        if tag.startswith(HEALTH):
            for step, value, _ in points:
                looks.setdefault(step, {})[tag.removeprefix(HEALTH)] = value
    limits = mapping(run.config.get("trainer"))
    near, far = limits.get("min_depth"), limits.get("max_depth", 100.0)
    health = Health(near if isinstance(near, (int, float)) else 0.1, far if isinstance(far, (int, float)) else math.inf)
    times = run.events.times(f"{HEALTH}waiting_share")
    epochs = {step: value for step, value, _ in run.events.points.get("epoch", ())}
    began: dict[float, float] = {}  # epoch -> time of its first look
    found = []
    for step, values in sorted(looks.items()):
        now, share = times.get(step, 0.0), values.pop("waiting_share", 0.0)
        waited = share * (now - began.setdefault(epochs.get(step, 0.0), now))
        if values.keys() >= {"depth_near", "depth_far", "depth_median", "depth_spread", "disp_variation", "holes"}:
            found += [(step, text) for text in health.judge(values, share, waited=waited, step=step)]
    spread, bend, stretch = (
        {step: value for step, value, _ in run.events.points.get(f"val_camera/{key}", ())}
        for key in ("spread", "bend", "stretch")
    )
    for step in sorted(spread.keys() & bend.keys()):
        is_last, shape = step == max(spread), stretch.get(step, math.nan)
        texts = health.judge_camera(spread[step], bend[step], shape, step=step, is_last=is_last)
        found += [(step, text) for text in texts]
    return found


def validations(runs: Iterable[Run]) -> list[Result]:
    """The validation of each run's best step as results, for tables as of any others."""
    return [result for run in runs if (result := _validation(run))]


def _validation(run: Run) -> Result | None:
    best = run.best()
    if best is None:
        return None
    curves, values = run.events.curves, {}
    for name in dict.fromkeys((run.monitor, *VALIDATION_METRICS)):
        steps, numbers = curves.get(tag_of(name), ((), ()))
        at = {int(s): float(v) for s, v in zip(steps, numbers, strict=True)}
        if best[0] in at:
            unit = VALIDATION[name].unit if name in VALIDATION else ""
            column = Column(name, None, unit, 1 if higher_is_better(name) else -1)
            values[column] = at[best[0]]
    return Result(run.path.parent, run.seed, run.path, _protocol(run), values)


def _protocol(run: Run) -> dict[str, str]:
    """The protocol of a validation, as far as the settings tell it: trainer.metrics.validation says the rest."""
    trainer, data = mapping(run.config.get("trainer")), dict(mapping(run.config.get("dataset")))
    data |= mapping(data.get("val"))
    loader = {**mapping(run.config.get("loader")), **mapping(mapping(run.config.get("loader")).get("val"))}
    limit, batch, num_items = trainer.get("limit_val_batches"), loader.get("batch_size"), data.get("num_items")
    items = f"at most {limit} batches of {batch}"
    if isinstance(num_items, int) and isinstance(limit, int) and isinstance(batch, int):
        items = str(min(num_items, limit * batch))
    split = DepthDataset.split_name({key: str(data[key]) for key in ("split", "split_file") if data.get(key)})
    far = trainer.get("max_depth")
    size = data.get("size")
    fields = {
        "dataset": " ".join(map(str, filter(None, (data.get("type", "unknown"), split, "val")))),
        "checkpoint": f"step of the best {run.monitor}",
        "alignment": "median",
        "crop": "none",
        "depth": f"{trainer.get('min_depth', '?')}-{'infinity' if far is None else far} m",
        "items": items,
        "size": "x".join(map(str, size)) if isinstance(size, list) else "",
    }
    return {key: value for key, value in fields.items() if value}
