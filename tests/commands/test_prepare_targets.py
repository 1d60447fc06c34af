"""`prepare targets`: the maps that evaluation compares with, their rectified K, in the order of the split."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.world import ROOT
from trainer.commands.prepare import main
from trainer.data import DATASETS
from trainer.data.files.depth import read_annotated
from trainer.data.files.scans import read_points
from trainer.data.kitti import KittiRaw
from trainer.data.kitti_raw.calibration import project_points, read_calibration

DATE = "2011_09_26"
DRIVE = f"{DATE}/{DATE}_drive_0001_sync"
SIZE = (124, 38)


def targets(raw, *options, split="synthetic", jobs=1):
    return main(["targets", "--root", str(raw), "--split", split, "--jobs", str(jobs), *options])


def load(path, **options):
    with np.load(path, **options) as archive:
        return dict(archive)


@pytest.mark.parametrize("mode", ["val", "test"])
def test_maps_and_intrinsics_are_those_of_the_mode(raw, mode):
    assert targets(raw, "--mode", mode) == 0
    made = load(raw / "splits" / "synthetic" / f"targets_{mode}.npz")  # one size: no pickle
    dataset = KittiRaw(
        str(raw), "synthetic", use_benchmark=True, depth_size=None, intrinsics="calibrated", mode=mode, size=SIZE,
    )  # fmt: skip
    assert made["items"].tolist() == [dataset.describe(i) for i in range(len(dataset))]
    for i in range(len(dataset)):
        item = dataset.load(i)
        np.testing.assert_array_equal(made["depth"][i], item.depth)
        np.testing.assert_allclose(made["K"][i], item.K, rtol=1e-6)
    assert made["truth"].item() == dataset.truth
    assert not list((raw / "splits" / "synthetic").glob(".*"))


def test_eigen_has_metres_ahead_of_the_lidar(raw):
    shutil.copytree(raw / "splits/synthetic", raw / "splits/eigen")
    assert targets(raw, split="eigen") == 0
    assert targets(raw, "--source", "lidar", "--out", str(raw / "z.npz"), split="eigen") == 0
    ahead, z = load(raw / "splits/eigen/targets_test.npz")["depth"], load(raw / "z.npz")["depth"]
    both = (ahead > 0) & (z > 0)
    np.testing.assert_allclose((ahead - z)[both], 0.27, atol=1e-4)  # the LiDAR stands 27 cm behind the camera
    number, camera = 4, 2
    scan = read_points(str(raw / DRIVE / f"velodyne_points/data/{number:010d}.bin"))
    projection = read_calibration(raw / DATE).velodyne_to_pixels(camera)
    np.testing.assert_array_equal(ahead[0], project_points(scan, projection, SIZE, forward=True))


@pytest.mark.parametrize(
    ("without", "options", "advice"),
    [
        ("depth_benchmark", (), "--source lidar"),
        (f"{DRIVE}/velodyne_points", ("--source", "lidar"), "--source annotated"),
    ],
)
def test_what_is_missing_has_another_source(raw, capsys, without, options, advice):
    shutil.rmtree(raw / without)
    assert targets(raw, *options) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith(advice)


def test_intrinsics_are_those_of_rectified_pictures(raw):
    path = raw / DATE / "calib_cam_to_cam.txt"
    lines = [
        f"{line.partition(':')[0]}: {'1 ' * 9}" if line.startswith("K_") else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines))
    assert targets(raw) == 0
    K = load(raw / "splits/synthetic/targets_test.npz")["K"]
    np.testing.assert_allclose(K[0], read_calibration(raw / DATE).P_rect[2][:, :3], rtol=1e-6)


def test_recordings_of_different_size(raw):
    """Arrays of arrays as earlier code reads them; padded, they hold no pickle."""
    folder = raw / "depth_benchmark" / DRIVE / "proj_depth/groundtruth/image_03"
    for path in folder.iterdir():
        values = np.asarray(Image.open(path))[:37, :120].copy()
        Image.fromarray(values).save(path)
    out = raw / "splits/synthetic/targets_test.npz"
    assert targets(raw) == 0
    with pytest.raises(ValueError, match="allow_pickle"):
        load(out)
    depth = load(out, allow_pickle=True)["depth"]
    assert [entry.shape for entry in depth] == [(38, 124), (37, 120)]
    assert targets(raw, "--padded", "--overwrite") == 0
    made = load(out)
    assert made["size"].tolist() == [[38, 124], [37, 120]]
    assert made["depth"].shape == (2, 38, 124)
    np.testing.assert_array_equal(made["depth"][1, :37, :120], depth[1])
    assert not made["depth"][1, 37:].any()


def test_items_without_truth_are_named_and_nothing_is_written(raw, capsys):
    (raw / DRIVE / "velodyne_points/data/0000000004.bin").write_bytes(b"")
    out = raw / "splits/synthetic/targets_test.npz"
    assert targets(raw, "--source", "lidar") == 1
    text = capsys.readouterr().out
    assert f"2 of 2 items have no target; {out} is not written" in text
    assert "0000000004.bin is not a LiDAR scan: 0 bytes" in text
    truth = raw / "depth_benchmark" / DRIVE / "proj_depth/groundtruth/image_03/0000000004.png"
    content = truth.read_bytes()
    truth.unlink()
    assert targets(raw) == 1
    assert f"1 of 2 items have no target; {out} is not written:\n  {DRIVE}/image_03/0000000004 has no annotated" in (
        capsys.readouterr().out
    )
    assert not out.exists()
    part = next(raw.glob("splits/synthetic/.targets_test.annotated.parts/0.npz"))
    before = part.stat().st_mtime_ns
    truth.write_bytes(content)
    (raw / DRIVE / "image_02/data/0000000004.png").unlink()  # pictures are not asked for
    assert part.stat().st_mtime_ns == before
    assert targets(raw, jobs=2) == 0
    assert load(out)["depth"].shape == (2, 38, 124)
    assert targets(raw) == 0
    assert "exists; --overwrite replaces it" in capsys.readouterr().out


def test_points_that_are_left_out_are_counted(raw, capsys):
    path = raw / DRIVE / "velodyne_points/data/0000000004.bin"
    points = np.fromfile(path, np.float32).reshape(-1, 4)
    points[:3, 1] = np.nan, np.inf, -np.inf
    points.tofile(path)
    assert targets(raw, "--source", "lidar") == 0
    text = capsys.readouterr().out
    assert f"1 LiDAR scan has points that are left out:\n  {path}: 3 of {len(points)} points are NaN" in text
    assert targets(raw, "--source", "annotated", "--overwrite") == 0
    assert "left out" not in capsys.readouterr().out


def test_a_run_that_goes_on_with_another_split_takes_nothing_of_the_old_one(raw):
    split = raw / "splits/synthetic/test_files.txt"
    lines = split.read_text().splitlines()
    (raw / "depth_benchmark" / DRIVE / "proj_depth/groundtruth/image_03/0000000004.png").unlink()
    assert targets(raw) == 1  # the left one is done
    split.write_text(f"{lines[0].replace(' 4 ', ' 2 ')}\n")
    assert targets(raw) == 0
    made = load(raw / "splits/synthetic/targets_test.npz")
    assert made["items"].tolist() == [f"{DRIVE}/image_02/0000000002"]
    truth = raw / "depth_benchmark" / DRIVE / "proj_depth/groundtruth/image_02/0000000002.png"
    np.testing.assert_array_equal(made["depth"][0], read_annotated(str(truth)))


def test_the_page_of_published_tables_has_the_same_truth(raw):
    shutil.copytree(raw / "splits/synthetic", raw / "splits/eigen")
    assert targets(raw, split="eigen") == 0
    made = load(raw / "splits/eigen/targets_test.npz")
    for name, same in (("kitti_eigen_legacy", True), ("kitti_eigen", False)):
        page = yaml.safe_load((ROOT / "cfg/eval" / f"{name}.yaml").read_text())["dataset"]
        kwargs = {"root": str(raw), "mode": "test", "size": SIZE, "supp_idxs": None, "depth_size": None}
        dataset = DATASETS.create(page.pop("type"), **page, **kwargs)
        item = dataset[0]
        assert np.array_equal(item["depth"][0].numpy(), made["depth"][0]) == same
        np.testing.assert_allclose(item["K_depth"].numpy(), made["K"][0], rtol=1e-6)


def test_wrong_options_are_named(raw, capsys):
    assert main(["targets", "--root", str(raw)]) == 2
    assert "--split is required for KITTI" in capsys.readouterr().err
    (raw / "splits/synthetic/test_files.txt").unlink()
    assert targets(raw) == 2
    assert "split synthetic has no test_files.txt; it has train, val" in capsys.readouterr().err
    assert targets(raw, "--mode", "val", "--out", "x.txt") == 2
    assert "must end in .npz" in capsys.readouterr().err


def test_databases_give_the_same(raw):
    out = raw.parent / "kitti_raw_sync_lmdb"
    assert main(["lmdb", "--root", str(raw), "--out", str(out), "--jobs", "1"]) == 0
    assert targets(raw) == targets(out) == 0
    one, other = (load(root / "splits/synthetic/targets_test.npz") for root in (raw, out))
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


def test_real_recordings(shared_data, tmp_path):
    (tmp_path / "real").mkdir()
    shutil.copy(shared_data / "splits/kitti_raw/benchmark_test_files.txt", tmp_path / "real/test_files.txt")
    options = ["--splits-dir", str(tmp_path), "--out", str(tmp_path / "t.npz")]
    assert targets(shared_data / "kitti_raw", *options, split="real") == 0
    made = load(tmp_path / "t.npz")
    assert made["depth"].shape == (10, 375, 1242)
    np.testing.assert_allclose(made["K"][0, 0], [721.5377, 0, 609.5593], atol=1e-3)
    name = made["items"][0].split("/")
    path = shared_data / "kitti_depth/train" / name[1] / "proj_depth/groundtruth" / name[2] / f"{name[3]}.png"
    np.testing.assert_array_equal(made["depth"][0], read_annotated(str(path)))


def test_syns_patches_have_edges_and_categories(tmp_path):
    root, rng = tmp_path / "syns_patches", np.random.default_rng(0)
    pictures = {
        "images": rng.integers(0, 255, (376, 1242, 3), dtype=np.uint8),
        "edges": rng.integers(0, 2, (376, 1242), dtype=np.uint8) * 255,
    }
    for scene in ("01", "02"):
        (root / scene / "depths").mkdir(parents=True)
        np.save(root / scene / "depths/3.npy", rng.uniform(1, 50, (376, 1242)).astype(np.float32))
        for folder, picture in pictures.items():
            (root / scene / folder).mkdir()
            Image.fromarray(picture).save(root / scene / folder / "3.png", compress_level=0)
        (root / scene / "info.txt").write_text("x\nScene Category: Nature: Woods\n", encoding="latin-1")
    (root / "splits").mkdir()
    (root / "splits/val_files.txt").write_text("02 3.png\n01 3.png\n")
    options = ["targets", "--type", "syns_patches", "--root", str(root), "--mode", "val", "--jobs", "1"]
    assert main(options) == 0
    made = load(root / "splits/targets_val.npz")
    assert set(made) == {"depth", "K", "items", "edge", "cat", "subcat"}
    assert made["depth"].shape == made["edge"].shape == (2, 376, 1242)
    np.testing.assert_array_equal(made["depth"][0], np.load(root / "02/depths/3.npy"))
    assert made["edge"].dtype == bool
    assert (made["cat"][0], made["subcat"][0]) == ("Nature", "Woods")
    np.testing.assert_allclose(made["K"][0, [0, 1], [0, 1]], [688.5, 832.2], atol=0.5)
