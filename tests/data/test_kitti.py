"""KITTI raw: files are found, lines are checked, LiDAR points land in the right pixels."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data import DATASETS, _damage
from trainer.data._depth_files import read_annotated, resize_nearest
from trainer.data._kitti_calib import project_points, read_calibration, read_points
from trainer.data.base import DataError
from trainer.types import UserError

DATE = "2011_09_26"
DRIVE = f"{DATE}/{DATE}_drive_0001_sync"
JPG_DRIVE = f"{DATE}/{DATE}_drive_0002_sync"
WIDTH, HEIGHT = 40, 12

CAM_TO_CAM = """calib_time: 09-Jan-2012 13:57:47
S_rect_02: 40 12
R_rect_00: 1 0 0 0 1 0 0 0 1
P_rect_02: 20 0 20 0 0 20 6 0 0 0 1 0
S_rect_03: 40 12
P_rect_03: 20 0 20 -10 0 20 6 0 0 0 1 0
"""
VELO_TO_CAM = """calib_time: 15-Mar-2012 11:37:16
R: 0 -1 0 0 0 -1 1 0 0
T: 0 0 0
"""


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), value, np.uint8)).save(path)


def frame(raw: Path, drive: str, camera: int, number: int, suffix: str = ".png") -> Path:
    return raw / drive / f"image_0{camera}" / "data" / f"{number:010d}{suffix}"


def write_lines(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A KITTI folder of two drives, frames 0-4: the grey level is 40 * frame + camera."""
    folder = tmp_path / "kitti_raw"
    for number in range(5):
        for camera in (2, 3):
            picture(frame(folder, DRIVE, camera, number), 40 * number + camera)
            picture(frame(folder, JPG_DRIVE, camera, number, ".jpg"), 40 * number + camera)
    (folder / DATE / "calib_cam_to_cam.txt").write_text(CAM_TO_CAM)
    (folder / DATE / "calib_velo_to_cam.txt").write_text(VELO_TO_CAM)
    scan = folder / DRIVE / "velodyne_points" / "data" / f"{2:010d}.bin"
    scan.parent.mkdir(parents=True)
    np.array([[10, 0, 0, 0.3], [5, 0, 0, 0.3]], np.float32).tofile(scan)  # both straight ahead
    write_lines(folder / "splits" / "mini" / "train_files.txt", f"{DRIVE} 1 l", f"{DRIVE} 0000000002 r")
    return folder


def kitti(raw: Path | None, **options):
    given = {"size": (20, 6), "split": "mini", **options}
    return DATASETS.create("kitti", root=None if raw is None else str(raw), **given)


def grey(image: torch.Tensor) -> int:
    return round(255 * float(image.mean()))


def test_target_and_supports_are_the_frames_that_the_line_asks_for(raw):
    dataset = kitti(raw, supp_idxs=[-1, 1, 0])
    assert dataset.check() == []
    assert len(dataset) == 2
    item = dataset[1]  # frame 2 of the right camera
    assert grey(item["target"]) == 83
    assert [grey(support) for support in item["supports"]] == [43, 123, 82]
    assert item["target"].shape == (3, 6, 20)
    assert dataset.describe(1) == f"{DRIVE}/image_03/0000000002"


def test_jpeg_drives_are_read_like_png_drives(raw):
    dataset = kitti(raw, split_file=write_lines(raw / "s.txt", f"{JPG_DRIVE} 3 l"), supp_idxs=[-1, 0])
    assert dataset.check() == []
    item = dataset[0]
    assert grey(item["target"]) == pytest.approx(122, abs=1)
    assert [grey(support) for support in item["supports"]] == pytest.approx([82, 123], abs=1)


def test_png_wins_where_a_frame_has_both(raw):
    picture(frame(raw, DRIVE, 2, 1, ".jpg"), 255)
    assert grey(kitti(raw)[0]["target"]) == 42


