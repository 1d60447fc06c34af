"""The main job and its evaluation on real KITTI frames: small, to see that it fits together."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.runs import scalars
from tests.world import call, refused

pytestmark = pytest.mark.slow

SMALL = (
    *("dataset.size=[96,64]", "net.depth={enc_name: test_resnet, out_scales: [0, 1]}", "net.pose.enc_name=test_resnet"),
    *("loader.num_workers=0", "trainer.max_epochs=1"),
)
DATE = "2011_09_26"
DRIVE = f"{DATE}/{DATE}_drive_0001_sync"


def train(recording: Path, out: Path, split: Path) -> subprocess.CompletedProcess[str]:
    return call(
        "launch/train.py",
        *("-c", "cfg/kitti/monodepth2_MS.yaml", "cfg/kitti/few_frames.yaml", "-d", "cfg/kitti/default.yaml"),
        *("-o", out, "-n", "MS", "-v", "1", "--progress", "plain", "--set", *SMALL),
        *(f"dataset.root={recording}", f"dataset.split_file={split}"),
        *(f"dataset.{mode}.split_file={split.with_name('test_files.txt')}" for mode in ("val", "test")),
    )


@pytest.fixture
def splits(shared_data: Path) -> Path:
    return shared_data / "splits" / "kitti_raw"


@pytest.fixture
def recording(shared_data: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(shared_data / "kitti_raw", tmp_path / "kitti_raw"))


def evaluate(run: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    done = call("launch/evaluate.py", "--ckpt", run, *options)
    assert done.returncode == 0, done.stderr
    return done


def protocol(result: Path) -> dict:
    return yaml.safe_load(result.read_text())["protocol"]


@pytest.mark.parametrize(
    ("drive", "num_steps"), [("kitti_raw", 4), pytest.param("kitti_raw_jpg", 7, marks=pytest.mark.long)]
)
def test_real_frames_train_and_evaluate(shared_data: Path, tmp_path: Path, drive: str, num_steps: int) -> None:
    root, splits, run = shared_data / drive, shared_data / "splits" / drive, tmp_path / "MS" / "1"
    done = train(root, tmp_path, splits / "train_files.txt")
    assert done.returncode == 0, done.stderr
    assert scalars(run)["val/AbsRel"][0][0] == num_steps
    done = evaluate(run, "--sheet", tmp_path / "sheet.png")
    assert "what the network was trained on" not in done.stderr
    assert done.stdout.splitlines()[-1].startswith("ratio to best constant depth: ")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    (result,) = (run / "results").glob("*.yaml")
    told = protocol(result)
    assert (told["crop"], told["max_depth_m"], told["alignment"]) == ("garg", 80, "stereo")
    assert told["truth"] == "LiDAR, metres along the optical axis"
    place = (f"dataset.root={root}", f"dataset.split_file={splits}/test_files.txt")
    legacy = ("-c", "cfg/eval/kitti_eigen_legacy.yaml", "--metrics", "eigen")
    evaluate(run, *legacy, "--save", tmp_path / "legacy.yaml", "--set", *place)
    assert protocol(tmp_path / "legacy.yaml")["truth"] == "LiDAR, metres ahead of the scanner"
    split = splits / "train_files.txt"
    # No item of this one has a LiDAR scan, so nothing is scored.
    done = call("launch/evaluate.py", "--ckpt", run, "--set", f"dataset.test.split_file={split}")
    assert f"warning: {split} is what the network was trained on" in done.stderr


def test_a_split_that_names_missing_frames_is_told_in_full(shared_data: Path, splits: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.txt"
    shutil.copy(splits / "test_files.txt", tmp_path)
    split.write_text(f"{DRIVE} 3 l\n{DRIVE} 5 l\n{DRIVE} 45 r\nnonsense\n{DRIVE} 2 x\n")
    done = train(shared_data / "kitti_raw", tmp_path, split)
    refused(done, f"{split}:4", f"{split}:5", "0000000006", "0000000044")


def test_what_only_reading_shows_costs_items_and_is_named(recording: Path, splits: Path, tmp_path: Path) -> None:
    picture = recording / DRIVE / "image_02/data/0000000001.png"
    content = bytearray(picture.read_bytes())
    content[300_000:300_008] = bytes(8)
    picture.write_bytes(content)
    scan = recording / DRIVE / "velodyne_points/data/0000000005.bin"
    points = np.fromfile(scan, np.float32).reshape(-1, 4)
    points[:10, 1], points[10:20, 0] = np.nan, np.inf
    points.tofile(scan)
    done = train(recording, tmp_path, splits / "train_files.txt")
    assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr
    assert f"{picture} is not a readable picture" in told
    assert "Another item takes its place" in told
    assert f"{scan}: 20 of {len(points)} points are NaN or infinite: left out" in told


def test_what_can_be_seen_before_training_is_told_at_once(recording: Path, splits: Path, tmp_path: Path) -> None:
    picture = recording / DRIVE / "image_02/data/0000000002.png"
    scan = recording / DRIVE / "velodyne_points/data/0000000005.bin"
    for path, size in ((picture, 5000), (scan, 0)):
        os.truncate(path, size)
    calibration = recording / DATE / "calib_velo_to_cam.txt"
    calibration.write_text(calibration.read_text().replace("R: 7", "R: 9", 1))
    done = train(recording, tmp_path, splits / "train_files.txt")
    damaged = "calib_velo_to_cam.txt is damaged: R_rect_00 and R must be rotations"
    refused(done, f"{picture} is not a readable picture", f"{scan} is empty", damaged)
