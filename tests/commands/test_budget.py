"""A budget of time: the run ends where it is used up, is validated, and goes on from there with a larger one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.runs import ckpt, folder, last_step, scalars, state
from tests.world import call, fork, train_args
from trainer.checkpoint.safefile import read_metadata
from trainer.training import setup
from trainer.training.stopping import Budget

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _a_minute_per_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each optimizer step take a minute. It is over when the next one looks at the clock."""
    taken: list[object] = []
    monkeypatch.setattr(setup, "Budget", partial(Budget, clock=lambda: 60.0 * len(taken)))
    hook = register_optimizer_step_post_hook(lambda *args: taken.append(args))
    yield
    hook.remove()


def position(out: Path, kind: str) -> tuple[str, str, str]:
    metadata = read_metadata(ckpt(out, kind))
    return metadata["epoch"], metadata["batch"], metadata["step"]


def assert_same_last(ours: Path, theirs: Path) -> None:
    a, b = load_file(ckpt(ours, "last")), load_file(ckpt(theirs, "last"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_ends_in_mid_epoch_and_goes_on_exactly_with_a_larger_budget(trained_run: Path, tmp_path: Path) -> None:
    """Two epochs of four steps: two minutes are over when step 3 begins, six when step 7 does."""
    done = call(*train_args(tmp_path, "trainer.max_minutes=2"))
    assert done.returncode == 0, done.stderr
    assert "8 in all; at most 2 minutes, 0 of them used" in done.stdout
    assert "trainer.max_minutes: 2 is used up after step 3, in epoch 1: validating there" in done.stdout
    assert re.search("ended early +trainer.max_minutes: 2 is used up; with a larger one the same command", done.stdout)
    assert state(tmp_path)["state"] == "finished"
    assert position(tmp_path, "last") == position(tmp_path, "best") == ("0", "3", "3")
    assert [step for step, _ in scalars(folder(tmp_path))["val/AbsRel"]] == [3]

    again = call(*train_args(tmp_path, "trainer.max_minutes=2"))
    assert "had finished before: nothing was trained" in again.stdout
    assert last_step(tmp_path) == 3

    more = call(*train_args(tmp_path, "trainer.max_minutes=6"))
    assert "at most 6 minutes, 3 of them used" in more.stdout
    assert "trainer.max_minutes: 6 is used up after step 7, in epoch 2: validating there" in more.stdout
    assert position(tmp_path, "last") == ("1", "3", "7")

    assert call(*train_args(tmp_path)).returncode == 0
    assert_same_last(tmp_path, trained_run)
    assert [step for step, _ in scalars(folder(tmp_path))["val/AbsRel"]] == [3, 4, 7, 8]


def test_a_budget_that_ends_with_an_epoch_ends_the_run_there(trained_run: Path, tmp_path: Path) -> None:
    """Four minutes are over once the four steps of the first epoch are done, before a fifth begins."""
    done = call(*train_args(tmp_path, "trainer.max_minutes=4"))
    assert "validating there" not in done.stdout
    assert re.search("ended early +trainer.max_minutes: 4 is used up", done.stdout)
    assert position(tmp_path, "last") == ("1", "0", "4")
    assert call(*train_args(tmp_path, "trainer.max_minutes=9")).returncode == 0
    assert_same_last(tmp_path, trained_run)


class Died(BaseException):
    """What a kill is to a command of this process."""


def test_killed_before_and_after_its_last_best_a_run_is_validated_and_trains_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_best, args = setup.Saver.save_best, train_args(tmp_path, "trainer.max_minutes=2")
    for after in (False, True):

        def dying(saver: setup.Saver, objective: object, after: bool = after) -> None:
            if after:
                save_best(saver, objective)
            raise Died

        with monkeypatch.context() as patch:
            patch.setattr(setup.Saver, "save_best", dying)
            with pytest.raises(Died):
                call(*args)
        assert ckpt(tmp_path, "best").exists() is after
    done = call(*args)
    assert done.returncode == 0, done.stderr
    assert position(tmp_path, "last") == position(tmp_path, "best") == ("0", "3", "3")
    assert state(tmp_path)["state"] == "finished"


# The clock of process 1 stands still. In process 0 a step takes a minute.
TWO_CLOCKS = """
import os, sys
from functools import partial
from torch.optim.optimizer import register_optimizer_step_post_hook
from trainer.commands.train import main
from trainer.training import setup
taken = []
if os.environ["RANK"] == "0":
    register_optimizer_step_post_hook(lambda *args: taken.append(args))
setup.Budget = partial(setup.Budget, clock=lambda: 60.0 * len(taken))
sys.exit(main())
"""


def test_two_processes_end_after_the_step_that_the_first_one_decides_on(tmp_path: Path) -> None:
    quick = ("trainer.max_minutes=2", "dataset.val.num_items=2")
    done = fork("-c", TWO_CLOCKS, *train_args(tmp_path, *quick)[1:], processes=2, HF_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("trainer.max_minutes: 2 is used up after step 3, in epoch 1: validating there") == 1
    assert position(tmp_path, "last") == position(tmp_path, "best") == ("0", "3", "3")
    assert state(tmp_path)["state"] == "finished"