def test_the_stereo_partner_lies_on_the_other_side(raw):
    dataset = kitti(raw, supp_idxs=0)
    assert dataset[0]["T_stereo"][0, 3] == pytest.approx(-0.1)  # from the left camera
    assert dataset[1]["T_stereo"][0, 3] == pytest.approx(0.1)
    rest = dataset[0]["T_stereo"].clone()
    rest[0, 3] = 0
    assert torch.equal(rest, torch.eye(4))
    assert "T_stereo" not in kitti(raw, supp_idxs=[-1, 1])[0]


def test_average_intrinsics_follow_the_size(raw):
    K = kitti(raw, size=(640, 192))[0]["K"]
    assert K.tolist() == [
        pytest.approx([0.58 * 640, 0, 320]),
        pytest.approx([0, 1.92 * 192, 96]),
        [0, 0, 1],
    ]


def test_calibrated_intrinsics_are_those_of_the_recording_scaled(raw):
    K = kitti(raw, intrinsics="calibrated")[0]["K"]  # 40 x 12 pixels become 20 x 6
    assert K.tolist() == [[10, 0, 10], [0, 10, 3], [0, 0, 1]]


def test_wrong_intrinsics_are_refused(raw):
    with pytest.raises(UserError, match="'real' is not one of average, calibrated"):
        kitti(raw, intrinsics="real")


RIGHT = CAM_TO_CAM.replace("P_rect_03: 20 0 20 -10 0 20 6 0", "P_rect_03: 30 0 18 -15 0 28 5 0")


@pytest.mark.parametrize(("size", "x", "y"), [(None, 1, 1), ([80, 24], 2, 2), ([60, 12], 1.5, 1)])
def test_the_depth_map_has_the_rectified_camera_of_its_side(raw, size, x, y):
    (raw / DATE / "calib_cam_to_cam.txt").write_text(RIGHT)
    left, right = (kitti(raw, depth_size=size)[i]["K_depth"] for i in (0, 1))
    assert left.tolist() == [
        [20 * x, 0, 20 * x],
        [0, 20 * y, 6 * y],
        [0, 0, 1],
    ]  # frame 1 has no scan, but a camera
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
    assert dataset[1]["K_depth"].tolist() == [
        pytest.approx([0.58 * 40, 0, 20]),
        pytest.approx([0, 1.92 * 12, 6]),
        [0, 0, 1],
    ]
    assert dataset.notes()[-1] == (
        "2 of 2 items have no calibration (2011_09_26): metrics on point clouds take the average camera for them"
    )
    assert kitti(raw, use_depth=False).notes() == []


# LiDAR

