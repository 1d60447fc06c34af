"""A process that dies or falls silent: the others end soon with one sentence, and who died is not buried by it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.launch.test_nodes import PAUSE, Stage, launch, read
from tests.runs import assert_same_run, last_step, state
from tests.world import fork, refused, train_args

pytestmark = pytest.mark.slow

LOST = f"another process died or fell silent after step {PAUSE}"


def root_cause(log: str) -> str:
    """What the launcher says of the process that it holds responsible."""
    return log.partition("Root Cause")[2]


def tracebacks(log: str) -> set[str]:
    """The processes whose traceback was printed: torch marks each line of one."""
    return set(re.findall(r"^\[rank(\d)\]: Traceback", log, re.MULTILINE))


@pytest.mark.parametrize(
    ("dead", "alive", "said"), [("1", "0", "failed"), pytest.param("0", "1", "running", marks=pytest.mark.long)]
)
def test_a_killed_process_is_told_in_one_sentence(stage: Stage, dead: str, alive: str, said: str) -> None:
    process = stage.start(launch("cpu_x2"), paused=dead)
    stage.wait_for_pause(int(dead))
    os.kill(int(read(stage.marks / dead)), signal.SIGKILL)
    assert stage.end(process) == 1
    log = stage.log(0)
    assert f"error [process {alive}]: {LOST}" in log
    assert tracebacks(log) == set()
    assert f"exitcode  : -9 (pid: {read(stage.marks / dead)})" in root_cause(log)
    assert (state(stage.out)["state"], last_step(stage.out)) == (said, PAUSE)
    hint = "If `state.json` still says running, it was process 0 that died"  # who else would write it
    assert (hint in log) == (dead == "0")


@pytest.mark.long
def test_a_silent_process_is_waited_for_no_longer_than_the_time_out(stage: Stage) -> None:
    """A stopped process answers no more than a machine without power; its connections stay open."""
    process = stage.start(launch("cpu_x2"), "1", ["trainer.timeout_minutes=0.2"])
    stage.wait_for_pause(1)
    os.kill(int(read(stage.marks / "1")), signal.SIGSTOP)
    assert stage.end(process) == 1
    assert re.search(rf"error \[process 0\]: {LOST} \(Timed out waiting 1200\dms", stage.log(0))
    assert tracebacks(stage.log(0)) == set()
    assert (state(stage.out)["state"], last_step(stage.out)) == ("failed", PAUSE)


def test_processes_that_never_come_are_not_waited_for(tmp_path: Path) -> None:
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = fork(*train_args(tmp_path, "trainer.timeout_minutes=0.05"), ACCELERATE_USE_CPU="true", **alone)
    refused(done, "error: the processes did not meet within 0.05 minutes")


RAISING = """
import os, sys
sys.path.insert(0, os.getcwd())
from trainer.commands.train import main
from trainer.runtime.errors import UserError
from trainer.training.loop import Loop
step, steps = Loop.step, []
def failing(self, batches):
    steps.append(batches)
    if len(steps) == 3 and os.environ["RANK"] == "1":
        raise {error}
    return step(self, batches)
Loop.step = failing
sys.exit(main())
"""


@pytest.mark.parametrize(
    "error", ["ZeroDivisionError('of process 1')", pytest.param("UserError('of process 1')", marks=pytest.mark.long)]
)
def test_the_error_of_one_process_is_seen_and_named_as_the_cause(stage: Stage, error: str) -> None:
    stage.script.write_text(RAISING.format(error=error))
    assert stage.end(stage.start(launch("cpu_x2"), paused="nobody")) == 1
    log = stage.log(0)
    assert "rank      : 1 " in root_cause(log)
    assert log.count("error [process 0]: another process died or fell silent after step 2") == 1
    is_sentence = error.startswith("UserError")
    assert tracebacks(log) == (set() if is_sentence else {"1"})
    assert ("error [process 1]: of process 1" if is_sentence else error[:17]) in log
    assert is_sentence or "ZeroDivisionError: of process 1" in root_cause(log)


@pytest.mark.long
@pytest.mark.parametrize("rank", ["1", "0"])
def test_a_launcher_that_may_restart_continues_by_itself(stage: Stage, two_processes: Path, rank: str) -> None:
    process = stage.start([*launch("cpu_x2"), "--max_restarts", "3"], paused=rank)
    stage.wait_for_pause(int(rank))
    os.kill(int(read(stage.marks / rank)), signal.SIGKILL)
    assert stage.end(process) == 0, stage.log(0)
    assert state(stage.out)["state"] == "finished"
    assert_same_run(stage.out, two_processes)
