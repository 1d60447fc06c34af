"""Runs that the tests of `evaluate` and `export_depth` share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.evaluating import write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on video, so it has a pose network and no scale."""
    return write_run(tmp_path_factory.mktemp("video") / "md2" / "42", [-1, 1])


@pytest.fixture(scope="session")
def stereo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained with a stereo pair alone."""
    return write_run(tmp_path_factory.mktemp("stereo") / "md2" / "42", [0], **{"net.pose": None})