PROJECTION = np.array([[20.0, 0, 20, 0], [0, 20, 6, 0], [0, 0, 1, 0]]) @ np.array(
    [[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
)


def test_a_point_straight_ahead_lands_left_and_above_of_the_principal_point():
    depth = project_points(np.array([[10.0, 0, 0, 1]]), PROJECTION, (40, 12))
    assert depth.shape == (12, 40)
    assert depth[5, 19] == 10  # principal point 20, 6 counted from 1
    assert np.count_nonzero(depth) == 1


def test_the_nearest_point_wins_whatever_the_order():
    for points in ([[10.0, 0, 0], [5, 0, 0], [7, 0, 0]], [[5.0, 0, 0], [7, 0, 0], [10, 0, 0]]):
        assert project_points(np.array(points), PROJECTION, (40, 12))[5, 19] == 5


def test_last_column_and_first_column_of_the_next_row_are_different_pixels():
    z = 20.0
    last = [z, -20.0, 1.0]  # u = 40, v = 5: column 39, row 4
    first = [2 * z, 2 * 19.0, 0.0]  # u = 1, v = 6: column 0, row 5
    for order in ([last, last, first, first], [first, last, first, last]):
        depth = project_points(np.array(order), PROJECTION, (40, 12))
        assert depth[4, 39] == 20
        assert depth[5, 0] == 40


@pytest.mark.parametrize(
    "point",
    [
        *([-10.0, 0, 0], [0.0, 0, 0], [10.0, 10.5, 0], [10.0, -10.5, 0], [10.0, 0, 4], [10.0, 0, -4]),
        *([np.nan, 0, 0], [np.inf, 0, 0], [10.0, np.inf, 0], [10.0, 0, np.nan]),
    ],
)
def test_points_behind_or_beside_the_image_are_left_out(point):
    assert not project_points(np.array([point]), PROJECTION, (40, 12)).any()


def test_a_point_before_the_lidar_but_behind_the_camera_is_left_out():
    behind = PROJECTION.copy()
    behind[:, 3] = behind @ [-0.5, 0, 0, 0]  # the camera stands half a metre further on
    assert not project_points(np.array([[0.3, 0, 0]]), behind, (40, 12)).any()
    assert project_points(np.array([[10.3, 0, 0]]), behind, (40, 12))[5, 19] == pytest.approx(9.8)


def brute_force(points, projection, size):
    """The same map, one point after the other."""
    width, height = size
    depth = np.zeros((height, width))
    for x, y, z in points[:, :3].astype(np.float64):
        if x < 0:
            continue
        q = [sum(a * b for a, b in zip(row, (x, y, z, 1.0), strict=True)) for row in projection]
        if q[2] <= 0:
            continue
        u, v = round(q[0] / q[2]) - 1, round(q[1] / q[2]) - 1
        if 0 <= u < width and 0 <= v < height and (depth[v, u] == 0 or q[2] < depth[v, u]):
            depth[v, u] = q[2]
    return depth


def test_projection_equals_one_point_after_the_other():
    points = np.random.default_rng(0).normal(0, 8, (5000, 4)).astype(np.float32)
    expected = brute_force(points, PROJECTION, (40, 12))
    assert np.count_nonzero(expected) > 200
    assert np.array_equal(project_points(points, PROJECTION, (40, 12)), expected.astype(np.float32))


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
    assert (axis.truth, ahead.truth) == (
        "LiDAR, metres along the optical axis",
        "LiDAR, metres ahead of the scanner",
    )


def test_annotated_depth_is_along_the_optical_axis_only(raw):
    with pytest.raises(UserError, match=r"depth_along: lidar_x is about LiDAR scans.*use_benchmark: true"):
        kitti(raw, use_benchmark=True, depth_along="lidar_x")
    with pytest.raises(UserError, match=r"dataset\.depth_along 'x' is not one of optical_axis, lidar_x"):
        kitti(raw, depth_along="x")
    annotate(raw, np.zeros((HEIGHT, WIDTH), np.uint16))
    assert kitti(raw, use_benchmark=True).truth == "annotated depth (arXiv:1708.06500)"


def test_points_that_are_not_finite_are_left_out_and_told_once(raw, caplog):
    path = raw / DRIVE / "velodyne_points" / "data" / f"{2:010d}.bin"
    whole = kitti(raw, depth_size=None)[1]["depth"]
    nonsense = [[np.nan, 0, 0, 0], [5, np.inf, 0, 0], [np.inf, 0, 0, 0], [-np.inf, np.nan, 1, 0]]
    np.concatenate([np.fromfile(path, np.float32).reshape(-1, 4), np.array(nonsense, np.float32)]).tofile(
        path
    )
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
    assert resize_nearest(depth, (2, 1)).tolist() == [
        [0, 4]
    ]  # centres 1 and 3 belong to the pixel that begins there


def annotate(raw: Path, values: np.ndarray, base: str = f"depth_benchmark/{DATE}") -> Path:
    """Annotated depth of frame 2, right."""
    path = raw / base / DRIVE.split("/")[1] / "proj_depth/groundtruth/image_03" / f"{2:010d}.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(values).save(path)
    return path


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


def write_hints(root: Path, number: int, side: int, values) -> Path:
    path = root / DRIVE / f"image_0{side}" / f"{number:010d}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return path


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


def test_root_may_be_the_folder_or_the_one_around_it(raw):
    assert kitti(raw.parent).raw == kitti(raw).raw == raw


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


def test_a_home_folder_may_be_meant_and_need_not_exist(raw, monkeypatch):
    monkeypatch.setenv("HOME", str(raw.parent))
    split = write_lines(raw / "s.txt", f"{DRIVE} 3 l")
    dataset = DATASETS.create("kitti", root="~/kitti_raw", split_file="~/kitti_raw/s.txt", size=(20, 6))
    assert (str(dataset.split_file), len(dataset)) == (split, 1)
    with pytest.raises(UserError, match=r"~nobody_here/data  \(dataset.root; does not exist\)"):
        kitti(Path("~nobody_here/data"))


def test_a_given_root_is_the_only_place_looked_at(raw, monkeypatch):
    monkeypatch.setenv("MONODEPTH_DATA", str(raw))
    with pytest.raises(UserError, match=r"typo  \(dataset.root; does not exist\)"):
        kitti(raw.parent / "typo")


@pytest.mark.parametrize("text", ["DATA_ROOTS: 5", "- a", "DATA_ROOTS: [1]", "DATA_ROOTS: ["])
def test_a_broken_paths_file_is_named(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "PATHS.yaml").write_text(text)
    with pytest.raises(UserError, match=r"PATHS\.yaml"):
        kitti(None)


# Splits


def test_an_unknown_split_names_places_and_the_nearest(raw):
    with pytest.raises(UserError, match=r"'minni' has no train_files\.txt") as caught:
        kitti(raw, split="minni")
    assert f"Looked in {raw}/splits, {raw.parent}/splits" in str(caught.value)
    assert "Did you mean 'mini (train_files.txt)'?" in str(caught.value)
    with pytest.raises(UserError, match=r"has no val_files\.txt"):
        kitti(raw, mode="val")


def test_splits_may_lie_beside_the_raw_folder(raw):
    write_lines(raw.parent / "splits" / "near" / "val_files.txt", f"{DRIVE} 3 l")
    assert kitti(raw, split="near", mode="val").describe(0) == f"{DRIVE}/image_02/0000000003"


def test_a_last_line_counts_without_a_newline_and_blank_lines_do_not(raw):
    path = write_lines(raw / "s.txt", f"{DRIVE} 1 l", "", f"{DRIVE} 2 l\r")
    assert len(kitti(raw, split_file=path)) == 2


def test_a_mark_of_byte_order_and_leading_zeros_do_not_matter(raw):
    path = raw / "s.txt"
    path.write_bytes(b"\xef\xbb\xbf" + f"{DRIVE} 0000000001 l\r\n{DRIVE} 1 l\r\n".encode())
    dataset = kitti(raw, split_file=str(path))
    assert dataset.check() == []
    assert dataset.describe(0) == dataset.describe(1) == f"{DRIVE}/image_02/0000000001"


def test_bad_lines_are_all_reported_with_place_and_expectation(raw):
    bad = ["image 7", f"{DRIVE} x l", f"{DRIVE} 1 m", "6 1 l", f"{DRIVE} 1"]
    path = write_lines(raw / "s.txt", f"{DRIVE} 1 l", *bad)
    dataset = kitti(raw, split_file=path)
    assert dataset.check() == [
        f'{path}:{number}: {line!r} : expected "<date>/<drive> <frame> <l|r>"'
        for number, line in enumerate(bad, 2)
    ]
    with pytest.raises(DataError, match=r"s\.txt:2: 'image 7' : expected"):  # never left out in silence
        dataset[1]


def test_long_lists_of_bad_lines_are_cut(raw):
    path = write_lines(raw / "s.txt", *[f"image {i}" for i in range(50)])
    problems = kitti(raw, split_file=path).check()
    assert len(problems) == 21
    assert problems[-1] == "... and 30 more bad lines"


@pytest.mark.parametrize("content", [None, "\n\n"])
def test_an_absent_or_empty_split_file_is_an_error(raw, content):
    path = raw / "s.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"s\.txt: the split file (cannot be read|has no lines)"):
        kitti(raw, split_file=str(path))


def test_check_finds_missing_targets_and_supports(raw):
    frame(raw, DRIVE, 2, 0).unlink()
    path = write_lines(raw / "s.txt", f"{DRIVE} 1 l", f"{DRIVE} 4 r", f"{DRIVE} 9 l")
    problems = kitti(raw, split_file=path, supp_idxs=[-1, 1, 0]).check()
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
    (problem,) = kitti(raw, split_file=path, supp_idxs=[-1]).check()
    assert "support -1" in problem


def test_an_absent_drive_is_one_problem(raw):
    other = f"{DATE}/{DATE}_drive_0099_sync"
    path = write_lines(raw / "s.txt", *[f"{other} {i} l" for i in range(1, 31)])
    (problem,) = kitti(raw, split_file=path).check()
    assert problem == f"{raw}/{other}/image_02/data does not exist or is empty: 90 frames are missing"


def test_check_reads_the_calibration_that_items_need(raw):
    path = raw / DATE / "calib_cam_to_cam.txt"
    path.write_text(CAM_TO_CAM.replace("P_rect_02: 20 ", "P_rect_02: "))
    (problem,) = kitti(raw).check()
    assert "calib_cam_to_cam.txt: P_rect_02 has 11 numbers, expected 12" in problem
    path.unlink()
    (problem,) = kitti(raw, use_depth=False, intrinsics="calibrated").check()
    assert "calib_cam_to_cam.txt cannot be read" in problem
    assert kitti(raw, use_depth=False).check() == []  # nobody needs it


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("S_rect_02: 40 12", "S_rect_02: nan 12", "not all numbers are finite"),
        ("S_rect_02: 40 12", "S_rect_02: 0 12", "S_rect must be"),
        ("S_rect_03: 40 12", "S_rect_03: 1e9 12", "S_rect must be"),
        ("P_rect_02: 20", "P_rect_02: inf", "not all numbers are finite"),
        ("P_rect_03: 20", "P_rect_03: -20", "positive focal lengths"),
        ("R_rect_00: 1 0 0", "R_rect_00: 1 1 0", "must be rotations"),
    ],
)
def test_a_calibration_that_is_none_is_told_before_training(raw, name, wrong, told):
    text = CAM_TO_CAM.replace(name, wrong)
    assert text != CAM_TO_CAM
    (raw / DATE / "calib_cam_to_cam.txt").write_text(text)
    (problem,) = kitti(raw).check()
    assert f"{raw}/{DATE}/calib_cam_to_cam.txt or calib_velo_to_cam.txt is damaged: " in problem
    assert told in problem


