"""What a YAML can switch on beside the plain training: it continues exactly too, and does what its key says."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.runs import assert_same_run, ckpt, folder, kill_after, launch_two, scalars, state
from tests.world import call, command, train_args
from trainer.checkpoint import load_objective
from trainer.checkpoint.safefile import read_metadata
from trainer.losses import LOSSES

pytestmark = pytest.mark.slow

ONE_EPOCH = ("trainer.max_epochs=1", "dataset={train: {num_items: 4}, val: {num_items: 2}}")  # of two steps
EVERYTHING = (
    "trainer={max_epochs: 3, log_images: false, save_every_n_steps: 3, save_async: true, nonfinite: skip}",
    "trainer={ema: {decay: 0.9}, swa: {start: 1, lr: 0.001, anneal_epochs: 1, bn_batches: 2}}",
    "trainer={early_stopping: {patience: 9}, gradient_checkpointing: true, gradient_clip_val: 1}",
    "trainer.freeze=[depth.encoder.layer1]",
    "loss={disp_smooth: {weight: {0: 0.001, 1: 0.5}}, img_recon: {use_automask: true, automask_below: 0.999}}",
    *("scheduler={type: exp, gamma: 0.5}", "dataset.train.num_items=4"),
)


def test_everything_at_once_continues_exactly_after_a_kill(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    kill_after(3, killed, *EVERYTHING)
    for out in (straight, killed):
        done = call(*train_args(out, *EVERYTHING))
        assert done.returncode == 0, done.stderr
    assert_same_run(killed, straight)

    last, curves = load_file(ckpt(straight, "last")), scalars(folder(straight))
    assert [value for _, value in curves["loss_weight/disp_smooth"]] == pytest.approx([0.001, 0.5, 0.5])
    for (_, total), (_, recon), (_, smooth), weight in zip(
        *(curves[f"val_losses/loss{name}"] for name in ("", "_img_recon", "_disp_smooth")),
        (0.001, 0.5, 0.5),
        strict=True,
    ):
        assert total == pytest.approx(recon + weight * smooth, rel=1e-5)
    for kind in ("ema", "swa"):
        averaged = {k: v for k, v in last.items() if k.startswith(f"extra.averages.{kind}.weights.")}
        assert {k.removeprefix(f"extra.averages.{kind}.weights.") for k in averaged} == {
            k for k in last if k.startswith("networks.")
        }
    assert curves["lr/depth"][-1][1] == pytest.approx(1e-3)  # of SWA, not of the schedule
    assert curves["lr/pose"][-1][1] == pytest.approx(2.5e-3)  # of the pose network, in proportion
    frozen = [k for k in last if k.startswith("networks.depth.encoder.layer1")]
    assert frozen
    assert not any(k.startswith("optim.depth.encoder.layer1") for k in last)


def test_the_mean_of_late_epochs_becomes_best(tmp_path: Path) -> None:
    done = call(*train_args(tmp_path, *ONE_EPOCH, "trainer.swa={start: 0, bn_batches: 1}"))
    assert done.returncode == 0, done.stderr
    best, last = load_file(ckpt(tmp_path, "best")), load_file(ckpt(tmp_path, "last"))
    weights = [k for k in best if k.endswith("weight")]
    assert all(torch.equal(best[k], last[k]) for k in weights)  # the mean of one epoch
    statistics = [k for k in best if k.endswith("running_var")]
    assert statistics
    assert not any(torch.equal(best[k], last[k]) for k in statistics)  # computed anew, for these weights


def test_early_stopping_ends_the_run_and_more_patience_goes_on(tmp_path: Path) -> None:
    """Nothing changes at a learning rate of 0, so the first epoch stays the best one."""
    options = ["optimizer.lr=0", "trainer.frozen_batchnorm=true", "trainer.max_epochs=9"]
    options += ["dataset={train: {num_items: 2}, val: {num_items: 2}}", "trainer.trackers=[]"]
    for patience, told, epoch in (
        (2, "AbsRel has not improved for 2 epochs", 3),
        (2, "had finished before", 3),
        (4, "", 5),
    ):
        done = call(*train_args(tmp_path, *options, f"trainer.early_stopping.patience={patience}"))
        assert done.returncode == 0, done.stderr
        assert told in done.stdout
        assert (state(tmp_path)["state"], state(tmp_path)["epoch"]) == ("finished", epoch)


POISON = """
import torch
from torch import nn
from trainer.losses import LOSSES

