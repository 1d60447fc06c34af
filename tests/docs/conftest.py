"""A folder to work in, with the stand-ins that pages name; made once for all workers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Once
from tests.docs.standins import make


@pytest.fixture(scope="session")
def standins(once: Once) -> Path:
    return once("docs_standins", make)


@pytest.fixture
def work(standins: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(standins / "work", tmp_path / "work"))
