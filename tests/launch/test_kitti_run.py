"""The main job and its evaluation on real KITTI frames, where they are there: small, to see that it fits together."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.launch.test_train import scalars
from tests.world import command

pytestmark = pytest.mark.slow

SMALL = ("dataset.size=[96,64]", "net.depth.enc_name=resnet10t", "net.pose.enc_name=resnet10t")


@pytest.mark.parametrize(("drive", "num_steps"), [("kitti_raw", 4), ("kitti_raw_jpg", 7)])
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
    assert done.stdout.splitlines()[-1].startswith("ratio to best constant depth: ")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    (result,) = (tmp_path / "MS" / "1" / "results").glob("*.yaml")
    protocol = yaml.safe_load(result.read_text())["protocol"]
    assert (protocol["crop"], protocol["max_depth_m"], protocol["alignment"]) == ("garg", 80, "stereo")


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
