"""RGB-D scenes: depth in metres belongs to its picture, poses become motions, broken depth counts as none."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.clips import HEIGHT, WIDTH, cut, frames, level
from trainer.data import DATASETS
from trainer.data.loaders import EpochBatches, make_loader
from trainer.geometry import ViewSynthesis
from trainer.runtime.errors import DataError, UserError


def write_depth(path: Path, millimetres: int, size=(WIDTH // 2, HEIGHT // 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0]), millimetres, np.uint16)).save(path)


def scene(folder: Path, num_frames: int = 6) -> Path:
    """Frames 3.. of a camera that moves 0.1 m to the right per frame; depth of frame n is n metres."""
    numbers = range(3, 3 + num_frames)
    frames(folder / "images", numbers)
    for number in numbers:
        write_depth(folder / "depth" / f"{number:06d}.png", 1000 * number)
    (folder / "K.txt").write_text("30 0 20\n0 30 10\n0 0 1\n")
    rows = [f"1 0 0 {n / 10} 0 1 0 0 0 0 1 0 0 0 0 1" for n in numbers]
    (folder / "poses.txt").write_text("\n".join(rows))
    return folder


@pytest.fixture
def root(tmp_path):
    scene(tmp_path / "000")
    return tmp_path


def rgbd(root, **options):
    return DATASETS.create("rgbd", root=str(root), **{"size": (20, 10), "val_every": 0, **options})


def test_an_item_has_pictures_depth_in_metres_and_both_cameras(root):
    dataset = rgbd(root)
    assert (len(dataset), dataset.check(), dataset.notes()) == (4, [], [])
    item = dataset[1]
    assert dataset.describe(1) == "000/5"
    assert [level(picture) for picture in (item["target"], *item["supports"])] == [50, 40, 60]
    assert item["depth"].shape == (1, 10, 20)
    assert torch.equal(item["depth"], torch.full((1, 10, 20), 5.0))
    assert item["K"].tolist() == item["K_depth"].tolist() == [[15, 0, 10], [0, 15, 5], [0, 0, 1]]


def test_depth_of_another_size_has_its_own_camera_and_is_mirrored_with_it(root):
    dataset = rgbd(root, depth_size=(40, 20), use_aug=True)
    seen = {tuple(dataset[epoch, 0]["K_depth"][0].tolist()) for epoch in range(8)}
    assert seen == {(30, 0, 20), (30, 0, 19)}  # 39 - 20


def test_poses_become_motions_from_target_to_support(root):
    Ts = rgbd(root, supp_idxs=[-1, 2])[0]["Ts_true"]
    assert Ts[:, 0, 3].tolist() == pytest.approx([0.1, -0.2])  # a point is further right for a camera further left
    assert torch.allclose(Ts[:, :3, :3], torch.eye(3).expand(2, 3, 3))


def test_scenes_do_not_touch_and_a_scene_may_be_the_root(root):
    scene(root / "001", num_frames=3)
    assert len(rgbd(root)) == 5
    assert len(rgbd(root / "001")) == 1


def test_arrays_are_metres_and_other_scales_can_be_set(root):
    path = root / "000" / "depth"
    (path / "000004.png").unlink()
    np.save(path / "000004.npy", np.full((10, 20), 1.25, np.float32))
    item = rgbd(root, depth_scale=5000)[0]
    assert float(item["depth"].max()) == 1.25
    assert float(rgbd(root, depth_scale=5000)[1]["depth"].max()) == 1.0


@pytest.mark.parametrize("nonsense", [np.nan, np.inf, -1.0, 3e38, 1e-30])
def test_depth_that_is_no_distance_counts_as_none_and_is_named_once(root, nonsense, caplog):
    depth = np.full((10, 20), 2.0, np.float32)
    depth[0, :3] = nonsense
    path = root / "000" / "depth" / "000004.npy"
    path.with_suffix(".png").unlink()
    np.save(path, depth)
    dataset = rgbd(root)
    for _ in range(2):
        item = dataset[0]
        assert item["depth"][0, 0, :4].tolist() == [0, 0, 0, 2]
        assert torch.isfinite(item["depth"]).all()
    (record,) = caplog.records
    values = "3 of 200 values are NaN, infinite or not between 1 mm and 10 km"
    assert record.message == f"{path}: {values}: taken as no ground truth"


def test_frames_without_depth_have_an_empty_map_of_the_size_of_the_others(root):
    (root / "000" / "depth" / "000004.png").unlink()
    dataset = rgbd(root)
    (batch,) = make_loader(dataset, EpochBatches(4, 4))
    assert batch["depth"].shape == (4, 1, HEIGHT // 2, WIDTH // 2)
    assert not batch["depth"][0].any()
    assert dataset.notes() == ["1 of 4 items have no depth map: theirs are empty"]
    assert rgbd(root, depth_size=(20, 10))[0]["depth"].shape == (1, 10, 20)


def test_poses_that_are_not_finite_mean_no_motions(root):
    path = root / "000" / "poses.txt"
    path.write_text(path.read_text().replace("0.5", "-inf"))
    dataset = rgbd(root)
    assert "Ts_true" not in dataset[0]
    assert "no Ts_true" in dataset.notes()[0]


def test_damage_is_named_before_training(root):
    png, array = root / "000" / "depth" / "000005.png", root / "000" / "depth" / "000008.npy"
    cut(png, 0.5)
    array.with_suffix(".png").unlink()
    np.save(array, np.ones((10, 20), np.float32))
    cut(array)
    split = root / "split.txt"
    split.write_text("000 5\n000 8\n000 x\n")
    bad, missing, *damaged = rgbd(root, split_file=str(split)).check()
    assert bad.startswith(f"{split}:3: ")
    assert missing.startswith(f"{split}:2: ")
    assert f"{png} is not a readable picture" in damaged[0]
    assert f"{array} is not a readable array" in damaged[1]


def test_depth_of_another_kind_is_named_and_costs_one_item(root, caplog):
    caplog.set_level(logging.WARNING)
    path = root / "000" / "depth" / "000005.png"
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(path)
    dataset = rgbd(root)
    with pytest.raises(DataError, match=r"000005\.png is no depth map: expected 16-bit grey"):
        dataset[1]
    batches = list(make_loader(dataset, EpochBatches(4, 2)))
    assert [len(batch["index"]) for batch in batches] == [2, 2]
    assert "1 of 4 items so far" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supp_idxs": [0]}, "stereo partner"),
        ({"use_hints": True}, "no depth hints"),
        ({"depth_scale": 0}, "depth_scale must be positive"),
        ({"frame_gap": 0}, "frame_gap"),
    ],
)
def test_options_without_meaning_are_refused(root, options, message):
    with pytest.raises(UserError, match=message):
        rgbd(root, **options)


def test_as_many_poses_as_pictures_are_needed(root):
    (root / "000" / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(UserError, match=r"poses\.txt has 1 poses for 6 pictures"):
        rgbd(root)


def test_the_first_data_root_that_holds_scenes_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("MONODEPTH_DATA", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    with pytest.raises(UserError, match="RGB-D data was not found"):
        rgbd_anywhere()
    scene(tmp_path / "b" / "rgbd" / "kitchen")
    assert rgbd_anywhere().describe(0) == "kitchen/4"


def rgbd_anywhere():
    return DATASETS.create("rgbd", val_every=0)


def test_real_depth_and_poses_explain_the_neighbours(shared_data):
    """Pictures warped with true depth and motion fit, unwarped or moved the wrong way they do not: K, units, order."""
    size = (192, 128)
    dataset = rgbd(shared_data / "indoor_hololens", size=size, depth_size=size)
    assert (len(dataset), dataset.check()) == (22, [])
    errors = {"still": [], "true": [], "backwards": []}
    for item in (dataset[i] for i in range(0, 22, 4)):
        depth = item["depth"][None]
        synthesis = ViewSynthesis(item["K"][None], size[::-1])
        for support, T in zip(item["supports"], item["Ts_true"], strict=True):
            motions = {"still": torch.eye(4), "true": T, "backwards": torch.linalg.inv(T)}
            for name, motion in motions.items():
                view = synthesis.warp(support[None], depth.clamp(min=0.5), synthesis.projection(motion[None]))
                difference = (view - item["target"][None]).abs().mean(1, keepdim=True)
                errors[name].append(float(difference[depth > 0].mean()))
    mean = {name: np.mean(values) for name, values in errors.items()}
    assert mean["true"] < 0.3 * mean["still"] < 0.3 * mean["backwards"]
