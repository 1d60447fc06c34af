"""The mean gradient of several processes, each with its share of the batch, is that of one process with all of it.

In double precision, so that nothing but the order of sums is left to differ: what differs more is another formula.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tests.benchmark import systems
from tests.benchmark.test_terms import VARIANTS, without_ties
from tests.world import run_world
from trainer.losses import LOSSES
from trainer.objective import Objective
from trainer.objective.batchnorm import synchronise_batchnorm
from trainer.objective.freezing import freeze
from trainer.training.setup import DDP_OPTIONS

CPU = torch.device("cpu")
FROZEN, SYNCHRONISED = "frozen batch norm", "synchronised batch norm"
TOLERANCE = 1e-9  # of the norm of a parameter's gradient
FLOOR = 1e-6  # of the largest norm: what is smaller counts as this, for what is left of terms that cancel
Cases = dict[str, tuple[str, dict[str, Any]]]  # title -> page of cfg/benchmark, changes to it
SYSTEMS: Cases = {name: (name, {}) for name in systems.NAMES}


def build(name: str, changes: dict[str, Any]) -> Objective:
    """Build a system of the benchmark with small encoders, in double precision."""
    nets = systems.written(name, changes)["net"]
    small = {net: {"enc_name": "resnet10t"} for net, kwargs in nets.items() if kwargs is not None}
    return systems.build(name, systems.merge(changes, {"net": small})).double()


def batch_of_four(name: str, changes: dict[str, Any], objective: Objective) -> dict[str, Tensor]:
    """Four items, of which the last two have fewer hints, and nearer ones: what berHu and masks count is uneven.

    objective: asked which hints are as good as its prediction, of which only rounding would say whether they count.
    """
    sections = systems.written(name, changes)
    two = systems.make_batch(systems.offsets(sections), hints=bool(sections["dataset"].get("use_hints")))
    mirrored = {key: value.flip(-1) if value.ndim > 3 else value for key, value in two.items()}
    if "depth_hints" in mirrored:
        mirrored["depth_hints"] = 0.5 * mirrored["depth_hints"]
        mirrored["depth_hints"][..., 20:] = 0
    batch = {key: torch.cat([value, mirrored[key]]) for key, value in two.items()}
    if sections["loss"].get("depth_regr", {}).get("use_automask"):
        rules = {"supp_idxs": systems.offsets(sections), "legacy_sampling": False, **systems.DEPTHS}
        batch["depth_hints"] = without_ties(objective, sections["loss"], batch, rules)
    return {key: value.double() for key, value in batch.items()}


def prepared(objective: Objective, norms: str) -> Objective:
    """A copy in training mode."""
    objective = copy.deepcopy(objective)
    if norms == SYNCHRONISED:
        synchronise_batchnorm(objective, CPU)
    else:
        freeze(objective, [], batchnorm=True)
    return objective.train()


@contextmanager
def alone() -> Iterator[None]:
    """Belong to no group, as a process that nobody launched."""
    with patch.object(dist, "is_initialized", return_value=False):
        yield


def gradients(model: Any, objective: Objective, batch: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """By parameter."""
    model(batch).loss.backward()
    return {name: p.grad for name, p in objective.named_parameters()}


def differences(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None]) -> dict[str, float]:
    """Norm of the difference by parameter, relative to the norm; infinite where it is not finite."""
    norms = {name: 0.0 if grad is None else grad.norm().item() for name, grad in theirs.items()}
    floor = FLOOR * max(norms.values())
    found = {}
    for name, norm in norms.items():
        a, b = (torch.zeros(()) if grad is None else grad for grad in (ours[name], theirs[name]))
        difference = (a - b).norm().item() / max(norm, floor)
        found[name] = difference if math.isfinite(difference) else math.inf
    return found


def _compare(rank: int, world: int, cases: Cases, kinds: tuple[str, ...], report: Path) -> None:
    """Write a line for each case: the largest difference, where, and of what."""
    share = 4 // world
    lines = []
    originals = {title: build(*case) for title, case in cases.items()}
    for (title, (name, changes)), norms in product(cases.items(), kinds):
        original = originals[title]
        with alone():
            batch = batch_of_four(name, changes, prepared(original, norms))
        objective = prepared(original, norms)
        part = {key: value[rank * share : (rank + 1) * share] for key, value in batch.items()}
        ours = gradients(DistributedDataParallel(objective, **DDP_OPTIONS), objective, part)
        if rank == 0:
            objective = prepared(original, norms)
            with alone():
                found = differences(ours, gradients(objective, objective, batch))
            where = max(found, key=lambda name: found[name])
            lines.append(f"{found[where]:.1e} {title}, {norms}: {where}")
    if rank == 0:
        report.write_text("\n".join(lines))


def compare(world: int, folder: Path, cases: Cases, kinds: tuple[str, ...] = (FROZEN, SYNCHRONISED)) -> None:
    """Compare in `world` processes; name all that differ."""
    report = folder / "report"
    run_world(_compare, world, folder, cases, kinds, report)
    lines = report.read_text().splitlines()
    assert len(lines) == len(cases) * len(kinds)
    wrong = [line for line in lines if float(line.split()[0]) > TOLERANCE]
    assert not wrong, "\n".join(wrong)


def test_the_systems_have_every_loss() -> None:
    used = {loss for name in systems.NAMES for loss in systems.written(name)["loss"]}
    means_over_items = {"disp_ssi", "view_consistency", "camera_height"}  # whose parts sum up
    assert set(LOSSES.names()) - used == {*means_over_items, "speed"}  # a mean over known supports, as in `_regression`


@pytest.mark.slow
def test_normalisers_and_features_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    waiting = {"loss": {"img_recon": {"automask_below": 0.99}}}  # of each picture, so not of a share of the batch
    compare(2, tmp_path, {"dvso": SYSTEMS["dvso"], "a mask that waits": ("monodepth2_M", waiting)})


@pytest.mark.long
def test_every_system_steps_on_two_processes_as_on_one(tmp_path: Path) -> None:
    compare(2, tmp_path, SYSTEMS)


@pytest.mark.long
def test_what_no_system_uses_steps_on_two_processes_as_on_one(tmp_path: Path) -> None:
    compare(2, tmp_path, VARIANTS, (FROZEN,))


@pytest.mark.long
def test_one_item_on_each_of_four_processes(tmp_path: Path) -> None:
    compare(4, tmp_path, {name: SYSTEMS[name] for name in ("kuznietsov", "depth_hints_MS", "feat_depth")})
