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
from safetensors.torch import load_file
from torch import Tensor

from tests.distributed.test_runs import build
from trainer.commands.jobs.launches import LaunchCounter
from trainer.runtime import seeding
from trainer.runtime.signals import Preempted
from trainer.training.guard import NonFiniteLoss
from trainer.training.validation import ValidationResult

pytestmark = pytest.mark.slow

# The first step of SGD with momentum moves the weights by lr times the gradient.
PLAIN = (
    "optimizer={type: momentum, lr: 0.01, weight_decay: 0, group_lr: null, fused: false}",
    "scheduler.warmup=0",
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


def test_a_step_waits_for_its_device_once_after_the_last_backward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To learn whether it may be taken. A wait before would leave a GPU without work while the next is queued."""
    halves = ("loader.batch_size=2", "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=4")
    loop, run = build(tmp_path, 0, *ONE_STEP, *halves, "trainer={log_every_n_steps: 9, gradient_clip_val: 1}")
    events: list[str] = []

    def noted(owner: Any, name: str) -> None:
        plain = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: events.append(name) or plain(*args, **kwargs))

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        noted(Tensor, name)
    noted(loop.objective, "forward")
    noted(loop.accelerator, "backward")
    counter = LaunchCounter()
    with closing(run), loop.recorder.progress:
        for batches in loop.epoch():
            events.clear()
            with counter:
                loop.step(batches)
            assert events == ["forward", "backward", "forward", "backward", "tolist"], loop.state.position
    assert loop.state.position.step == 2
    assert counter.waits == 0  # no number or copy that a CPU had to wait for but would not show


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_bad_micro_batch_changes_no_weight_and_its_batch_is_kept(tmp_path: Path, policy: str) -> None:
    """The first of two is bad; both pass backward before anyone knows."""
    halves = ("loader.batch_size=2", "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=4")
    loop, run = build(tmp_path, 0, *PLAIN, *halves, "trainer.max_epochs=1", f"trainer.nonfinite={policy}")
    with closing(run), loop.recorder.progress:
        first, second = loop.epoch()
        loop.step(first)
        state = {name: value.clone() for name, value in loop.objective.state_dict().items()}
        second[0]["target"][0, 0, 0, 0] = float("nan")
        if policy == "stop":
            with pytest.raises(NonFiniteLoss, match=r"loss is not finite in epoch 1, step 2, .*step_00000001"):
                loop.step(second)
        else:
            loop.step(second)
            assert all(torch.equal(value, state[name]) for name, value in loop.objective.state_dict().items())
            assert (loop.state.position.step, loop.guard.skipped) == (2, 1)
    for name, parameter in loop.objective.named_parameters():
        assert torch.equal(parameter.detach(), state[name])
    (capsule,) = loop.run.capsules.iterdir()
    assert any(torch.isnan(tensor).any() for name, tensor in load_file(capsule).items() if "target" in name)
