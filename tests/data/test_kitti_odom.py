"""KITTI odometry: the files of a sequence, its own camera, its own motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.clips import HEIGHT, WIDTH, frames, level
from trainer.data import DATASETS
from trainer.data.clips.poses import read_poses, read_rig
from trainer.runtime.errors import DataError, UserError

# fx 20, principal point (20, 10); camera 1 stands 0.54 m to the right of 0, cameras 2 and 3 are 0.06 m left of those.
CALIB = """P0: 20 0 20 0 0 20 10 0 0 0 1 0
P1: 20 0 20 -10.8 0 20 10 0 0 0 1 0
P2: 20 0 20 1.2 0 20 10 0 0 0 1 0
P3: 20 0 20 -9.6 0 20 10 0 0 0 1 0
Tr: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""


def sequence(root: Path, name: str, cameras=(0, 1, 2, 3), num_frames: int = 6) -> Path:
    """Frames 0.. of a car that drives 1 m per frame straight ahead."""
    folder = root / "sequences" / name
    for camera in cameras:
        frames(folder / f"image_{camera}", range(num_frames))
    (folder / "calib.txt").write_text(CALIB)
    (root / "poses").mkdir(exist_ok=True)
    rows = [f"1 0 0 0 0 1 0 0 0 0 1 {n}" for n in range(num_frames)]
    (root / "poses" / f"{name}.txt").write_text("\n".join(rows))
    return folder


@pytest.fixture
def root(tmp_path):
    sequence(tmp_path, "00")
    return tmp_path


def odometry(root, **options):
    return DATASETS.create("kitti_odom", root=str(root), **{"size": (20, 10), "val_every": 0, **options})


def split(root, *lines):
    path = root / "split.txt"
    path.write_text("\n".join(lines))
    return {"split_file": str(path)}


def test_target_and_neighbours_of_a_line(root):
    dataset = odometry(root, **split(root, "0 2 l", "00 000003 r"))
    assert dataset.check() == []
    assert [dataset.describe(i) for i in range(2)] == ["00/l/2", "00/r/3"]
    item = dataset[0]
    assert level(item["target"]) == 20
    assert [level(s) for s in item["supports"]] == [10, 30]


def test_the_camera_is_that_of_the_sequence_scaled(root):
    (root / "sequences" / "00" / "calib.txt").write_text(CALIB.replace("P2: 20 0 20", "P2: 30 0 16"))
    assert odometry(root)[0]["K"].tolist() == [[15, 0, 8], [0, 10, 5], [0, 0, 1]]


@pytest.mark.parametrize(
    ("pictures", "there", "taken"),
    [("auto", range(4), (2, 3)), ("colour", range(4), (2, 3)), ("grey", range(4), (0, 1)), ("auto", (0, 1), (0, 1))],
)
def test_colour_is_preferred_and_grey_taken_where_there_is_no_colour(tmp_path, pictures, there, taken):
    sequence(tmp_path, "03", cameras=there)
    dataset = odometry(tmp_path, pictures=pictures, supp_idxs=[0])
    assert dataset.check() == []
    for side, camera in zip("lr", taken, strict=True):
        assert f"image_{camera}/" in dataset.clips[f"03/{side}"].frames[0]


def test_the_partner_stands_on_the_other_side_and_units_are_those_of_the_trainer(root):
    dataset = odometry(root, supp_idxs=[0, -1], **split(root, "0 2 l", "0 2 r"))
    assert dataset.check() == []
    left, right = dataset[0], dataset[1]
    assert left["T_stereo"][0, 3] == pytest.approx(-0.1)  # 0.54 m
    assert torch.allclose(right["T_stereo"], torch.linalg.inv(left["T_stereo"]))
    assert left["Ts_true"][0, 0, 3] == pytest.approx(-0.54)
    assert "T_stereo" not in odometry(root)[0]


def test_driving_ahead_brings_the_next_camera_nearer_to_a_point(root):
    Ts = odometry(root)[0]["Ts_true"]
    assert torch.allclose(Ts[:, :3, 3], torch.tensor([[0.0, 0, 1], [0, 0, -1]]), atol=1e-6)


