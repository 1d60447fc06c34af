"""The main job and its evaluation on real KITTI frames, where they are there: small, to see that it fits together."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.commands.test_train import scalars
from tests.world import command

pytestmark = pytest.mark.slow

SMALL = ("dataset.size=[96,64]", "net.depth.enc_name=resnet10t", "net.pose.enc_name=resnet10t")


@pytest.mark.parametrize(
    ("drive", "num_steps"), [("kitti_raw", 4), pytest.param("kitti_raw_jpg", 7, marks=pytest.mark.long)]
)
def test_real_frames_train_and_evaluate(
    shared_data: Path, tmp_path: Path, drive: str, num_steps: int
) -> None:
    root, splits = shared_data / drive, shared_data / "splits" / drive
    done = command(
        "launch/train.py",
        *("-c", "cfg/kitti/monodepth2_MS.yaml", "cfg/kitti/few_frames.yaml", "-d", "cfg/kitti/default.yaml"),
        *("-o", tmp_path, "-n", "MS", "-v", "1", "-s", "42", "--progress", "plain", "--set", *SMALL),
        *(f"dataset.root={root}", f"dataset.split_file={splits}/train_files.txt", "trainer.max_epochs=1"),
        *(
            f"dataset.val.split_file={splits}/test_files.txt",
            f"dataset.test.split_file={splits}/test_files.txt",
        ),
    )
    assert done.returncode == 0, done.stderr
    logged = scalars(tmp_path / "MS" / "1")
    assert logged["val_metrics/AbsRel"][0][0] == num_steps
    done = command("launch/evaluate.py", "--ckpt", tmp_path / "MS" / "1", "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    assert "what the network was trained on" not in done.stderr
    assert done.stdout.splitlines()[-1].startswith("ratio to best constant depth: ")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    (result,) = (tmp_path / "MS" / "1" / "results").glob("*.yaml")
    protocol = yaml.safe_load(result.read_text())["protocol"]
    assert (protocol["crop"], protocol["max_depth_m"], protocol["alignment"]) == ("garg", 80, "stereo")
    assert protocol["truth"] == "LiDAR, metres along the optical axis"
    done = command(
        *("launch/evaluate.py", "--ckpt", tmp_path / "MS" / "1", "-c", "cfg/eval/kitti_eigen_legacy.yaml"),
        *("--metrics", "eigen", "--save", tmp_path / "legacy.yaml"),
        *("--set", f"dataset.root={root}", f"dataset.split_file={splits}/test_files.txt"),
    )
    assert done.returncode == 0, done.stderr
    protocol = yaml.safe_load((tmp_path / "legacy.yaml").read_text())["protocol"]
    assert protocol["truth"] == "LiDAR, metres ahead of the scanner"
    done = command(
        *("launch/evaluate.py", "--ckpt", tmp_path / "MS" / "1", "--save", tmp_path / "own.yaml"),
        *("--set", f"dataset.test.split_file={splits}/train_files.txt"),
    )
    assert f"warning: {splits}/train_files.txt is what the network was trained on" in done.stderr


def test_a_split_that_names_missing_frames_is_told_in_full(shared_data: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.txt"
    drive = "2011_09_26/2011_09_26_drive_0001_sync"
    split.write_text(f"{drive} 3 l\n{drive} 5 l\n{drive} 45 r\nnonsense\n{drive} 2 x\n")
    done = command(
        "launch/train.py",
        *("-c", "cfg/kitti/monodepth2_MS.yaml", "cfg/kitti/few_frames.yaml", "-d", "cfg/kitti/default.yaml"),
        *("-o", tmp_path, "-n", "MS", "-v", "1", "--set", *SMALL),
        *(f"dataset.root={shared_data / 'kitti_raw'}", f"dataset.split_file={split}"),
    )
    assert done.returncode == 2
    assert f"{split}:4" in done.stderr
    assert f"{split}:5" in done.stderr
    assert "0000000006" in done.stderr
    assert "0000000044" in done.stderr
    assert "Traceback" not in done.stderr


DATE = "2011_09_26"
DRIVE = f"{DATE}/{DATE}_drive_0001_sync"


@pytest.fixture
def recording(shared_data: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(shared_data / "kitti_raw", tmp_path / "kitti_raw"))


def train(recording: Path, splits: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return command(
        "launch/train.py",
        *("-c", "cfg/kitti/monodepth2_MS.yaml", "cfg/kitti/few_frames.yaml", "-d", "cfg/kitti/default.yaml"),
        *("-o", out, "-n", "MS", "-v", "1", "--progress", "plain", "--set", *SMALL, "trainer.max_epochs=1"),
        *(f"dataset.root={recording}", f"dataset.split_file={splits}/train_files.txt"),
        f"dataset.val.split_file={splits}/test_files.txt",
    )


def test_what_only_reading_shows_costs_items_and_is_named(
    shared_data: Path, recording: Path, tmp_path: Path
) -> None:
    picture = recording / DRIVE / "image_02/data/0000000001.png"
    content = bytearray(picture.read_bytes())
    content[300_000:300_008] = bytes(8)
    picture.write_bytes(content)
    scan = recording / DRIVE / "velodyne_points/data/0000000005.bin"
    points = np.fromfile(scan, np.float32).reshape(-1, 4)
    points[:10, 1], points[10:20, 0] = np.nan, np.inf
    points.tofile(scan)
    done = train(recording, shared_data / "splits/kitti_raw", tmp_path)
    assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr
    assert f"{picture} is not a readable picture" in told
    assert "Another item takes its place" in told
    assert f"{scan}: 20 of {len(points)} points are NaN or infinite: left out" in told
    assert "Traceback" not in told


def test_what_can_be_seen_before_training_is_told_at_once(
    shared_data: Path, recording: Path, tmp_path: Path
) -> None:
    picture = recording / DRIVE / "image_02/data/0000000002.png"
    scan = recording / DRIVE / "velodyne_points/data/0000000005.bin"
    for path, size in ((picture, 5000), (scan, 0)):
        os.truncate(path, size)
    calibration = recording / DATE / "calib_velo_to_cam.txt"
    calibration.write_text(calibration.read_text().replace("R: 7", "R: 9", 1))
    done = train(recording, shared_data / "splits/kitti_raw", tmp_path)
    assert done.returncode == 2
    assert f"{picture} is cut short or damaged" in done.stderr
    assert f"{scan} is not a LiDAR scan: 0 bytes" in done.stderr
    assert "calib_velo_to_cam.txt is damaged: R_rect_00 and R must be rotations" in done.stderr
    assert "Traceback" not in done.stderr
