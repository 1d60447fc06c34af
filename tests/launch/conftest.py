"""A stage for launchers, cleared after each test. On that of a test that is not long they are forks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.test_nodes import Stage


@pytest.fixture
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(tmp_path, forks=request.node.get_closest_marker("long") is None)
    yield stage
    stage.kill_everything()