def test_a_missing_calibration_key_is_named(raw):
    (raw / DATE / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\n")
    (problem,) = kitti(raw).check()
    assert "calib_velo_to_cam.txt: T is missing, expected 3" in problem


# Broken items


def cut(path: Path, keep: int) -> Path:
    path.write_bytes(path.read_bytes()[:keep])
    return path


@pytest.mark.parametrize("keep", [0, 60])
def test_check_finds_pictures_that_are_cut_short(raw, keep):
    target, support = cut(frame(raw, DRIVE, 2, 1), keep), cut(frame(raw, DRIVE, 2, 0), keep)
    cut(frame(raw, DRIVE, 2, 4), keep)  # no item needs it
    problems = kitti(raw).check()
    assert [problem.partition(" is ")[0] for problem in problems] == [str(target), str(support)]


@pytest.mark.parametrize("keep", [0, 8, 31])
def test_check_finds_scans_that_are_cut_short(raw, keep):
    path = cut(raw / DRIVE / "velodyne_points" / "data" / f"{2:010d}.bin", keep)
    (problem,) = kitti(raw).check()
    assert f"{path} is not a LiDAR scan: {keep} bytes" in problem
    assert kitti(raw, use_depth=False).check() == []


def test_check_finds_hints_and_annotated_depth_that_are_cut_short(raw):
    write_hints(raw / "depth_hints", 1, 2, np.ones((3, 4), np.float32))
    hints = cut(write_hints(raw / "depth_hints", 2, 3, np.ones((3, 4), np.float32)), 150)
    depth = cut(annotate(raw, np.full((HEIGHT, WIDTH), 256, np.uint16)), 50)
    problems = kitti(raw, use_hints=True, use_benchmark=True).check()
    assert [problem.partition(" is ")[0] for problem in problems] == [str(depth), str(hints)]


def test_files_that_there_was_no_time_for_are_counted(raw, monkeypatch):
    monkeypatch.setattr(_damage, "_SECONDS", -1)
    cut(frame(raw, DRIVE, 2, 1), 60)
    dataset = kitti(raw, use_depth=False)
    assert dataset.check() == []
    assert dataset.notes()[0].startswith("no time to see whether 6 files are whole")


def test_a_folder_that_cannot_be_listed_is_told_once(raw):
    folder = raw / DRIVE / "image_02" / "data"
    shutil.rmtree(folder)
    folder.symlink_to("data")  # to itself
    (problem,) = kitti(raw).check()
    assert f"{folder} cannot be listed" in problem
    with pytest.raises(DataError, match="cannot be listed"):
        kitti(raw)[0]


def test_a_truncated_picture_names_file_item_and_stem(raw):
    path = frame(raw, DRIVE, 3, 3)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="is not a readable picture") as caught:
        kitti(raw)[1]
    for part in (str(path), "again", f"[item 1 of train: {DRIVE}/image_03/0000000002]"):
        assert part in str(caught.value)


