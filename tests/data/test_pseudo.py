"""Every data set has pseudo-labels: those of files under the names of items, and those that `synthetic` makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.clips import frames
from trainer.data import DATASETS
from trainer.data.base import RawItem
from trainer.data.files.pseudo import encode_label
from trainer.data.synthetic import Synthetic
from trainer.runtime.errors import DataError, UserError

SIZE = (64, 64)


@pytest.fixture(scope="module")
def world():
    return Synthetic(num_items=40, use_pseudo=True, pseudo_wrong=0.5, supp_idxs=None, size=SIZE, sky_depth=True)


def test_synthetic_labels_are_the_true_disparity_under_an_affine_map(world):
    maps = set()
    for index in range(6):
        item, planted = world.load(index), world.planted(index)
        disp, label = 1 / item.depth[~planted], item.pseudo[~planted]
        scale, shift = np.polyfit(disp, label, 1)
        np.testing.assert_allclose(scale * disp + shift, label, rtol=1e-4)
        assert item.pseudo.min() > 0
        assert scale > 0
        maps.add(round(scale, 3))
    assert len(maps) == 6
    again = Synthetic(num_items=40, use_pseudo=True, pseudo_wrong=0.5, supp_idxs=None, size=SIZE)
    np.testing.assert_array_equal(again.load(3).pseudo, world.load(3).pseudo)


def test_red_house_fronts_are_too_far_in_all_pictures_alike(world):
    masks = [world.planted(index) for index in range(len(world))]
    wrong = [index for index, mask in enumerate(masks) if mask.mean() > 0.02]
    assert 10 <= len(wrong) < 40
    right = Synthetic(num_items=40, use_pseudo=True, supp_idxs=None, size=SIZE)
    assert not any(right.planted(index).any() for index in range(len(right)))
    for index in wrong[:3]:
        mask, label, truth = masks[index], world.load(index).pseudo, right.load(index).pseudo
        assert np.array_equal(label[~mask], truth[~mask])
        _, shift = np.polyfit(1 / world.load(index).depth[~mask], truth[~mask], 1)
        np.testing.assert_allclose((label - shift)[mask], 0.3 * (truth - shift)[mask], rtol=1e-3)
        red, _, blue = world.load(index).target[mask].reshape(-1, 3).mean(0)
        assert red > blue


def test_labels_are_mirrored_with_the_picture(world):
    augmented = Synthetic(num_items=40, use_pseudo=True, supp_idxs=None, size=SIZE, use_aug=True)
    plain = Synthetic(num_items=40, use_pseudo=True, supp_idxs=None, size=SIZE)
    (epoch,) = [e for e in range(20) if not torch.equal(augmented[e, 1]["target"], plain[1]["target"])][:1]
    item = augmented[epoch, 1]
    assert torch.equal(item["target"].flip(-1), plain[1]["target"])
    assert torch.equal(item["pseudo"].flip(-1), plain[1]["pseudo"])
    assert item["pseudo"].shape == (1, 64, 64)
    raw = RawItem(np.zeros((1, 3, 3), np.uint8), [], np.eye(3), pseudo=np.array([[1, 2, 0]]))
    assert raw.mirrored().pseudo.tolist() == [[0, 2, 1]]


@pytest.fixture
def films(tmp_path):
    for name in ("one", "two"):
        frames(tmp_path / name, range(4), digits=3)
    return tmp_path


def label(root, *names):
    for number, name in enumerate(names, 1):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_label(np.full((6, 8), number, np.float32), {}))


def folder(root, **options):
    return DATASETS.create("folder", path=str(root), val_every=0, size=SIZE, supp_idxs=1, use_pseudo=True, **options)


def test_files_have_the_names_of_the_pictures(films):
    labels = films.parent / f"{films.name}_labels"
    label(labels, "one/000", "one/001", "one/002")
    dataset = folder(films / "one", pseudo_root=str(labels))
    assert dataset.check() + dataset.label_problems() == []
    assert [dataset[i]["pseudo"].unique().tolist() for i in range(3)] == [[1.0], [2.0], [3.0]]
    (labels / "one/001.png").unlink()
    again = folder(films / "one", pseudo_root=str(labels))
    (problem,) = again.label_problems()
    assert problem.startswith(f"1 of 3 items have no pseudo-label in {labels}, the first: one/001. Make them")
    with pytest.raises(DataError, match=r"one/001\.png is missing: .* \[item 1 of train: one/1\]"):
        again[1]


def test_labels_need_a_folder(films):
    with pytest.raises(UserError, match=r"dataset\.use_pseudo: true needs dataset\.pseudo_root"):
        folder(films)


def test_each_part_of_a_mixture_has_labels_of_its_own(films):
    labels, other = (films.parent / f"{films.name}_{name}" for name in ("labels", "other"))
    label(labels / "a", "one/000", "one/001", "one/002")
    label(other, *[f"two/00{i}" for i in range(3)])
    own = {"type": "folder", "val_every": 0, "supp_idxs": 1}
    parts = {
        "a": {**own, "path": str(films / "one")},
        "b": {**own, "path": str(films / "two"), "pseudo_root": str(other)},
        "synthetic": {"num_items": 2},
    }
    options = {"size": SIZE, "supp_idxs": 1, "mode": "test", "use_pseudo": True, "use_depth": False}
    dataset = DATASETS.create("mixed", datasets=parts, pseudo_root=str(labels), **options)
    assert dataset.check() + dataset.label_problems() == []
    assert all(dataset[i]["pseudo"].shape == (1, 64, 64) for i in range(8))
    (other / "two/001.png").unlink()
    dataset = DATASETS.create("mixed", datasets=parts, pseudo_root=str(labels), **options)
    (problem,) = dataset.check()
    assert problem.startswith("b: 1 of 3 items have no pseudo-label")
    with pytest.raises(UserError, match=r"a: dataset\.use_pseudo: true needs dataset\.datasets\.a\.pseudo_root"):
        DATASETS.create("mixed", datasets=parts, **options)
