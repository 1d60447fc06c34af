"""Steps of a whole small run, by hand: how far weights move, which items are seen, which epoch is best."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.distributed.test_runs import build
from trainer.runtime import seeding
from trainer.runtime.signals import Preempted
from trainer.training.validation import ValidationResult

pytestmark = pytest.mark.slow

# The first step of SGD with momentum moves the weights by lr times the gradient.
PLAIN = (
    "optimizer={type: momentum, lr: 0.01, weight_decay: 0, group_lr: null, fused: false}",
    "trainer.frozen_batchnorm=true",
    "trainer.limit_val_batches=0",
)
ONE_STEP = (*PLAIN, "trainer.max_epochs=1", "trainer.limit_train_batches=1")


def fit(out: Path, *overrides: str, stop: bool = False) -> tuple[Any, list[int], Tensor]:
    """Train. Returns the loop, the items that were seen, and by how much all weights changed, as one vector.

    stop: ask the run to stop in its first step.
    """
    loop, run = build(out, 0, *overrides)
    seen: list[int] = []

    def look(module: Any, args: Any) -> None:
        seen.extend(args[0]["index"].tolist())
        if stop:
            os.kill(os.getpid(), signal.SIGTERM)

    loop.objective.register_forward_pre_hook(look)
    before = [p.detach().clone() for p in loop.parameters]
    with closing(run):
        if stop:
            with pytest.raises(Preempted):
                loop.fit()
        else:
            loop.fit()
    moved = torch.cat([(p.detach() - q).flatten() for p, q in zip(loop.parameters, before, strict=True)])
    return loop, seen, moved


def test_a_clipped_step_is_as_long_as_the_limit_allows(tmp_path: Path) -> None:
    *_, moved = fit(tmp_path, *ONE_STEP, "trainer.gradient_clip_val=0.05")
    assert moved.norm().item() == pytest.approx(0.01 * 0.05, rel=1e-3)


def test_two_micro_batches_move_the_weights_as_one_batch_of_both(tmp_path: Path) -> None:
    *_, whole = fit(tmp_path / "whole", *ONE_STEP)
    halves = ("loader.batch_size=2", "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=2")
    *_, moved = fit(tmp_path / "halves", *ONE_STEP, *halves)
    assert (moved - whole).norm() < 1e-3 * whole.norm()


def test_a_run_that_stopped_between_steps_sees_the_rest_of_its_epoch(tmp_path: Path) -> None:
    options = (*PLAIN, "trainer.max_epochs=1", "loader.batch_size=2", "trainer.accumulate_grad_batches=2")
    _, straight, _ = fit(tmp_path / "straight", *options)
    loop, first, _ = fit(tmp_path / "stopped", *options, stop=True)
    position = loop.state.position
    assert (position.epoch, position.batch, position.step, first) == (0, 2, 1, straight[:4])
    resumed, rest, _ = fit(tmp_path / "stopped", *options)
    assert first + rest == straight
    assert resumed.recorder.tracker._first_step == 2  # what TensorBoard had from there on is hidden


def test_every_process_draws_its_own_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = ("loader.batch_size=2", "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=4")
    loop, run = build(tmp_path, 0, *ONE_STEP, *halves)
    positions: list[tuple[int, ...]] = []
    seed_of = seeding.seed_of
    monkeypatch.setattr(seeding, "seed_of", lambda *position: positions.append(position) or seed_of(*position))
    monkeypatch.setattr(Accelerator, "process_index", 3)
    with closing(run):
        loop.fit()
    steps = [position[2:] for position in positions if position[:2] == (42, seeding.TRAINING)]
    assert steps == [(0, 0, 3), (0, 1, 3), (1, 0, 3), (1, 1, 3)]


@pytest.mark.parametrize(("monitor", "values"), [("AbsRel", [3, 1, 2]), ("Acc", [1, 3, 2])])
def test_the_best_epoch_is_that_of_the_smallest_error_or_the_largest_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monitor: str, values: list[float]
) -> None:
    options = ("trainer.max_epochs=3", "trainer.limit_train_batches=1", f"trainer.monitor={monitor}")
    loop, run = build(tmp_path, 0, *options)
    results = [ValidationResult(losses={"loss": 1.0}, metrics={monitor: float(value)}) for value in values]
    monkeypatch.setattr(loop, "validate", lambda: results.pop(0))
    with closing(run):
        loop.fit()
    assert (loop.state.best_epoch, loop.state.best) == (1, values[1])