def test_motion_of_another_camera_follows_from_that_of_camera_0(root):
    """Turning about camera 0 moves camera 3, which stands to the side of it."""
    turned = "0 0 1 0 0 1 0 0 -1 0 0 0"  # 90 degrees to the right: forward becomes +x
    rows = ["1 0 0 0 0 1 0 0 0 0 1 0", turned]
    (root / "poses" / "00.txt").write_text("\n".join(rows + [rows[0]] * 4))
    T = odometry(root, supp_idxs=[1], **split(root, "0 0 r"))[0]["Ts_true"][0].double().numpy()
    centre = 0.48  # of camera 3, in camera 0: 9.6 / 20
    rotation = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]])  # world -> turned camera
    assert np.allclose(T[:3, :3], rotation)
    # the centre of the target camera, seen from the support: both are 0.48 m from the axis
    assert np.allclose(T[:3, 3], rotation @ [centre, 0, 0] - [centre, 0, 0], atol=1e-6)


def test_without_poses_of_all_sequences_there_are_no_motions(root):
    sequence(root, "01")
    (root / "poses" / "01.txt").unlink()
    dataset = odometry(root)
    assert {dataset.describe(i)[:2] for i in range(len(dataset))} == {"00", "01"}
    assert "Ts_true" not in dataset[0]
    assert any("no Ts_true" in note for note in dataset.notes())


def test_without_split_files_zhou_decides_about_sequences_and_the_rule_about_frames(tmp_path):
    for name in ("00", "08", "09", "11"):
        sequence(tmp_path, name, cameras=(2,), num_frames=40)
    found = {}
    for mode in ("train", "val", "test"):
        dataset = odometry(tmp_path, mode=mode, val_every=10)
        found[mode] = {dataset.describe(i).rpartition("/")[0] for i in range(len(dataset))}
        assert dataset.check() == []
    assert found == {"train": {"00/l", "08/l"}, "val": {"00/l", "08/l"}, "test": {"09/l"}}


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("06", "test", r"09 and 10 for test \(arXiv:1704\.07813\).*There are: 06.*test\.split_file.*--mode val"),
        ("09", "train", r"00 to 08 for train \(arXiv:1704\.07813\).*There are: 09.*train\.split_file"),
    ],
)
def test_sequences_of_a_mode_that_are_not_here_are_named_with_the_ways_out(tmp_path, name, mode, message):
    sequence(tmp_path, name, cameras=(2,))
    with pytest.raises(UserError, match=message):
        odometry(tmp_path, mode=mode)
    part = {"type": "kitti_odom", "root": str(tmp_path)}
    with pytest.raises(UserError, match=rf"datasets\.drives: .*{message}") as caught:
        DATASETS.create("mixed", datasets={"drives": part}, mode=mode)
    assert f" dataset.datasets.drives.{mode}.split_file" in str(caught.value)


def test_a_split_folder_is_found_beside_the_data_and_others_are_listed(root):
    where = root / "splits" / "odom"
    where.mkdir(parents=True)
    (where / "train_files.txt").write_text("0 2 l\n")
    assert len(odometry(root, split="odom")) == 1
    with pytest.raises(UserError, match=r"'odom' has no val_files.txt, only train_files.txt. Looked in .*\. Or"):
        odometry(root, split="odom", mode="val")


# Ground truth from LiDAR


def test_lidar_is_projected_into_the_camera(root):
    scan = root / "sequences" / "00" / "velodyne" / "000001.bin"
    scan.parent.mkdir()
    np.array([[10, 0, 0, 0.5]], np.float32).tofile(scan)  # straight ahead
    dataset = odometry(root, depth_size=None, pictures="grey")
    depth = dataset[0]["depth"]
    assert depth.shape == (1, HEIGHT, WIDTH)
    assert depth[0, 9, 19] == 10  # principal point (20, 10) counted from 1
    assert depth.count_nonzero() == 1
    assert dataset[0]["K_depth"].tolist() == [[20, 0, 20], [0, 20, 10], [0, 0, 1]]
    assert not dataset[1]["depth"].any()  # no scan


def test_without_lidar_there_is_no_depth_and_this_is_named(root):
    dataset = odometry(root)
    assert "depth" not in dataset[0]
    assert dataset.use_depth is False
    assert any("no ground-truth depth" in note for note in dataset.notes())


# Mistakes