def test_in_training_another_item_takes_the_place_of_a_damaged_one(raw, caplog):
    path = frame(raw, DRIVE, 3, 3)
    path.write_bytes(path.read_bytes()[:60])
    dataset = kitti(raw)
    (item,) = dataset.__getitems__([(0, 1)])
    assert item["index"] == 0
    assert f"{path} is not a readable picture" in caplog.text
    assert "Another item takes its place (1 of 2 items so far)" in caplog.text


def test_a_missing_support_names_role_and_folder(raw):
    frame(raw, DRIVE, 2, 2).unlink()
    with pytest.raises(DataError, match=r"support \+1 .*/image_02/0000000002 is missing.*Complete the drive"):
        kitti(raw)[0]


def test_a_cut_scan_is_named(raw):
    path = raw / DRIVE / "velodyne_points" / "data" / f"{2:010d}.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"0000000002\.bin is not a LiDAR scan: 29 bytes"):
        kitti(raw)[1]
    with pytest.raises(DataError, match="cannot be read"):
        read_points(str(raw))


def test_a_depth_map_that_is_none_is_named(tmp_path):
    picture(tmp_path / "d.png", 3)
    with pytest.raises(DataError, match=r"d\.png is no depth map: expected 16-bit grey, got uint8"):
        read_annotated(str(tmp_path / "d.png"))
    (tmp_path / "d.png").write_text("x")
    with pytest.raises(DataError, match=r"d\.png is not a readable depth map"):
        read_annotated(str(tmp_path / "d.png"))


# The real recordings


def test_real_png_and_jpeg_drives_pass_their_check(shared_data):
    for name in ("kitti_raw", "kitti_raw_jpg"):
        dataset = kitti(shared_data / name, split=name, supp_idxs=[-1, 1, 0], size=(640, 192))
        assert dataset.check() == []
        item = dataset[0]
        assert item["target"].shape == (3, 192, 640)
        assert 0.2 < item["target"].mean() < 0.7
        assert not torch.equal(item["supports"][0], item["supports"][2])


def test_projection_equals_one_point_after_the_other_on_a_real_scan(shared_data):
    raw = shared_data / "kitti_raw"
    calibration = read_calibration(raw / DATE)
    points = read_points(str(raw / DRIVE / "velodyne_points" / "data" / f"{5:010d}.bin"))[::7]
    projection = calibration.velodyne_to_pixels(3)
    expected = brute_force(points, projection, (1242, 375)).astype(np.float32)
    assert np.count_nonzero(expected) > 1500
    assert np.array_equal(project_points(points, projection, (1242, 375)), expected)


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
