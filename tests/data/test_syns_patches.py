"""SYNS-Patches: dense depth and edges beside each image, both flags honoured, nothing to train on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.clips import cut, grey_frame
from trainer.data import DATASETS
from trainer.runtime.errors import DataError, UserError

NATIVE = (1242, 376)


def patch(root: Path, scene: str, number: int) -> None:
    grey_frame(root / scene / "images" / f"{number}.png", 50, NATIVE)
    depth = np.full((376, 1242, 1), 7.5, np.float32)
    depth[0, 0] = np.nan
    edges = np.zeros((376, 1242), np.uint8)
    edges[10, 20:25] = 255
    for folder in ("depths", "edges"):
        (root / scene / folder).mkdir(exist_ok=True)
    np.save(root / scene / "depths" / f"{number}.npy", depth)
    Image.fromarray(edges).save(root / scene / "edges" / f"{number}.png")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("syns") / "syns_patches"
    patch(root, "01", 0)
    (root / "01" / "info.txt").write_text("Scene 1\nScene Category: Natural: Caf\xe9 garden\n", encoding="latin-1")
    (root / "splits").mkdir()
    (root / "splits" / "val_files.txt").write_text("01 0.png")
    (root / "splits" / "test_files.txt").write_text("01 0.png\n1 0\n")
    return root


@pytest.fixture
def root(tmp_path):
    patch(tmp_path, "02", 3)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "test_files.txt").write_text("02 3.png\n")
    return tmp_path


def syns(root, **options):
    return DATASETS.create("syns_patches", root=str(root), **{"size": (64, 32), **options})


@pytest.mark.parametrize("mode", ["val", "test"])
@pytest.mark.parametrize("keys", [set(), {"depth"}, {"edges"}, {"depth", "edges"}])
def test_both_flags_are_honoured_in_both_modes(whole, mode, keys):
    dataset = syns(whole, mode=mode, use_depth="depth" in keys, use_edges="edges" in keys)
    assert dataset.check() == []
    assert {"depth", "edges"} & dataset[0].keys() == keys


def test_an_item_by_hand(whole, caplog):
    dataset = syns(whole)
    item = dataset[0]
    assert item["target"].shape == (3, 32, 64)
    assert item["supports"].shape == (0, 3, 32, 64)
    assert item["depth"].shape == item["edges"].shape == (1, 376, 1242)
    assert item["depth"][0, 0, :2].tolist() == [0, 7.5]
    assert "1 of 466992 values are NaN" in caplog.text
    assert item["edges"].sum() == 5
    assert item["edges"][0, 10, 22] == 1
    assert len(dataset) == 2
    assert dataset.describe(1) == "01/images/0"
    assert dataset.category(0) == ("Natural", "Caf\xe9 garden")


def test_the_camera_follows_from_the_field_of_view(whole):
    K = syns(whole)[0]["K_depth"]
    assert K.tolist() == [pytest.approx([688.5, 0, 621], abs=0.1), pytest.approx([0, 832.2, 188], abs=0.1), [0, 0, 1]]
    assert math.degrees(2 * math.atan(621 / float(K[0, 0]))) == pytest.approx(84.1)
    scale = torch.tensor([[64 / 1242], [32 / 376], [1]])
    assert torch.allclose(syns(whole)[0]["K"], K * scale)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_aug": True}, "for evaluation only"),
        ({"mode": "train"}, "for evaluation only"),
        ({"supp_idxs": [-1, 1]}, "single images"),
        ({"use_hints": True}, "no depth hints"),
    ],
)
def test_what_needs_video_or_training_is_refused(whole, options, message):
    with pytest.raises(UserError, match=message):
        syns(whole, **options)


def test_damage_and_bad_lines_are_named(root):
    (root / "splits" / "test_files.txt").write_text("02 3.png\n02 4.png\nx\n")
    cut(root / "02" / "images" / "3.png")
    cut(root / "02" / "depths" / "3.npy")
    bad, *missing, picture, depth = syns(root).check()
    assert "test_files.txt:3: 'x': expected" in bad
    assert all("/4." in line and "missing" in line for line in missing)
    assert len(missing) == 3
    assert "images/3.png is not a readable picture" in picture
    assert "depths/3.npy is not a readable array" in depth
    assert len(syns(root, use_depth=False).check()) == 4


def test_edges_and_depth_of_different_size_are_named(root):
    Image.fromarray(np.zeros((375, 1242), np.uint8)).save(root / "02" / "edges" / "3.png")
    with pytest.raises(DataError, match=r"edges/3\.png: edges of shape \(375, 1242\) do not belong to depth"):
        syns(root)[0]
    assert syns(root, use_depth=False)[0]["edges"].shape == (1, 375, 1242)


def test_files_that_are_no_depth_are_named(root):
    np.save(root / "02" / "depths" / "3.npy", np.zeros((4, 4), np.int32))
    with pytest.raises(DataError, match=r"3\.npy: expected floating-point depth.*02/images/3"):
        syns(root)[0]
    (root / "02" / "depths" / "3.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"3\.npy is not a readable array"):
        syns(root)[0]


@pytest.mark.parametrize("name", ["edges_01", "edges_03_log", "edges_02_inv"])
def test_other_depth_edges_may_be_chosen(root, name):
    with pytest.raises(DataError, match=rf"{name}/3\.png is missing"):
        syns(root, edges_dir=name)[0]
    (problem,) = syns(root, edges_dir=name).check()
    assert f"{name}/3.png is missing" in problem
    (root / "02" / name).mkdir()
    Image.fromarray(np.full((376, 1242), 255, np.uint8)).save(root / "02" / name / "3.png")
    assert syns(root, edges_dir=name).check() == []
    assert syns(root, edges_dir=name)[0]["edges"].all()
    assert syns(root)[0]["edges"].sum() == 5


@pytest.mark.parametrize("name", ["edges_04", "../edges", "edges_log", ""])
def test_edges_of_another_name_are_refused_with_the_choices(root, name):
    with pytest.raises(UserError, match=r"is no folder of depth edges: edges, or edges_01, edges_02, edges_03"):
        syns(root, edges_dir=name)


def test_no_split_of_that_name_lists_what_there_is(root):
    with pytest.raises(UserError, match=r"no val_files\.txt"):
        syns(root, mode="val")
    (root / "02" / "info.txt").write_text("nothing\n")
    assert syns(root).category(0) == ("", "")