def test_everything_missing_is_listed_at_once(root):
    given = split(root, "0 5 l", "0 1 x", "7 1 l")
    problems = odometry(root, **given).check()
    path = given["split_file"]
    assert f"{path}:2: '0 1 x': expected" in problems[0]
    assert problems[1] == "there are no pictures of '07/l': 3 frames are missing. Known: 00/l"
    assert f"{path}:1: support +1 00/l/6 is missing" in problems[2]
    assert any("sequences/07/calib.txt cannot be read" in line for line in problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P0: 1 2 3\n", ""),
        ("P0: a b\n", ""),
        ("P0: 1 0 0 0 0 1 0 0 0 0 1 0\n", ""),
        (CALIB.replace("P2: 20 0 20", "P2: nan 0 20"), ": P2 is not finite"),
        (CALIB.replace("P2: 20 0 20", "P2: 0 0 20"), ": P2 is no camera"),
        (CALIB.replace("P2: 20 0 20", "P2: -20 0 20"), ": P2 is no camera"),
    ],
)
def test_calibration_that_is_none_or_lacks_the_camera_is_named(root, text, message):
    path = root / "sequences" / "00" / "calib.txt"
    path.write_text(text)
    (problem,) = odometry(root).check()
    assert f"{path}{message}" in problem


def test_wrong_options_are_refused(root):
    with pytest.raises(UserError, match="auto, colour, grey"):
        odometry(root, pictures="color")
    with pytest.raises(UserError, match="no depth hints"):
        odometry(root, use_hints=True)
    with pytest.raises(UserError, match="KITTI odometry was not found"):
        odometry(root / "poses")


def test_fewer_poses_than_frames_are_named_before_training(root):
    rows = (root / "poses" / "00.txt").read_text().splitlines()
    (root / "poses" / "00.txt").write_text("\n".join(rows[:5]))
    (problem,) = odometry(root).check()
    assert "has 5 poses, none of frame 5" in problem


def test_a_broken_line_of_poses_is_named(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("1 0 0 0 0 1 0 0 0 0 1 0\n1 2 three\n")
    with pytest.raises(DataError, match=r"p\.txt:2: expected 12 or 16 numbers"):
        read_poses(path)


# The real recording


def test_real_sequence(shared_data):
    dataset = DATASETS.create(
        "kitti_odom", root=str(shared_data), split_file=str(shared_data / "splits/kitti_odom/train_files.txt")
    )
    assert (len(dataset), dataset.check()) == (49, [])
    item = dataset[0]
    K = read_rig(shared_data / "kitti_odom/sequences/06/calib.txt").K(0)
    assert torch.allclose(item["K"][0], torch.tensor(K[0] * 640 / 1226, dtype=torch.float32))
    assert torch.allclose(item["K"][1], torch.tensor(K[1] * 192 / 370, dtype=torch.float32))
    assert torch.equal(item["target"][0], item["target"][1])  # grey
    ahead = item["Ts_true"][:, 2, 3]
    assert ahead.tolist() == pytest.approx([1.2, -1.2], abs=0.03)  # 43 km/h at 10 Hz


@pytest.mark.parametrize("pose", ["1 0 0 0 0 1 0 0 0 0 1 nan", "0 0 0 0 0 0 0 0 0 0 0 2", "nan 0 0 0 0 1 0 0 0 0 1 2"])
def test_a_pose_that_is_no_motion_is_named_before_training(root, pose):
    path = root / "poses" / "00.txt"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:2], pose, *rows[3:]]))
    (problem,) = odometry(root).check()
    assert f"{path}: the pose of frame 2 (and 0 more) is no motion" in problem


def test_scans_that_are_cut_short_or_not_finite(root, caplog):
    folder = root / "sequences" / "00" / "velodyne"
    folder.mkdir()
    path = folder / "000001.bin"
    np.array([[10, 0, 0, 1], [np.nan, 0, 0, 1]], np.float32).tofile(path)
    dataset = odometry(root, depth_size=None)
    assert dataset.check() == []
    assert dataset[0]["depth"].unique().tolist() == [0, 10]
    assert f"{path}: 1 of 2 points are NaN or infinite" in caplog.text
    path.write_bytes(path.read_bytes()[:20])
    (problem,) = odometry(root).check()
    assert f"{path} is not a LiDAR scan: 20 bytes" in problem
    assert odometry(root, use_depth=False).check() == []
