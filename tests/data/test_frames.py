"""Frames in any layout: the right depth with the right picture, its camera after the cut, and clear words if not."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.clips import HEIGHT, WIDTH, cut, grey_frame, level
from trainer.data import DATASETS
from trainer.data.files.decoded import write_decoded
from trainer.data.files.pictures import read_image
from trainer.runtime.errors import DataError, UserError

NYU = {"images": "test/rgb/{stem}.png", "depth": "test/depth/{stem}.npy"}


@pytest.fixture
def root(tmp_path):
    """Three pictures of grey level 10 n, whose depth is n metres everywhere."""
    root = tmp_path / "set"
    for n in (1, 2, 10):
        grey_frame(root / "test/rgb" / f"{n}.png", 10 * n)
        (root / "test/depth").mkdir(exist_ok=True)
        np.save(root / "test/depth" / f"{n}.npy", np.full((HEIGHT, WIDTH), n, np.float32))
    return root


def frames(root, **options):
    return DATASETS.create("frames", **{**NYU, "root": str(root), "size": (20, 10), **options})


def test_items_come_in_natural_order_with_their_depth(root):
    dataset = frames(root)
    assert (dataset.check(), dataset.notes()) == ([], [])
    assert [dataset.describe(i) for i in range(len(dataset))] == ["test/rgb/1", "test/rgb/2", "test/rgb/10"]
    items = [dataset[i] for i in range(3)]
    assert [level(item["target"]) for item in items] == [10, 20, 100]
    assert [float(item["depth"].mean()) for item in items] == [1, 2, 10]
    assert items[0].keys() == {"target", "supports", "depth", "index"}  # nobody knows K


def test_a_list_gives_order_and_words_that_pictures_have_not(root):
    (root / "test/depth/1.npy").rename(root / "test/depth/1_late.npy")
    (root / "list.txt").write_text("10 10\n1 1_late\n")
    listed = {"list_file": "list.txt", "list_line": "{stem} {other}", "depth": "test/depth/{other}.npy"}
    dataset = frames(root, **listed)
    assert dataset.check() == []
    assert [float(dataset[i]["depth"].mean()) for i in range(2)] == [10, 1]
    (root / "list.csv").write_text("./test/rgb/2.png,ignored\n")
    assert frames(root, list_file="list.csv").describe(0) == "test/rgb/2"


def test_bad_lines_of_a_list_are_named(root):
    (root / "list.txt").write_text("test/rgb/2.png\ntest/rgb/3.png\nnonsense\n")
    absent, nonsense = frames(root, list_file="list.txt").check()
    assert absent.startswith(f"{root / 'list.txt'}:2: 'test/rgb/3.png': there is no {root / 'test/rgb/3.png'}")
    assert nonsense.endswith("'nonsense': expected the path of a picture, test/rgb/{stem}.png")
    with pytest.raises(UserError, match=r"none\.txt is missing: the items in their order, one a line"):
        frames(root, list_file="none.txt")


def test_truth_can_be_numbered_by_the_list(root):
    for i in range(3):
        np.save(root / f"{i:03}_depth.npy", np.full((HEIGHT, WIDTH), 5 + i, np.float32))
    dataset = frames(root, depth="{index:03}_depth.npy")
    assert [float(dataset[i]["depth"].mean()) for i in range(3)] == [5, 6, 7]


def test_masks_all_have_to_agree(root):
    valid = np.ones((HEIGHT, WIDTH), np.uint8)
    for name, column in (("a", 0), ("b", 1)):
        for n in (1, 2, 10):
            mask = valid.copy()
            mask[:, column] = 0
            (root / name).mkdir(exist_ok=True)
            Image.fromarray(mask).save(root / name / f"{n}.png")
    depth = frames(root, mask=["a/{stem}.png", "b/{stem}.png"])[0]["depth"][0]
    assert depth[0, :3].tolist() == [0, 0, 1]
    assert frames(root, mask="a/{stem}.png", mask_valid=[7])[0]["depth"].sum() == 0


def test_the_cut_is_taken_from_picture_truth_and_camera(root):
    """Rows 0..4 of 20 are cut: white rows vanish, cy moves up by 5, and both sizes halve."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:5] = 255
    Image.fromarray(picture).save(root / "test/rgb/1.png")
    depth = np.ones((HEIGHT, WIDTH), np.float32)
    depth[:5] = 9
    np.save(root / "test/depth/1.npy", depth)
    dataset = frames(root, cut={"top": 0.25}, K=[40, 40, 20, 10], size=(20, 10))
    item = dataset[0]
    assert float(item["target"].max()) == 0
    assert item["depth"].shape == (1, 15, WIDTH)
    assert float(item["depth"].max()) == 1
    assert item["K_depth"].tolist() == [[40, 0, 20], [0, 40, 5], [0, 0, 1]]
    assert item["K"][0].tolist() == [20, 0, 10]
    assert item["K"][1].tolist() == pytest.approx([0, 40 * 10 / 15, 5 * 10 / 15])


