"""Fixtures that tests of several commands share: a KITTI recording, and runs to evaluate."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands.evaluating import write_run
from trainer.commands.prepare import main
from trainer.runtime import streams
from trainer.runtime.silence import Silence


@pytest.fixture(autouse=True)
def in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands called here do not say that they take long, which a busy machine decides."""
    monkeypatch.setattr(streams, "_silence", Silence(lambda text: None))


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


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on video, so it has a pose network and no scale."""
    return write_run(tmp_path_factory.mktemp("video") / "md2" / "42", [-1, 1])


@pytest.fixture(scope="session")
def stereo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained with a stereo pair alone."""
    return write_run(tmp_path_factory.mktemp("stereo") / "md2" / "42", [0], **{"net.pose": None})
