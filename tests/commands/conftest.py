"""A KITTI recording of one synthetic drive, for the jobs of `prepare`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trainer.commands.prepare import main


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """Six frames of 124 x 38 with LiDAR and annotated depth; not to be changed."""
    out = tmp_path_factory.mktemp("kitti") / "kitti_raw_sync"
    options = ["--drives", "1", "--frames", "6", "--size", "124x38", "--annotated"]
    assert main(["synthetic", "--out", str(out), *options]) == 0
    return out


@pytest.fixture
def raw(recording, tmp_path):
    """A copy of the recording."""
    return Path(shutil.copytree(recording, tmp_path / "kitti_raw_sync"))