def test_pictures_decoded_once_are_cut_as_well(root, tmp_path):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:5] = 255
    for n in (1, 2, 10):
        Image.fromarray(picture).save(root / "test/rgb" / f"{n}.png")
    dataset, out = frames(root, cut={"top": 0.25}, use_depth=False, size=(64, 32)), tmp_path / "decoded"
    sources = dataset.picture_sources()
    opened = (dataset.open_picture(place) for place in sources.values())
    write_decoded(out, list(sources), (64, 32), lambda first: (read_image(place, (64, 32)) for place in opened))
    ready = frames(root, cut={"top": 0.25}, use_depth=False, size=(64, 32), decoded_root=str(out))
    assert (ready.label_problems(), float(ready[0]["target"].max())) == ([], 0)


def test_disparity_becomes_depth_by_the_camera_of_the_map(root):
    """fx 40 in the picture is 20 in maps of half its size: 20 * 0.5 m / 4 = 2.5 m."""
    np.save(root / "test/depth/1.npy", np.full((HEIGHT // 2, WIDTH // 2), 4, np.float32))
    item = frames(root, depth_kind="disparity", baseline=0.5, K=[40, 40, 20, 10])[0]
    assert float(item["depth"].mean()) == 2.5
    assert item["K_depth"][0].tolist() == [20, 0, 10]


def test_neighbours_and_poses_of_numbered_frames(root):
    rows = [f"1 0 0 {x} 0 1 0 0 0 0 1 0" for x in (0.1, 0.2, 1.0)]  # camera -> world
    (root / "test/poses.txt").write_text("\n".join(rows))
    dataset = frames(root, supp_idxs=[-1], poses="test/poses.txt")
    assert [dataset.describe(i) for i in range(len(dataset))] == ["test/rgb/2"]
    assert "have no neighbour at -1" in dataset.left_out()[0]
    item = dataset[0]
    assert level(item["supports"][0]) == 10
    assert item["Ts_true"][0, :3, 3].tolist() == pytest.approx([0.1, 0, 0])  # the point is further right before
    (root / "test/poses.txt").write_text(rows[0] + "\n" + rows[1])
    with pytest.raises(DataError, match="2 poses for 3 pictures"):
        frames(root, supp_idxs=[-1], poses="test/poses.txt")[0]


def test_real_recordings_are_read_as_the_reader_of_their_layout_reads_them(shared_data):
    options = {"root": str(shared_data / "indoor_hololens"), "supp_idxs": [-1, 1], "size": (64, 32)}
    theirs = DATASETS.create("rgbd", **options, val_every=0, mode="test")
    suffix = Path(next(iter(next(iter(theirs.clips.values())).frames.values()))).suffix
    layout = {"images": "{scene}/images/{stem}" + suffix, "depth": "{scene}/depth/{stem}.png", "depth_scale": 1000}
    ours = DATASETS.create("frames", **layout, **options, K="{scene}/K.txt", poses="{scene}/poses.txt")
    assert (ours.check(), len(ours)) == ([], len(theirs))
    for i in (0, len(ours) - 1):
        one, other = ours[i], theirs[i]
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), ours.describe(i)


def test_the_first_place_that_holds_the_data_wins(root, monkeypatch):
    monkeypatch.setenv("MONODEPTH_DATA", f"{root.parent / 'none'}:{root.parent}")
    found = DATASETS.create("frames", **NYU, split="attic", folder="some/set", size=(20, 10))
    assert (found.root, len(found)) == (root.parent / "set", 3)
    with pytest.raises(UserError, match=r"attic was not found\. Looked at:") as caught:
        DATASETS.create("frames", **NYU, split="attic", size=(20, 10))
    assert TREE in str(caught.value)


# Wrong layouts: the expected tree, and what lies in its place

TREE = "    test/rgb/{stem}.png    a picture\n    test/depth/{stem}.npy  depth"


def refused(root, **options) -> str:
    with pytest.raises(UserError) as caught:
        frames(root, **options)
    return str(caught.value)


def test_an_empty_folder_and_one_that_is_not_there(tmp_path):
    message = refused(tmp_path, split="nyud")
    assert message.startswith(f"{tmp_path} has no pictures of nyud: expected in it (words in braces")
    assert TREE in message
    assert f"found: {tmp_path} is empty." in message
    assert "does not exist" in refused(tmp_path / "none")


def test_one_level_too_deep_or_too_high(root):
    assert f"Did you mean {root}?" in refused(root / "test")
    assert f"Did you mean {root}?" in refused(root.parent)


def test_pictures_with_another_ending(root):
    for path in (root / "test/rgb").iterdir():
        path.rename(path.with_suffix(".jpg"))
    assert "found: test/rgb holds 1.jpg, 10.jpg, 2.jpg." in refused(root)


def test_missing_depth_is_one_sentence_with_the_tree(root):
    for n in (1, 10):
        (root / "test/depth" / f"{n}.npy").rename(root / "test/depth" / f"{n}.npz")
    (message,) = frames(root).check()
    first = root / "test/depth/1.npy"
    assert message.startswith(f"depth is missing for 2 of 3 pictures, the first: {first}. Expected in {root}\n{TREE}\n")
    assert "found: test/depth holds 1.npz, 10.npz, 2.npy." in message
    assert frames(root, use_depth=False, mask="none/{stem}.png").check() == []
    cut(root / "test/depth/1.npz")
    (message,) = frames(root, depth="test/depth/{stem}.npz", list_file=listed(root, "1")).check()
    assert message == f"{root / 'test/depth/1.npz'} is no whole archive. Copy or make it again"


def listed(root, *stems):
    (root / "some.txt").write_text("".join(f"test/rgb/{stem}.png\n" for stem in stems))
    return "some.txt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: np.save(p, np.ones((WIDTH, HEIGHT), np.float32)),
            "2.npy is 20x40, its picture 40x20: another shape",
        ),
        (cut, "2.npy is not a readable array"),
    ],
)
def test_maps_that_do_not_fit_are_found_before_the_work(root, change, message):
    change(root / "test/depth/2.npy")
    (problem,) = frames(root).check()
    assert message in problem


