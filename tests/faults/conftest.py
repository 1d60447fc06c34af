"""Undisturbed runs to compare with, made once; how `last` is written; disks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.disks import mounted
from tests.faults.supervisor import Check, Supervisor, Undisturbed, assert_same_bytes


@pytest.fixture(params=["true", "false"], ids="save_async={}".format)
def saving(request: pytest.FixtureRequest) -> str:
    """Return an override of how `last` is written, which must not matter for what is in it."""
    return f"trainer.save_async={request.param}"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Return a function: options of a run and how it is started -> that run, finished without any trouble."""
    made: dict[Any, Supervisor] = {}

    def make(*options: str, world: int = 1, forks: bool = False) -> Supervisor:
        key = (world, forks, *options)
        if key not in made:
            run = made[key] = Supervisor(tmp_path_factory.mktemp("undisturbed"), options, world, forks)
            began, process = time.monotonic(), run.begin()
            run.wait_for(process, "step 1/")
            run.warmup = time.monotonic() - began
            start = run.end(process)
            assert start.code == 0, start.output[-3000:]
        return made[key]

    return make


@pytest.fixture
def ends_alike(undisturbed: Undisturbed) -> Check:
    """Return a check that a finished run has the files of the undisturbed run with its options."""
    return lambda run: assert_same_bytes(run, undisturbed(*run.options, world=run.world, forks=run.forks))


@pytest.fixture
def disk(tmp_path: Path) -> Any:
    """A folder with a disk of its own, 24 MB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, 24):
        yield folder
