"""KITTI raw: what is wrong with splits, files and calibration is message before training; broken items are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data.made_kitti import (
    CAM_TO_CAM,
    DATE,
    DRIVE,
    HEIGHT,
    WIDTH,
    annotate,
    cut,
    frame,
    kitti,
    picture,
    write_hints,
    write_lines,
    write_raw,
)
from trainer.data.files import damage
from trainer.data.files.depth import read_annotated
from trainer.data.files.scans import read_points
from trainer.runtime.errors import DataError, UserError


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "kitti_raw")


# Splits


def test_an_unknown_split_names_places_and_the_nearest(raw):
    with pytest.raises(UserError, match=r"'minni' has no train_files\.txt") as caught:
        kitti(raw, split="minni")
    assert f"Looked in {raw}/splits, {raw.parent}/splits" in str(caught.value)
    assert "Did you mean 'mini'? Known: mini." in str(caught.value)  # what one can type
    with pytest.raises(UserError, match=r"has no val_files\.txt, only train_files\.txt\. .*\. Or name a file"):
        kitti(raw, mode="val")
    write_lines(raw.parent / "splits" / "near" / "val_files.txt", f"{DRIVE} 3 l")
    assert kitti(raw, split="near", mode="val").describe(0) == f"{DRIVE}/image_02/0000000003"


def test_byte_order_marks_blank_lines_and_leading_zeros_do_not_matter(raw):
    path = raw / "s.txt"
    path.write_bytes(b"\xef\xbb\xbf" + f"{DRIVE} 0000000001 l\r\n\n{DRIVE} 1 l".encode())
    dataset = kitti(raw, split_file=str(path))
    assert dataset.check() == []
    assert dataset.describe(0) == dataset.describe(1) == f"{DRIVE}/image_02/0000000001"


def test_an_absent_or_empty_split_file_is_an_error(raw):
    path = raw / "s.txt"
    for _ in range(2):
        with pytest.raises(UserError, match=r"s\.txt: the split file (cannot be read|has no lines)"):
            kitti(raw, split_file=str(path))
        path.write_text("\n\n")


def test_bad_lines_are_all_reported_with_place_and_expectation(raw):
    bad = ["image 7", f"{DRIVE} x l", f"{DRIVE} 1 m", "6 1 l", f"{DRIVE} 1"]
    path = write_lines(raw / "s.txt", f"{DRIVE} 1 l", *bad)
    dataset = kitti(raw, split_file=path)
    assert dataset.check() == [
        f'{path}:{number}: {line!r}: expected "<date>/<drive> <frame> <l|r>"' for number, line in enumerate(bad, 2)
    ]
    with pytest.raises(DataError, match=r"s\.txt:2: 'image 7': expected"):  # never left out in silence
        dataset[1]
    write_lines(raw / "s.txt", *[f"image {i}" for i in range(50)])
    problems = kitti(raw, split_file=path).check()
    assert len(problems) == 21
    assert problems[-1] == "... and 30 more bad lines"


def test_check_finds_missing_targets_and_supports(raw):
    frame(raw, DRIVE, 2, 0).unlink()
    path = write_lines(raw / "s.txt", f"{DRIVE} 1 l", f"{DRIVE} 4 r", f"{DRIVE} 9 l")
    *problems, total = kitti(raw, split_file=path, supp_idxs=[-1, 1, 0]).check()
    assert total == "3 of 3 items are incomplete: `monodepth prepare kitti check` lists what is missing"
    assert [problem.partition(" is missing")[0] for problem in problems] == [
        f"{path}:1: support -1 {DRIVE}/image_02/0000000000",
        f"{path}:2: support +1 {DRIVE}/image_03/0000000005",
        f"{path}:3: target {DRIVE}/image_02/0000000009",
        f"{path}:3: support -1 {DRIVE}/image_02/0000000008",
        f"{path}:3: support +1 {DRIVE}/image_02/0000000010",
        f"{path}:3: support +0 {DRIVE}/image_03/0000000009",
    ]


def test_a_frame_before_the_first_is_missing(raw):
    path = write_lines(raw / "s.txt", f"{DRIVE} 0 l")
    dataset = kitti(raw, split_file=path, supp_idxs=[-1])
    problem, total = dataset.check()
    assert f"support -1 {DRIVE}/image_02 before the first frame is missing" in problem
    assert total.startswith("1 of 1 item is incomplete")
    with pytest.raises(DataError, match=r"support -1 .*/image_02 before the first frame is missing"):
        dataset[0]


@pytest.mark.parametrize("mode", ["val", "test"])
def test_frames_to_validate_on_can_do_without_neighbours_and_say_so(raw, mode):
    way_out = (
        f"Depth of {mode} frames needs no neighbours: dataset.{mode}.supp_idxs: null. Clips, poses and camera paths"
        " need them whatever it says: leave these items, mostly the ends of drives, out of the split"
    )
    path = write_lines(raw / "s.txt", f"{DRIVE} 2 l", f"{DRIVE} 0 l", f"{DRIVE} 9 l")
    assert kitti(raw, split_file=path, mode=mode).check()[-1] == (
        f"2 of 3 items are incomplete: `monodepth prepare kitti check` lists what is missing. {way_out}"
    )
    assert way_out not in kitti(raw, split_file=path).check()[-1]
    write_lines(raw / "s.txt", f"{DRIVE} 9 l")  # lacks its target, too
    assert way_out not in kitti(raw, split_file=path, mode=mode).check()[-1]


@pytest.mark.parametrize(("supports", "instead"), [([-1, 1, 0], "[-1, 1]"), ([0], "[-1, 1]")])
def test_a_drive_of_the_left_camera_alone_is_used_without_its_partner(raw, supports, instead):
    shutil.rmtree(frame(raw, DRIVE, 3, 0).parent)
    path = write_lines(raw / "s.txt", f"{DRIVE} 1 l", f"{DRIVE} 2 l")
    way_out = f"without them: dataset.supp_idxs={instead}"
    assert kitti(raw, split_file=path, supp_idxs=supports).check()[-1].endswith(way_out)
    frame(raw, DRIVE, 2, 1).unlink()  # a target is missing, too
    assert "without them" not in kitti(raw, split_file=path, supp_idxs=supports).check()[-1]


def test_an_absent_drive_is_one_problem(raw):
    other = f"{DATE}/{DATE}_drive_0099_sync"
    path = write_lines(raw / "s.txt", *[f"{other} {i} l" for i in range(1, 31)])
    problem, total = kitti(raw, split_file=path).check()
    assert total.startswith("30 of 30 items are incomplete")
    assert problem == f"{raw}/{other}/image_02/data does not exist or is empty: 90 frames are missing"


def test_check_reads_the_calibration_that_items_need(raw):
    path = raw / DATE / "calib_cam_to_cam.txt"
    path.write_text(CAM_TO_CAM.replace("P_rect_02: 20 ", "P_rect_02: "))
    (problem,) = kitti(raw).check()
    assert "calib_cam_to_cam.txt: P_rect_02 has 11 numbers, expected 12" in problem
    (raw / DATE / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\n")
    path.write_text(CAM_TO_CAM)
    (problem,) = kitti(raw).check()
    assert "calib_velo_to_cam.txt: T is missing, expected 3" in problem
    path.unlink()
    (problem,) = kitti(raw, use_depth=False, intrinsics="calibrated").check()
    assert "calib_cam_to_cam.txt cannot be read" in problem
    assert kitti(raw, use_depth=False).check() == []  # nobody needs it


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("S_rect_02: 40 12", "S_rect_02: nan 12", "not all numbers are finite"),
        ("S_rect_02: 40 12", "S_rect_02: 0 12", "S_rect must be"),
        ("S_rect_03: 40 12", "S_rect_03: 1e9 12", "S_rect must be"),
        ("P_rect_02: 20", "P_rect_02: inf", "not all numbers are finite"),
        ("P_rect_03: 20", "P_rect_03: -20", "positive focal lengths"),
        ("R_rect_00: 1 0 0", "R_rect_00: 1 1 0", "must be rotations"),
    ],
)
def test_a_calibration_that_is_none_is_named_before_training(raw, name, wrong, message):
    text = CAM_TO_CAM.replace(name, wrong)
    assert text != CAM_TO_CAM
    (raw / DATE / "calib_cam_to_cam.txt").write_text(text)
    (problem,) = kitti(raw).check()
    assert f"{raw}/{DATE}/calib_cam_to_cam.txt or calib_velo_to_cam.txt is damaged: " in problem
    assert message in problem


# Broken items


@pytest.mark.parametrize("keep", [0, 60])
def test_check_finds_pictures_that_are_cut_short(raw, keep):
    target, support = cut(frame(raw, DRIVE, 2, 1), keep), cut(frame(raw, DRIVE, 2, 0), keep)
    cut(frame(raw, DRIVE, 2, 4), keep)  # no item needs it
    problems = kitti(raw).check()
    assert [problem.partition(" is ")[0] for problem in problems] == [str(target), str(support)]


@pytest.mark.parametrize("keep", [0, 8, 31])
def test_check_finds_scans_that_are_cut_short(raw, keep):
    path = cut(raw / DRIVE / "velodyne_points" / "data" / f"{2:010d}.bin", keep)
    split = write_lines(raw / "s.txt", f"{DRIVE} 2 l", f"{DRIVE} 2 r")
    (problem,) = kitti(raw, split_file=split).check()  # once, though two items have this scan
    assert f"{path} is {f'not a LiDAR scan: {keep} bytes' if keep else 'empty'}" in problem
    assert kitti(raw, use_depth=False).check() == []
    with pytest.raises(DataError, match=f"{path} is not a LiDAR scan: {keep} bytes"):
        kitti(raw)[1]


def test_check_finds_hints_and_annotated_depth_that_are_cut_short(raw):
    write_hints(raw / "depth_hints", 1, 2, np.ones((3, 4), np.float32))
    hints = cut(write_hints(raw / "depth_hints", 2, 3, np.ones((3, 4), np.float32)), 150)
    depth = cut(annotate(raw, np.full((HEIGHT, WIDTH), 256, np.uint16)), 50)
    problems = kitti(raw, use_hints=True, use_benchmark=True).check()
    assert [problem.partition(" is ")[0] for problem in problems] == [str(depth), str(hints)]


def test_files_that_there_was_no_time_for_are_counted(raw, monkeypatch):
    monkeypatch.setattr(damage, "_SECONDS", -1)
    cut(frame(raw, DRIVE, 2, 1), 60)
    dataset = kitti(raw, use_depth=False)
    assert dataset.check() == []
    assert dataset.notes()[0].startswith("no time to check 6 files")


def test_a_folder_that_cannot_be_listed_is_named_once(raw):
    folder = raw / DRIVE / "image_02" / "data"
    shutil.rmtree(folder)
    folder.symlink_to("data")  # to itself
    (problem,) = kitti(raw).check()
    assert f"{folder} cannot be listed" in problem
    with pytest.raises(DataError, match="cannot be listed"):
        kitti(raw)[0]


def test_a_truncated_picture_names_file_item_and_stem_and_is_replaced_in_training(raw, caplog):
    path = frame(raw, DRIVE, 3, 3)
    path.write_bytes(path.read_bytes()[:60])
    dataset = kitti(raw)
    with pytest.raises(DataError, match="is not a readable picture") as caught:
        dataset[1]
    for part in (str(path), "again", f"[item 1 of train: {DRIVE}/image_03/0000000002]"):
        assert part in str(caught.value)
    (item,) = dataset.__getitems__([(0, 1)])
    assert item["index"] == 0
    assert "Another item takes its place (1 of 2 items so far)" in caplog.text


def test_a_missing_support_names_role_and_folder(raw):
    frame(raw, DRIVE, 2, 2).unlink()
    with pytest.raises(DataError, match=r"support \+1 .*/image_02/0000000002 is missing.*Complete the drive"):
        kitti(raw)[0]


def test_scans_and_depth_maps_that_are_none_are_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_points(str(tmp_path))
    picture(tmp_path / "d.png", 3)
    with pytest.raises(DataError, match=r"d\.png is no depth map: expected 16-bit grey, got uint8"):
        read_annotated(str(tmp_path / "d.png"))
    (tmp_path / "d.png").write_text("x")
    with pytest.raises(DataError, match=r"d\.png is not a readable depth map"):
        read_annotated(str(tmp_path / "d.png"))