@LOSSES.register("poison")
class Poison(nn.Module):
    '''Not a number in the steps that `at` names (made up for a test).'''
    needs = frozenset()
    on_twin = False

    def __init__(self, *, at: list[int], gradient: bool = False):
        super().__init__()
        self.at, self.gradient, self.calls = at, gradient, 0

    def forward(self, scene):
        self.calls += self.training
        value = scene.disp[0].mean() * 0
        if self.training and self.calls in self.at:
            value = value.sqrt() if self.gradient else value * float("nan")
        return value, {}
"""


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Options that load the loss `poison`, which is forgotten after the test."""
    plugin = tmp_path / "poison.py"
    plugin.write_text(POISON)
    LOSSES.names()  # registers what there is for good
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield ["--plugins", str(plugin)]
    sys.modules.pop("poison", None)


@pytest.mark.parametrize("gradient", [pytest.param(False, marks=pytest.mark.long), True])
def test_steps_that_are_not_finite_are_left_out_and_counted(tmp_path: Path, poison: list[str], gradient: bool) -> None:
    options = ["trainer.nonfinite=skip", "trainer.nonfinite_limit=2", "trainer.log_every_n_steps=1"]
    options += ["loss.poison.at=[2,3]", f"loss.poison.gradient={str(gradient).lower()}"]
    done = call(*train_args(tmp_path, *options), *poison)
    assert done.returncode == 0, done.stderr
    what = "gradient" if gradient else "loss"
    assert done.stdout.count(f"the {what} is not finite in epoch 1, step ") == 2
    assert "the step is left out (2 of at most 2 in this epoch)" in done.stdout
    curves = scalars(folder(tmp_path))
    assert [step for step, _ in curves["train_losses/loss"]] == [1, 4, 5, 6, 7, 8]
    assert curves["train_safety/skipped_steps"][-1][1] == 2
    assert json.loads(read_metadata(ckpt(tmp_path, "last"))["extra"])["guard"]["skipped"] == 2
    (capsule,) = (folder(tmp_path) / "capsules").iterdir()
    assert capsule.name == "step_00000001_rank_0.safetensors"
    weights = load_file(ckpt(tmp_path, "last"))
    assert all(torch.isfinite(w).all() for w in weights.values() if w.is_floating_point())


def test_too_many_steps_that_are_not_finite_stop_the_run(tmp_path: Path, poison: list[str]) -> None:
    options = ["trainer.nonfinite=skip", "trainer.nonfinite_limit=1", "loss.poison.at=[2,3]"]
    done = call(*train_args(tmp_path, *options), *poison)
    assert done.returncode == 1
    assert "2 steps of this epoch were left out, more than trainer.nonfinite_limit: 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert state(tmp_path)["state"] == "failed"


def test_two_processes_leave_out_the_same_step(tmp_path: Path, poison: list[str]) -> None:
    """Only the second process meets it: both must stay at the same weights, or they wait for each other for ever."""
    plugin = Path(poison[1])
    plugin.write_text(
        POISON.replace(
            "self.training and self.calls", "__import__('os').environ['RANK'] == '1' and self.training and self.calls"
        )
    )
    done = launch_two(tmp_path, *ONE_EPOCH, "trainer.nonfinite=skip", "loss.poison.at=[2]", "--plugins", str(plugin))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step_00000001_rank_1.safetensors` names what broke first: the step is left out" in done.stdout
    assert [p.name for p in (folder(tmp_path) / "capsules").iterdir()] == ["step_00000001_rank_1.safetensors"]
    assert state(tmp_path)["state"] == "finished"


@pytest.mark.long
def test_a_compiled_run_leaves_ordinary_weights(tmp_path: Path) -> None:
    options = ("trainer.compile.backend=aot_eager", "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    done = command(*train_args(tmp_path, *options))
    assert done.returncode == 0, done.stderr
    assert "compiled: depth" in done.stdout
    assert not any("_orig_mod" in name for name in load_file(ckpt(tmp_path, "last")))
    assert load_objective(ckpt(tmp_path, "best")).networks["depth"]
    plain = command(*train_args(tmp_path, *options[1:]))  # the compiler may change
    assert plain.returncode == 0, plain.stderr
