"""Undisturbed runs to compare with, made once; and figures, which are shown at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.supervisor import Supervisor
from trainer.config.sections import TrainerSection

# How `last` is written must not matter for what is in it.
SAVING = [
    pytest.param(f"trainer.save_async={on}", id=f"save_async={on}")
    for on in ("true", "false")
    if "save_async" in TrainerSection.model_fields
] or [pytest.param("trainer.save_every_n_steps=1", id="saving")]


@pytest.fixture(params=SAVING)
def saving(request: pytest.FixtureRequest) -> str:
    """An override that says how `last` is written."""
    override: str = request.param
    return override


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Supervisor]:
    """A function: options of a run, and its number of processes -> the same run, finished without any trouble."""
    made: dict[Any, Supervisor] = {}

    def make(*options: str, world: int = 1) -> Supervisor:
        key = (world, *options)
        if key not in made:
            run = made[key] = Supervisor(tmp_path_factory.mktemp("undisturbed"), options, world)
            began, process = time.monotonic(), run.begin()
            run.wait_for(process, "step")
            run.warmup = time.monotonic() - began
            start = run.end(process)
            assert start.code == 0, start.output[-3000:]
        return made[key]

    return make


@pytest.fixture
def show(record_property: Callable[[str, object], None]) -> Callable[[Mapping[str, str]], None]:
    """A function: shows figures when all tests have ended, from whichever process they come."""

    def note(values: Mapping[str, str]) -> None:
        for name, value in values.items():
            record_property(f"figure: {name}", value)

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for reports in terminalreporter.stats.values():
        for report in reports:
            properties = [p for p in getattr(report, "user_properties", []) if p[0].startswith("figure: ")]
            if properties and report.when == "call":
                terminalreporter.section(report.nodeid, sep="-")
                for name, value in properties:
                    terminalreporter.write_line(f"{name.removeprefix('figure: '):>22}  {value}")


@pytest.fixture
def disk(tmp_path: Path) -> Any:
    """A folder with a disk of its own, 24 MB; skips where none can be mounted."""
    from tests.faults.disks import mounted

    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, 24):
        yield folder
