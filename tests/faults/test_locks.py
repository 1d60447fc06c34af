"""One folder, one run: a lock ends with its process, and only then."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.processes import environments, kill
from tests.faults.supervisor import PATIENCE, Check, Supervisor

pytestmark = pytest.mark.long


def test_trainers_without_their_launcher_keep_the_folder(saving: str, tmp_path: Path, ends_alike: Check) -> None:
    """The launcher is killed, its two trainers go on: a second start is refused until they are done."""
    options = (saving, "trainer.max_epochs=16")
    first = Supervisor(tmp_path, options, world=2)
    process = first.begin()
    assert first.wait_for(process, "step 1/")
    kill(process.pid)
    process.wait()
    (main,) = (pid for pid, variables in environments(first.token).items() if variables.get("RANK") == "0")
    os.kill(main, signal.SIGSTOP)  # so that it cannot end before
    try:
        second = Supervisor(tmp_path, options, world=2).finish()
    finally:
        os.kill(main, signal.SIGCONT)
    assert second.code == 1
    assert f"another run is writing here: process {main} " in second.output
    deadline = time.monotonic() + PATIENCE
    while environments(first.token):
        assert time.monotonic() < deadline, "the trainers never ended"
        time.sleep(0.1)
    ends_alike(first)
    again = Supervisor(tmp_path, options, world=2).finish()
    assert again.code == 0
    assert "had finished before: nothing was trained" in again.output


def test_a_loading_process_that_outlives_its_trainer_holds_no_lock(
    saving: str, tmp_path: Path, ends_alike: Check
) -> None:
    options = (saving, "trainer.max_epochs=4")
    run = Supervisor(tmp_path, (*options, "loader.train.num_workers=1"))
    process = run.begin()
    assert run.wait_for(process, "step 1/")
    kill(process.pid)
    process.wait()
    left, locked = environments(run.token), run.is_locked()
    assert left, "no loading process was left to hold anything"
    assert not locked
    run.end(process)
    run.options = options  # the files say how many loading processes there were
    assert run.finish().code == 0
    ends_alike(run)