def test_bare_numbers_are_checked_by_their_length(root):
    for n in (1, 2, 10):
        (root / "test/depth" / f"{n}.JPG").write_bytes(np.full((HEIGHT, WIDTH), n, "<f4").tobytes())
    options = {"depth": "test/depth/{stem}.JPG", "depth_format": "raw"}
    dataset = frames(root, **options)
    assert (dataset.check(), float(dataset[2]["depth"].mean())) == ([], 10)
    cut(root / "test/depth/2.JPG")
    (problem,) = frames(root, **options).check()
    assert "2.JPG has 1920 bytes, not the 3200 of float32 depth of 40x20" in problem


def test_a_wrong_scale_and_another_size_are_remarks(root):
    dataset = frames(root, usual_depth=(2, 9), native_size=(80, 40), native_items=654)
    assert dataset.check() == []
    number, size, depth = dataset.notes()
    assert number == "3 items, where the whole set has 654: not to be compared"
    assert size == "test/rgb/1 is 40x20, and originals are 80x40: published numbers are of these"
    assert depth.startswith(
        "test/rgb/1 has a median depth of 1 m, where 2 to 9 m are usual here. Is dataset.depth_scale"
    )


def test_nonsense_that_is_not_declared_is_named_and_left_out(root, caplog):
    caplog.set_level(logging.WARNING)
    depth = np.full((HEIGHT, WIDTH), 2, np.float32)
    depth[0] = np.inf
    np.save(root / "test/depth/1.npy", depth)
    assert float(frames(root, invalid=[0, "inf"])[0]["depth"][0, 0].max()) == 0
    assert caplog.text == ""
    assert float(frames(root)[0]["depth"][0, 0].max()) == 0
    assert "40 of 800 values are NaN, infinite" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "rgb/*.png"}, r"dataset\.images: .* wildcards have names"),
        (
            {"depth": "depth/{frame}.npy"},
            r"dataset\.depth: .*\{frame\}, which images does not give. Known: index, stem",
        ),
        ({"depth": "depth/{stem}.mat"}, r"dataset\.depth_format: .* another ending"),
        ({"depth": "depth/{stem}.png"}, r"dataset\.depth_scale: the whole numbers of a PNG need it"),
        ({"depth_scale": 0.0}, "depth_scale: must be positive"),
        ({"depth_kind": "disparity"}, "becomes depth with K and baseline"),
        ({"cut": {"bottom": 1.0}}, "cut: shares"),
        ({"cut": {"below": 0.1}}, "cut: 'below' is no side: top, bottom, left, right"),
        ({"list_line": "{stem}"}, "list_line: there is no list_file"),
        ({"list_file": "l.txt", "list_line": "{other}"}, "images: .* which list_line does not give"),
        ({"K": [1, 2, 3]}, r"dataset\.K: expected \[fx, fy, cx, cy\]"),
        ({"mode": "train"}, "for evaluation only"),
        ({"use_aug": True}, "for evaluation only"),
        ({"supp_idxs": [0]}, "stereo partner"),
        ({"supp_idxs": [-7]}, r"no picture has the neighbours \[-7\]"),
    ],
)
def test_options_without_meaning_are_refused(root, options, message):
    with pytest.raises(UserError, match=message):
        frames(root, **options)
