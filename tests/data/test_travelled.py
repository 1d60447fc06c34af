"""How far the camera moved: from true motions, KITTI's records, and files of users; what cannot know is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.clips import frames
from tests.data.made_kitti import DRIVE, kitti, write_lines, write_raw
from tests.data.test_kitti_odom import odometry, sequence
from trainer.data import DATASETS
from trainer.data.clips.clips import Clip
from trainer.data.clips.speeds import Speeds, read_speeds
from trainer.runtime.errors import UserError


def synthetic(**options):
    return DATASETS.create("synthetic", size=(64, 64), num_items=4, **options)


def test_synthetic_drives_know_their_motion_and_the_stereo_partner_is_no_way():
    item = synthetic(supp_idxs=[-1, 0, 1], use_speed=True)[1]
    lengths = item["Ts_true"][:, :3, 3].norm(dim=1)
    assert item["travelled"].dtype == torch.float32
    assert item["travelled"].tolist() == pytest.approx([lengths[0].item(), 0, lengths[2].item()])
    assert "travelled" not in synthetic(supp_idxs=[-1, 0, 1])[1]
    mirrored = [synthetic(supp_idxs=[-1, 1], use_speed=True, use_aug=True, seed=seed)[1] for seed in range(4)]
    assert all(torch.allclose(one["travelled"], mirrored[0]["travelled"]) for one in mirrored)


def test_a_data_set_that_cannot_know_is_refused():
    with pytest.raises(UserError, match=r"dataset\.use_speed: this data set does not know"):
        DATASETS.create("syns_patches", use_speed=True)


def test_odometry_measures_its_poses(tmp_path):
    sequence(tmp_path, "00")  # 1 m per frame
    assert odometry(tmp_path, supp_idxs=[-1, 2], use_speed=True)[0]["travelled"].tolist() == pytest.approx([1, 2])
    (tmp_path / "poses" / "00.txt").unlink()
    with pytest.raises(UserError, match="has no poses of sequence 00"):
        odometry(tmp_path, use_speed=True)


def recorded(raw, speeds, seconds):
    folder = raw / DRIVE / "oxts"
    (folder / "data").mkdir(parents=True)
    for number, speed in speeds.items():
        values = np.zeros(30)
        values[8:11] = 0.6 * speed, 0.8 * speed, 0
        (folder / "data" / f"{number:010d}.txt").write_text(" ".join(map(str, values)))
    stamps = [f"2011-09-26 13:02:{second:012.9f}" for second in seconds]
    (folder / "timestamps.txt").write_text("\n".join(stamps))


def test_kitti_takes_mean_speed_times_time(tmp_path):
    raw = write_raw(tmp_path / "kitti_raw")
    split = write_lines(tmp_path / "split.txt", f"{DRIVE} 1 l", f"{DRIVE} 1 r")
    recorded(raw, {0: 10.0, 1: 12.0}, [25.0, 25.1, 25.2])
    dataset = kitti(raw, split_file=split, supp_idxs=[-1, 1], use_depth=False, use_speed=True)
    assert dataset[0]["travelled"].tolist() == pytest.approx([11 * 0.1, 0])  # frame 2 has no record
    assert dataset[1]["travelled"].tolist() == dataset[0]["travelled"].tolist()
    assert not [line for line in dataset.check() if "oxts" in line]


def test_kitti_without_any_record_is_a_problem(tmp_path):
    raw = write_raw(tmp_path / "kitti_raw")
    split = write_lines(tmp_path / "split.txt", f"{DRIVE} 1 l")
    dataset = kitti(raw, split_file=split, use_depth=False, use_speed=True)
    assert [line for line in dataset.check() if "oxts/timestamps.txt" in line]
    assert "1 of 1 items have no record of the speed" in dataset.notes()


def folder(path, **options):
    return DATASETS.create("folder", path=str(path), size=(20, 10), val_every=0, use_speed=True, **options)


@pytest.mark.parametrize(
    ("text", "fps"),
    [
        ("0,10\n1,12\n2,-14", 10.0),
        ("frame, m/s, s\n000000.png, 10, 5.0\n000001.png, 12, 5.1\n000002, 14, 5.2", None),
        ("# by hand\nclip/0 10 5.0\nclip/1 12 5.1\nclip/2 14 5.2", None),
    ],
)
def test_a_file_of_speeds_has_one_line_per_frame(tmp_path, text, fps):
    frames(tmp_path / "clip", range(4))
    (tmp_path / "clip" / "speeds.csv").write_text(text)
    dataset = folder(tmp_path / "clip", speeds="speeds.csv", fps=fps)
    assert dataset.check() == []
    assert dataset[0]["travelled"].tolist() == pytest.approx([1.1, 1.3])
    assert dataset[1]["travelled"].tolist() == pytest.approx([1.3, 0])
    plain = DATASETS.create("folder", path=str(tmp_path / "clip"), size=(20, 10), val_every=0, speeds="not read")
    assert "travelled" not in plain[0]


def test_supports_far_away_and_steps_of_numbers():
    clip = Clip("a", {n: f"a/{n}.png" for n in (0, 5, 10)}, step=5)
    speeds = Speeds(None, {"0": (10.0, None), "10": (20.0, None)}, fps=10.0)
    assert speeds.way(clip, 0, 10) == pytest.approx(15 * 0.2)
    assert speeds.way(clip, 0, 5) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1,1\n1,fast,2", "speeds.csv:2: '1,fast,2': expected"),
        ("0,1,1\n1,inf,2", "speeds.csv:2"),
        ("0,1,1\n1,1,2,3", "speeds.csv:2"),
        ("0,1,1\n0,1,2", "speeds.csv:2: 0 has a line before"),
        ("0,1", "speeds.csv:1: 0 has no time. Add a third column of seconds, or set dataset.fps"),
        ("", "the file of speeds has no lines"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    (tmp_path / "speeds.csv").write_text(text)
    with pytest.raises(UserError) as error:
        read_speeds(tmp_path / "speeds.csv", None)
    assert message in str(error.value)


def test_what_a_folder_needs_to_know_is_asked_for(tmp_path):
    frames(tmp_path / "clip", range(4))
    with pytest.raises(UserError, match=r"needs dataset\.speeds"):
        folder(tmp_path / "clip")
    with pytest.raises(UserError, match="there is no file"):
        folder(tmp_path / "clip", speeds="none.csv")
    (tmp_path / "clip" / "speeds.csv").write_text("17,3\n18,3")
    with pytest.raises(UserError, match=r"dataset\.fps must be"):
        folder(tmp_path / "clip", speeds="speeds.csv", fps=0.0)
    problems = folder(tmp_path / "clip", speeds="speeds.csv", fps=25.0).check()
    assert len(problems) == 1
    assert "no line is about a frame of" in problems[0]
