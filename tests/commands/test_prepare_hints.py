"""`prepare hints`: files that the readers find, made once, and complete or absent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.world import ROOT
from trainer.commands.prepare import main
from trainer.data.kitti import KittiRaw
from trainer.data.kitti_raw import hints as _hints

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"
NUM_PICTURES = 10


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kitti") / "kitti_raw_sync"
    options = ["--drives", "1", "--frames", "5", "--size", "124x38", "--no-lidar"]
    assert main(["synthetic", "--out", str(out), *options]) == 0
    return out


@pytest.fixture
def raw(recording: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recording, tmp_path / "kitti_raw_sync"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small matcher instead of twelve large ones."""
    monkeypatch.setattr(_hints, "SETTINGS", ((1, 16),))
    monkeypatch.setattr(_hints, "SIZE", (128, 40))


def hints(raw: Path, *options: str, jobs: int = 1) -> int:
    return main(["hints", "--root", str(raw), "--jobs", str(jobs), *options])


def test_the_reader_finds_what_was_made(raw: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert hints(raw) == 0
    assert f"{NUM_PICTURES} of {NUM_PICTURES} pictures have depth hints, {NUM_PICTURES} of them new" in (
        capsys.readouterr().out
    )
    dataset = KittiRaw(str(raw), "synthetic", use_hints=True, use_depth=False, size=(128, 40), supp_idxs=0)
    assert dataset.check() == []
    for index in range(2):
        item = dataset[index]
        raw_item = dataset.load(index)
        expected = _hints.depth_hints(raw_item.target, raw_item.supports[0], right=index == 1)
        np.testing.assert_array_equal(item["depth_hints"][0], expected)


def test_only_what_is_missing_is_made(raw: Path, quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert hints(raw) == 0
    files = sorted((raw / "depth_hints").rglob("*.npy"))
    before = {path: path.stat().st_mtime_ns for path in files}
    files[3].unlink()
    stale = files[3].with_name(f".{files[3].name}.tmp-999999999")
    stale.write_bytes(b"cut off")
    capsys.readouterr()
    assert hints(raw) == 0
    assert "10 of 10 pictures have depth hints, 1 of them new" in capsys.readouterr().out
    assert sorted(path for path in (raw / "depth_hints").rglob("*") if path.is_file()) == files
    assert [path for path in files if path.stat().st_mtime_ns != before[path]] == [files[3]]


@pytest.mark.parametrize("damage", ["cut short", "NaN"])
def test_hints_that_readers_refuse_are_made_again(
    raw: Path, quick: None, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    assert hints(raw) == 0
    path = min((raw / "depth_hints").rglob("*.npy"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] if damage == "cut short" else whole[:-4] + np.float32("nan").tobytes())
    capsys.readouterr()
    assert hints(raw) == 0
    assert "10 of 10 pictures have depth hints, 1 of them new" in capsys.readouterr().out
    assert path.read_bytes() == whole


def test_lines_that_name_no_picture_are_told(
    raw: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    split = raw / "splits" / "synthetic" / "test_files.txt"
    split.write_text("image 7\n")
    assert hints(raw, "--splits", "synthetic") == 1
    assert f"1 line of the splits names no picture:\n  {split}:1: 'image 7'" in capsys.readouterr().out


def test_splits_and_another_folder(raw: Path, quick: None, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    assert hints(raw, "--splits", "synthetic", "--out", str(out)) == 0
    assert len(list(out.rglob("*.npy"))) == 6  # frames 1 to 3 of both cameras
    assert not (raw / "depth_hints").exists()


def test_broken_and_missing_pictures_are_named_and_the_rest_is_made(
    raw: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = raw / DRIVE / "image_02/data/0000000001.png"
    broken.write_bytes(broken.read_bytes()[:-100])
    (raw / DRIVE / "image_03/data/0000000004.png").unlink()
    assert hints(raw) == 1
    text = capsys.readouterr().out
    assert "6 of 9 pictures have depth hints, 6 of them new" in text
    assert "3 pictures have none:" in text  # both of the broken pair, and the one whose partner is gone
    assert f"{DRIVE}/image_03/0000000001: {broken} is not a readable picture" in text
    assert f"{DRIVE}/image_02/0000000004: {DRIVE}/image_03/0000000004 is missing" in text


def test_a_full_disk_is_seen_before_work_begins(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(raw)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert hints(raw) == 2
    assert "depth hints need 13 MB" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_make_the_same_files(raw: Path, tmp_path: Path) -> None:
    options = ("--splits", "synthetic", "--out")
    folder = raw / "splits" / "synthetic"
    for mode in ("val", "test"):
        (folder / f"{mode}_files.txt").unlink()
    (folder / "train_files.txt").write_text(f"{DRIVE} 1 l\n{DRIVE} 1 r\n")
    assert hints(raw, *options, str(tmp_path / "one")) == 0
    assert hints(raw, *options, str(tmp_path / "two"), jobs=2) == 0
    one, two = (sorted((tmp_path / name).rglob("*.npy")) for name in ("one", "two"))
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes() == b.read_bytes()
        assert np.load(a).shape == (320, 1024)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="asks for a group of processes")
def test_a_killed_run_leaves_no_process_behind_and_is_continued(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "trainer.commands.prepare", "hints", "--root", str(raw), "--jobs", "2"]
    run = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    out = raw / "depth_hints"
    wait_until(lambda: any(out.rglob("0*.npy")))
    run.kill()
    run.wait()
    wait_until(lambda: not group_lives(run.pid))
    made = len(list(out.rglob("0*.npy")))
    assert 0 < made < NUM_PICTURES
    assert hints(raw, jobs=2) == 0
    assert (
        f"{NUM_PICTURES} of {NUM_PICTURES} pictures have depth hints, {NUM_PICTURES - made} of them new"
        in (capsys.readouterr().out)
    )
    assert len([path for path in out.rglob("*") if path.is_file()]) == NUM_PICTURES


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def group_lives(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True
