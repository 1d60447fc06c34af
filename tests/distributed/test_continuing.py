"""A run moves from one process to two and back, and is the run of one process: same samples, same curve."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.runs import folder, scalars, state
from tests.world import LAUNCHER, command, train_args

pytestmark = pytest.mark.long

STEPS = 50
# Notes which items each process sees in each step, and ends the run by a signal to its last process.
PLUGIN = """
import os, signal
from torch.optim.optimizer import register_optimizer_step_post_hook
from trainer.objective import Objective

rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
left, forward = [int(os.environ["STOP_AFTER"])], Objective.forward

def noting(self, batch):
    if self.training:
        with open(f"{os.environ['SEEN']}.{rank}", "a") as file:
            file.write(" ".join(map(str, batch["index"].tolist())) + "\\n")
    return forward(self, batch)

def stop(*_):
    left[0] -= 1
    if left[0] == 1 and rank == world - 1:  # all leave after the step that comes next
        os.kill(os.getpid(), signal.SIGTERM)

Objective.forward = noting
register_optimizer_step_post_hook(stop)
"""
OPTIONS = ("dataset.train.num_items=100", "loader.batch_size=4", "trainer.log_every_n_steps=1")


class Curve(NamedTuple):
    """What a run did: the items of every global batch in order, its losses by step and its validations."""

    items: list[list[int]]
    losses: list[float]
    validations: list[float]


def train(out: Path, processes: list[int], steps: int, *overrides: str) -> Curve:
    """Train `steps` steps on `processes` one after the other, each stopped by a signal after its share of the steps."""
    out.mkdir()
    plugin = out / "plugin.py"
    plugin.write_text(PLUGIN)
    items: list[list[int]] = []
    share = steps // len(processes)
    for number, world in enumerate(processes):
        is_last = number == len(processes) - 1
        seen = out / f"seen{number}"
        environ = {"SEEN": str(seen), "STOP_AFTER": str(0 if is_last else share), "HF_HOME": str(out)}
        args = train_args(out, *OPTIONS, *overrides)
        args = [*args[:1], "--plugins", str(plugin), *args[1:]]
        done = command(*(LAUNCHER if world > 1 else ()), *args, **environ)
        expected = ("finished", steps) if is_last else ("preempted", share * (number + 1))
        assert (state(out)["state"], state(out)["step"]) == expected, done.stderr[-3000:]
        parts = [Path(f"{seen}.{rank}").read_text().splitlines() for rank in range(world)]
        items += [[int(i) for line in lines for i in line.split()] for lines in zip(*parts, strict=True)]
    logged = scalars(folder(out))
    curve, validated = logged["train_losses/loss"], logged["val/AbsRel"]
    assert [step for step, _ in curve] == [*range(1, steps + 1)]
    return Curve(items, [loss for _, loss in curve], [value for _, value in validated])


def test_from_one_process_to_two_and_back(tmp_path: Path) -> None:
    """With frozen batch norm only the order of sums differs, and SGD does not magnify it."""
    options = ("trainer.frozen_batchnorm=true", "optimizer={type: sgd, lr: 0.1, group_lr: null, fused: false}")
    one = train(tmp_path / "one", [1], STEPS, *options)
    moved = train(tmp_path / "moved", [1, 2, 1], STEPS, *options)
    assert moved.items == one.items
    assert moved.losses == pytest.approx(one.losses, rel=1e-4)
    assert moved.validations == pytest.approx(one.validations, rel=1e-4)
