"""Shared fixtures: one thread, no hidden Accelerate configuration, and the real data where it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, so not in a fixture


@pytest.fixture(autouse=True, scope="session")
def _quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep a user's Accelerate configuration out of the results."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf_home"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the small real data sets (kitti_raw, kitti_depth, splits, ...); skips where it is missing."""
    path = Path(os.environ.get("MONODEPTH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "kitti_raw").is_dir():
        pytest.skip(
            f"no real data at {path}: set MONODEPTH_TEST_DATA to a folder with kitti_raw, kitti_depth, splits"
        )
    return path
