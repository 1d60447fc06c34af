"""A stop signal at exact moments: saved within a step, nobody left, and continued to the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.account import Start
from tests.faults.supervisor import Check, Supervisor

pytestmark = pytest.mark.long

MOMENTS = [("step", 2), ("last:half", 1), ("last:rename", 2), ("best:half", 0)]


def after_signal(start: Start) -> int:
    """Optimizer steps that were taken after the signal arrived."""
    return start.moments[start.moments.index("signal") :].count("step")


def is_preempted(run: Supervisor, start: Start) -> None:
    assert run.state["state"] == "preempted", start.output[-3000:]
    assert run.state["step"] == run.saved
    assert after_signal(start) <= 2  # the one under way, and the one in which all processes hear of it
    assert start.orphans == 0


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment[0])
def test_one_process(moment: tuple[str, int], saving: str, tmp_path: Path, ends_alike: Check) -> None:
    options = (saving, "trainer.max_epochs=4")
    run, (at, skip) = Supervisor(tmp_path, options), moment
    start = run.finish(at=at, skip=str(skip), do="term")
    assert start.code == 143, start.output[-3000:]
    is_preempted(run, start)
    again = run.finish()
    assert (again.code, again.began) == (0, start.trained)
    assert start.trained + again.trained == 16, "a step was repeated"
    ends_alike(run)


def test_one_process_that_saves_every_epoch_only(tmp_path: Path, ends_alike: Check) -> None:
    options = ("trainer.save_every_n_steps=null", "trainer.max_epochs=4")
    run = Supervisor(tmp_path, options)
    start = run.finish(at="step", skip="1", do="term")
    assert start.code == 143
    is_preempted(run, start)
    assert start.trained < 4, "it trained to the end of the epoch"
    assert run.finish().trained == 16 - start.trained
    ends_alike(run)


@pytest.mark.parametrize("told", ["launcher", "rank 0", "rank 1"])
def test_two_processes(told: str, saving: str, tmp_path: Path, ends_alike: Check) -> None:
    """Told to the launcher, or to one of them: both leave after the same step, and nobody is left."""
    options = (saving, "trainer.max_epochs=16")
    run = Supervisor(tmp_path, options, world=2)
    ranks = {"launcher": ("term launcher", "0"), "rank 0": ("term", "0"), "rank 1": ("term", "1")}
    what, rank = ranks[told]
    start = run.finish(at="step", skip="1", do=what, rank=rank)
    assert start.code != 0
    is_preempted(run, start)
    again = run.finish()
    assert (again.code, again.began) == (0, start.trained)
    ends_alike(run)


@pytest.mark.parametrize("moment", ["plugin", "lock", "restore", "state:running"])
def test_before_training_has_begun(moment: str, tmp_path: Path, ends_alike: Check) -> None:
    """Nothing new is to be saved then: the process may end at once, and nothing is spoilt."""
    options = ("trainer.max_epochs=2",)
    run = Supervisor(tmp_path, options)
    if moment == "restore":
        run.finish(at="step", skip="1", do="term")
    start = run.finish(at=moment, do="term")
    assert start.code in (143, -15), start.output[-3000:]
    assert "Traceback" not in start.output
    assert start.orphans == 0
    assert run.finish().code == 0
    ends_alike(run)
