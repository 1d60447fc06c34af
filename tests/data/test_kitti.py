"""KITTI raw: files are found; pictures, cameras, ground truth and hints are those that a line asks for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.made_kitti import (
    CAM_TO_CAM,
    DATE,
    DRIVE,
    HEIGHT,
    JPG_DRIVE,
    VELO_TO_CAM,
    WIDTH,
    annotate,
    frame,
    grey,
    kitti,
    picture,
    write_hints,
    write_lines,
    write_raw,
)
from trainer.data import DATASETS
from trainer.data.files.depth import resize_nearest
from trainer.runtime.errors import DataError, UserError


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "kitti_raw")


def test_target_and_supports_are_the_frames_that_the_line_asks_for(raw):
    dataset = kitti(raw, supp_idxs=[-1, 1, 0])
    assert dataset.check() == []
    assert len(dataset) == 2
    item = dataset[1]  # frame 2 of the right camera
    assert grey(item["target"]) == 83
    assert [grey(support) for support in item["supports"]] == [43, 123, 82]
    assert item["target"].shape == (3, 6, 20)
    assert dataset.describe(1) == f"{DRIVE}/image_03/0000000002"


def test_the_first_process_of_a_machine_looks_for_files_and_the_others_list_folders(raw, monkeypatch):
    frame(raw, DRIVE, 3, 2).unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "0000000002 is missing" in kitti(raw, supp_idxs=[0]).check()[0]
    monkeypatch.setenv("LOCAL_RANK", "1")
    dataset = kitti(raw, supp_idxs=[0])
    assert dataset.check() == []
    monkeypatch.setattr(os, "scandir", None)  # workers inherit the listings
    assert grey(dataset[0]["target"]) == 42


def test_jpeg_drives_are_read_like_png_drives(raw):
    picture(frame(raw, DRIVE, 2, 1, ".jpg"), 255)
    assert grey(kitti(raw)[0]["target"]) == 42  # PNG wins where a frame has both
    dataset = kitti(raw, split_file=write_lines(raw / "s.txt", f"{JPG_DRIVE} 3 l"), supp_idxs=[-1, 0])
    assert dataset.check() == []
    item = dataset[0]
    assert grey(item["target"]) == pytest.approx(122, abs=1)
    assert [grey(support) for support in item["supports"]] == pytest.approx([82, 123], abs=1)


def test_the_stereo_partner_lies_on_the_other_side(raw):
    dataset = kitti(raw, supp_idxs=0)
    assert dataset[0]["T_stereo"][0, 3] == pytest.approx(-0.1)  # from the left camera
    assert dataset[1]["T_stereo"][0, 3] == pytest.approx(0.1)
    rest = dataset[0]["T_stereo"].clone()
    rest[0, 3] = 0
    assert torch.equal(rest, torch.eye(4))
    assert "T_stereo" not in kitti(raw, supp_idxs=[-1, 1])[0]


def test_average_intrinsics_follow_the_size(raw):
    expected = torch.tensor([[0.58 * 640, 0, 320], [0, 1.92 * 192, 96], [0, 0, 1]])
    assert torch.allclose(kitti(raw, size=(640, 192))[0]["K"], expected)


def test_calibrated_intrinsics_are_those_of_the_recording_scaled(raw):
    K = kitti(raw, intrinsics="calibrated")[0]["K"]  # 40 x 12 pixels become 20 x 6
    assert K.tolist() == [[10, 0, 10], [0, 10, 3], [0, 0, 1]]


RIGHT = CAM_TO_CAM.replace("P_rect_03: 20 0 20 -10 0 20 6 0", "P_rect_03: 30 0 18 -15 0 28 5 0")


@pytest.mark.parametrize(("size", "x", "y"), [(None, 1, 1), ([80, 24], 2, 2), ([60, 12], 1.5, 1)])
def test_the_depth_map_has_the_rectified_camera_of_its_side(raw, size, x, y):
    (raw / DATE / "calib_cam_to_cam.txt").write_text(RIGHT)
    left, right = (kitti(raw, depth_size=size)[i]["K_depth"] for i in (0, 1))
    # Frame 1 has no scan, but a camera.
    assert left.tolist() == [[20 * x, 0, 20 * x], [0, 20 * y, 6 * y], [0, 0, 1]]
    assert right.tolist() == [[30 * x, 0, 18 * x], [0, 28 * y, 5 * y], [0, 0, 1]]
    assert "K_depth" not in kitti(raw, use_depth=False)[0]


def test_mirroring_an_item_mirrors_the_camera_of_its_depth_map(raw):
    (raw / DATE / "calib_cam_to_cam.txt").write_text(RIGHT)
    dataset = kitti(raw, use_aug=True, depth_size=None, supp_idxs=0)
    items = [dataset[epoch, 1] for epoch in range(16)]
    mirrored = {bool(item["T_stereo"][0, 3] < 0): item for item in items}
    assert {flip: float(item["K_depth"][0, 2]) for flip, item in mirrored.items()} == {False: 18, True: 21}
    assert {flip: float(item["K"][0, 2]) for flip, item in mirrored.items()} == {False: 10, True: 9}
    assert torch.equal(mirrored[True]["depth"].flip(-1), mirrored[False]["depth"])


def test_annotated_depth_without_calibration_takes_the_average_camera_and_says_so(raw):
    annotate(raw, np.full((HEIGHT, WIDTH), 256, np.uint16))
    (raw / DATE / "calib_cam_to_cam.txt").unlink()
    dataset = kitti(raw, use_benchmark=True, depth_size=None, supp_idxs=None)
    assert dataset.check() == []
    expected = torch.tensor([[0.58 * 40, 0, 20], [0, 1.92 * 12, 6], [0, 0, 1]])
    assert torch.allclose(dataset[1]["K_depth"], expected)
    assert dataset.notes()[-1] == (
        "2 of 2 items have no calibration (2011_09_26): metrics on point clouds take the average camera for them"
    )
    assert kitti(raw, use_depth=False).notes() == []


def test_lidar_depth_of_an_item_and_zeros_without_a_scan(raw):
    dataset = kitti(raw, depth_size=None)
    assert dataset[0]["depth"].shape == (1, 12, 40)
    assert not dataset[0]["depth"].any()  # frame 1 has no scan
    # Frame 2 right: u = 20 - 10 / 5 = 18, counted from 1. The farther point falls on column 18 = 19 - 1.
    assert dataset[1]["depth"][0, 5, 17] == 5
    assert dataset[1]["depth"][0, 5, 18] == 10
    assert dataset.notes() == ["1 of 2 items have no LiDAR scan: their depth maps are empty"]
    assert kitti(raw, use_depth=False).notes() == []


def test_depth_may_be_metres_ahead_of_the_lidar(raw):
    (raw / DATE / "calib_velo_to_cam.txt").write_text(VELO_TO_CAM.replace("T: 0 0 0", "T: 0 0 -1"))
    axis, ahead = (kitti(raw, depth_size=None, depth_along=along) for along in ("optical_axis", "lidar_x"))
    assert torch.equal(axis[1]["depth"].unique(), torch.tensor([0.0, 4, 9]))
    assert torch.equal(ahead[1]["depth"].unique(), torch.tensor([0.0, 5, 10]))
    assert torch.equal(axis[1]["depth"] > 0, ahead[1]["depth"] > 0)
    assert axis.truth == "LiDAR, metres along the optical axis"
    assert ahead.truth == "LiDAR, metres ahead of the scanner"


def test_annotated_depth_is_along_the_optical_axis_only(raw):
    with pytest.raises(UserError, match=r"depth_along: lidar_x is about LiDAR scans.*use_benchmark: true"):
        kitti(raw, use_benchmark=True, depth_along="lidar_x")
    with pytest.raises(UserError, match=r"dataset\.depth_along 'x' is not one of optical_axis, lidar_x"):
        kitti(raw, depth_along="x")
    with pytest.raises(UserError, match="'real' is not one of average, calibrated"):
        kitti(raw, intrinsics="real")
    annotate(raw, np.zeros((HEIGHT, WIDTH), np.uint16))
    assert kitti(raw, use_benchmark=True).truth == "annotated depth (arXiv:1708.06500)"


def test_points_that_are_not_finite_are_left_out_with_one_warning(raw, caplog):
    path = raw / DRIVE / "velodyne_points" / "data" / f"{2:010d}.bin"
    whole = kitti(raw, depth_size=None)[1]["depth"]
    nonsense = [[np.nan, 0, 0, 0], [5, np.inf, 0, 0], [np.inf, 0, 0, 0], [-np.inf, np.nan, 1, 0]]
    np.append(np.fromfile(path, np.float32), np.array(nonsense, np.float32)).tofile(path)
    dataset = kitti(raw, depth_size=None)
    assert torch.equal(dataset[1]["depth"], whole)
    assert torch.equal(dataset[1]["depth"], whole)
    assert caplog.text.count(f"{path}: 4 of 6 points are NaN or infinite: left out") == 1


def test_depth_size_makes_all_maps_alike(raw):
    dataset = kitti(raw, depth_size=[80, 24])
    assert dataset[0]["depth"].shape == dataset[1]["depth"].shape == (1, 24, 80)
    assert dataset[1]["depth"][0, 10:12, 34:36].eq(5).all()  # one pixel became four
    assert kitti(raw)[0]["depth"].shape == (1, 376, 1242)


def test_nearest_resize_takes_values_and_invents_none():
    depth = np.array([[1.0, 0.0, 3.0, 4.0]], np.float32)
    assert resize_nearest(depth, (4, 1)).tolist() == depth.tolist()
    assert resize_nearest(depth, (8, 1)).tolist() == [[1, 1, 0, 0, 3, 3, 4, 4]]
    # Centres 1 and 3 belong to the pixel that begins there.
    assert resize_nearest(depth, (2, 1)).tolist() == [[0, 4]]


@pytest.mark.parametrize("layout", [f"depth_benchmark/{DATE}", "kitti_depth/train", "kitti_depth/val"])
def test_annotated_depth_in_every_layout(raw, layout):
    base = raw if layout.startswith("depth_benchmark") else raw.parent
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    values[3, 4] = 2560 + 128
    annotate(base, values, layout)
    for depth_root in (None, str(base / layout.split("/")[0]), str(base)):
        dataset = kitti(raw, use_benchmark=True, depth_size=None, depth_root=depth_root)
        assert dataset[1]["depth"][0, 3, 4] == 10.5
        assert dataset[1]["depth"].count_nonzero() == 1
        assert not dataset[0]["depth"].any()
        assert dataset.notes() == ["1 of 2 items have no annotated depth: their depth maps are empty"]


def test_missing_annotated_depth_lists_where_it_was_looked_for(raw):
    with pytest.raises(UserError, match="KITTI annotated depth was not found") as caught:
        kitti(raw, use_benchmark=True)
    assert str(raw) in str(caught.value)
    assert "Set dataset.depth_root to a folder that is or contains kitti_depth_benchmark" in str(caught.value)
    kitti(raw, use_benchmark=True, use_depth=False)  # not wanted, not looked for


# Where the data lies


@pytest.mark.parametrize("place", ["in", "beside", "given"])
def test_hints_are_taken_by_nearest_neighbour(raw, tmp_path, place):
    root = {"in": raw, "beside": raw.parent, "given": tmp_path / "elsewhere"}[place] / "depth_hints"
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_hints(root, 1, 2, values)
    write_hints(root, 2, 3, values)
    options = {"hints_root": str(root.parent)} if place == "given" else {}
    dataset = kitti(raw, use_hints=True, size=(8, 6), **options)
    assert dataset.check() == []
    assert dataset[0]["depth_hints"][0].tolist() == values.repeat(2, 0).repeat(2, 1).tolist()


def test_missing_hints_are_counted_before_training(raw):
    with pytest.raises(UserError, match=r"Depth hints .* not found[\s\S]*Set dataset.hints_root"):
        kitti(raw, use_hints=True)
    write_hints(raw / "depth_hints", 1, 2, np.ones((3, 4), np.float32))
    (problem,) = kitti(raw, use_hints=True).check()
    assert problem.startswith("1 of 2 items have no depth hints, the first: ")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 4, 1), np.float32), r"expected floating-point depth hints \(h, w\)"),
        (np.full((3, 4), np.nan, np.float32), "must be finite and at least 0"),
        (np.array([[object()]]), "is not a readable array"),
        (b"\x93NUMPY cut", "is not a readable array"),
    ],
    ids=["three axes", "nan", "a pickle", "cut off"],
)
def test_broken_hints_are_named(raw, values, message):
    path = write_hints(raw / "depth_hints", 1, 2, [0.0] if isinstance(values, bytes) else values)
    if isinstance(values, bytes):
        path.write_bytes(values)
    with pytest.raises(DataError, match=message):
        kitti(raw, use_hints=True)[0]


def test_root_search_order(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONODEPTH_DATA", raising=False)
    with pytest.raises(UserError, match="KITTI raw data was not found") as caught:
        kitti(None)
    for name in ("data", "data/kitti_raw_sync", "data/kitti_raw"):
        assert f"  {tmp_path / name}  (working directory; does not exist)" in str(caught.value)
    assert "Set dataset.root, the environment variable MONODEPTH_DATA, or DATA_ROOTS" in str(caught.value)

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kitti_raw_sync").symlink_to(raw)
    assert kitti(None).raw == Path("data/kitti_raw_sync")
    (tmp_path / "PATHS.yaml").write_text(f"DATA_ROOTS: [nowhere, {raw.parent}]\n")
    assert kitti(None).raw == raw
    monkeypatch.setenv("MONODEPTH_DATA", os.pathsep.join(["nowhere", str(tmp_path / "data")]))
    assert kitti(None).raw == tmp_path / "data" / "kitti_raw_sync"
    assert kitti(raw.parent).raw == kitti(raw).raw == raw
    with pytest.raises(UserError, match=r"typo  \(dataset.root; does not exist\)"):  # nowhere else then
        kitti(raw.parent / "typo")


def test_a_home_folder_may_be_meant_and_need_not_exist(raw, monkeypatch):
    monkeypatch.setenv("HOME", str(raw.parent))
    split = write_lines(raw / "s.txt", f"{DRIVE} 3 l")
    dataset = DATASETS.create("kitti", root="~/kitti_raw", split_file="~/kitti_raw/s.txt", size=(20, 6))
    assert (str(dataset.split_file), len(dataset)) == (split, 1)
    with pytest.raises(UserError, match=r"~nobody_here/data  \(dataset.root; does not exist\)"):
        kitti(Path("~nobody_here/data"))


@pytest.mark.parametrize("text", ["DATA_ROOTS: 5", "- a", "DATA_ROOTS: [1]", "DATA_ROOTS: ["])
def test_a_broken_paths_file_is_named(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "PATHS.yaml").write_text(text)
    with pytest.raises(UserError, match=r"PATHS\.yaml"):
        kitti(None)


# The real recordings


def test_real_png_and_jpeg_drives_pass_their_check(shared_data):
    for name in ("kitti_raw", "kitti_raw_jpg"):
        dataset = kitti(shared_data / name, split=name, supp_idxs=[-1, 1, 0], size=(640, 192))
        assert dataset.check() == []
        item = dataset[0]
        assert item["target"].shape == (3, 192, 640)
        assert 0.2 < item["target"].mean() < 0.7
        assert not torch.equal(item["supports"][0], item["supports"][2])


def test_lidar_agrees_with_the_annotated_depth_of_the_same_frame(shared_data):
    path = str(shared_data / "splits" / "kitti_raw" / "benchmark_test_files.txt")
    options = {"split_file": path, "supp_idxs": None, "depth_size": None, "mode": "test"}
    lidar = kitti(shared_data / "kitti_raw", **options)
    annotated = kitti(shared_data / "kitti_raw", use_benchmark=True, **options)
    assert annotated.check() == annotated.notes() == []
    for index in (0, 3, 5):  # frames 5 left, 25 right, 45 right
        scan, truth = lidar[index]["depth"], annotated[index]["depth"]
        both = (scan > 0) & (truth > 0)
        relative = ((scan - truth).abs() / truth)[both]
        assert both.sum() > 5000
        assert relative.median() < 0.01
        assert (relative < 0.05).float().mean() > 0.95
