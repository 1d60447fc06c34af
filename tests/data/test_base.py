"""An item is a function of (seed, epoch, index); a mirrored item is the world with x and -x exchanged."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data import DATASETS
from trainer.data.base import CommonOptions, DepthDataset, RawItem
from trainer.data.files.pictures import read_image
from trainer.data.synthetic import Synthetic
from trainer.runtime.errors import DataError, UserError
from trainer.types import DATA_STAGES


class Ramp(DepthDataset):
    """Six items of 4 x 2 pixels: red grows from left to right, green is the index."""

    def __init__(self, **options):
        super().__init__(**{"size": (4, 2), "supp_idxs": (-1, 0), **options})

    def __len__(self):
        return 6

    def describe(self, index):
        return f"ramp/{index}"

    def load(self, index):
        with self.stage("Image"):
            image = np.zeros((2, 4, 3), np.uint8)
            image[..., 0] = [0, 50, 100, 150]
            image[..., 1] = index
        T_stereo, Ts = np.eye(4), np.stack([np.eye(4)] * 2)
        T_stereo[0, 3] = -0.1
        Ts[:, :3, 3] = [1.0, 2.0, 3.0]
        depth = np.array([[1.0, 2.0, 3.0, 0.0]]) if self.use_depth else None
        K = np.array([[5.0, 0, 1.0], [0, 6.0, 0.5], [0, 0, 1]])
        hints = np.array([[0.0, 1.0, 2.0, 3.0]] * 2) if self.use_hints else None
        return RawItem(image, [image] * len(self.supp_idxs), K, T_stereo, depth, Ts, hints)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_item_has_the_keys_shapes_and_units_of_the_batch_contract():
    item = Ramp()[3]
    shapes = {key: tuple(value.shape) for key, value in item.items()}
    assert shapes == {
        "target": (3, 2, 4),
        "supports": (2, 3, 2, 4),
        "K": (3, 3),
        "T_stereo": (4, 4),
        "depth": (1, 1, 4),
        "Ts_true": (2, 4, 4),
        "index": (),
    }
    assert all(value.dtype == torch.float32 for key, value in item.items() if key != "index")
    assert item["index"].dtype == torch.int64
    assert item["index"] == 3
    assert torch.equal(item["target"][0, 0], torch.tensor([0.0, 50.0, 100.0, 150.0]) / 255)


def test_mirrored_item_by_hand():
    raw = Ramp().load(0)
    mirrored = raw.mirrored()
    for name in ("target", "supports", "K", "T_stereo", "depth", "Ts_true"):
        assert np.array_equal(getattr(raw, name), getattr(mirrored.mirrored(), name))
    assert mirrored.target[0, :, 0].tolist() == [150, 100, 50, 0]
    assert mirrored.supports[1][0, :, 0].tolist() == [150, 100, 50, 0]
    assert mirrored.depth.tolist() == [[0.0, 3.0, 2.0, 1.0]]
    assert mirrored.K[0].tolist() == [5.0, 0.0, 2.0]  # cx 1 of 4 columns 0..3 becomes 2
    assert mirrored.K[1].tolist() == raw.K[1].tolist()
    assert mirrored.T_stereo[0, 3] == 0.1
    assert mirrored.Ts_true[0, :3, 3].tolist() == [-1.0, 2.0, 3.0]


def test_hints_are_of_the_images_size_and_mirrored_with_them():
    assert Ramp(use_hints=True)[0]["depth_hints"].shape == (1, 2, 4)
    assert not {"depth_hints", "target_aug", "supports_aug"} & Ramp()[0].keys()
    assert "depth" not in Ramp(use_depth=False)[0]
    assert Ramp(use_hints=True).load(0).mirrored().hints[1].tolist() == [3.0, 2.0, 1.0, 0.0]


def test_mirrored_motion_moves_mirrored_points():
    angle = 0.3
    T = np.eye(4)
    T[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    T[:3, 3] = [1, 2, 3]
    raw = Ramp().load(0)
    mirrored = RawItem(raw.target, raw.supports, raw.K, Ts_true=T[None]).mirrored()
    point, mirror = np.array([0.5, 0.7, 4.0, 1.0]), np.diag([-1, 1, 1, 1])
    assert np.allclose(mirrored.Ts_true[0] @ (mirror @ point), mirror @ (T @ point))


def test_an_item_shares_no_memory_with_what_the_data_set_keeps():
    class Kept(Ramp):
        raw = Ramp().load(0)

        def load(self, index):
            return self.raw

    dataset = Kept(use_aug=True)
    for epoch in range(6):  # some of them mirrored
        for tensor in dataset[epoch, 0].values():
            tensor.zero_()
    assert np.array_equal(Kept.raw.target, Ramp().load(0).target)
    assert Kept.raw.depth.tolist() == [[1.0, 2.0, 3.0, 0.0]]
    assert Kept.raw.K[0, 0] == 5.0


def test_mirrored_depth_still_belongs_to_the_mirrored_picture():
    dataset = Ramp(use_aug=True)
    flips = set()
    for epoch in range(12):
        item = dataset[epoch, 0]
        flipped = bool(item["target"][0, 0, 0] > 0)
        flips.add(flipped)
        assert item["depth"][0, 0].tolist() == ([0.0, 3.0, 2.0, 1.0] if flipped else [1.0, 2.0, 3.0, 0.0])
        assert item["T_stereo"][0, 3] == pytest.approx(0.1 if flipped else -0.1)
    assert flips == {False, True}


def test_an_item_depends_on_seed_epoch_and_index_and_on_nothing_else():
    forwards, backwards = Ramp(use_aug=True, seed=7), Ramp(use_aug=True, seed=7)
    keys = [(epoch, index) for epoch in range(3) for index in range(6)]
    first = {key: forwards[key] for key in keys}
    second = {key: backwards[key] for key in reversed(keys)}
    assert all(same(first[key], second[key]) for key in keys)
    assert same(first[0, 2], forwards[2])  # a bare index means epoch 0
    assert not all(same(first[0, i], first[1, i]) for i in range(6))
    assert not all(same(first[0, i], Ramp(use_aug=True, seed=8)[0, i]) for i in range(6))


def test_the_global_random_streams_are_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = Ramp(use_aug=True)[1, 1]
    torch.manual_seed(99)
    assert same(first, Ramp(use_aug=True)[1, 1])
    torch.manual_seed(0)
    Ramp(use_aug=True)[1, 1]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("strong", [False, True])
def test_colours_change_only_in_the_network_inputs(strong):
    dataset = Ramp(use_aug=True, use_strong_aug=strong)
    changed = 0
    for epoch in range(40):
        item = dataset[epoch, 5]
        assert item["target"].amax().item() == pytest.approx(150 / 255)  # clean, mirrored or not
        changed += not torch.equal(item["target"], item["target_aug"])
        assert torch.equal(item["supports_aug"][0], item["target_aug"])  # same picture, same draw
        assert 0 <= item["target_aug"].min() <= item["target_aug"].max() <= 1
    assert 10 < changed < 38


def test_indices_out_of_range_end_iteration():
    assert len(list(Ramp())) == 6
    for index in (6, -1):
        with pytest.raises(IndexError, match=f"item {index} of a data set of 6"):
            Ramp()[index]


def test_no_supports_is_an_empty_axis():
    assert Ramp(supp_idxs=0).supp_idxs == (0,)
    item = Ramp(supp_idxs=None, use_aug=True)[0]
    assert item["supports"].shape == (0, 3, 2, 4)
    assert item["supports_aug"].shape == (0, 3, 2, 4)


def test_load_ms_times_every_stage():
    item = Ramp(log_time=True)[0]
    assert item["load_ms"].shape == (len(DATA_STAGES),)
    total, parts = item["load_ms"][0], item["load_ms"][1:]
    assert total >= parts.sum() > 0
    assert "load_ms" not in Ramp()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (2, 4)}, r"\[2, 4\] is taller than wide. Did you mean \[4, 2\]"),
        ({"size": (4, 0)}, "two positive numbers"),
        ({"size": (4,)}, "two positive numbers"),
        ({"mode": "training"}, "'training' is not one of train, val, test"),
        ({"as_torch": False}, "as_torch: false is not supported"),
        ({"supp_idxs": [-1, -1]}, "names a frame twice"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Ramp(**options)


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_data_set_takes_the_common_options_and_no_others(name):
    parameters = DATASETS.parameters(name)
    assert list(parameters)[-len(CommonOptions.__annotations__) :] == list(CommonOptions.__annotations__)
    assert parameters["size"].annotation == tuple[int, int]
    assert {key: parameters[key].default for key in DATASETS.get(name).defaults} == DATASETS.get(name).defaults
    with pytest.raises(TypeError, match=r"no argument 'use_dept'. Did you mean 'use_depth'"):
        DATASETS.create(name, use_dept=True)


def test_a_constructor_of_its_own_hides_the_options_of_its_base():
    class Bare(Synthetic):
        def __init__(self, num_items: int = 3):
            super().__init__(num_items)

    assert list(inspect.signature(Bare).parameters) == ["num_items"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'sise'"):
        Synthetic(sise=(64, 32))


def test_an_unreadable_item_names_index_and_stem():
    class Broken(Ramp):
        def load(self, index):
            raise PermissionError(13, "Permission denied", "a.png")

    with pytest.raises(DataError, match=r"item 4 of train \(ramp/4\) cannot be read.*a\.png.*Restore") as caught:
        Broken()[4]
    assert isinstance(caught.value, UserError)


def test_read_image_resizes_to_width_and_height_in_rgb(tmp_path):
    Image.fromarray(np.full((6, 8), 77, np.uint8)).save(tmp_path / "grey.png")
    image = read_image(tmp_path / "grey.png", (4, 2))
    assert image.shape == (2, 4, 3)
    assert image.dtype == np.uint8
    assert (image == 77).all()


def test_read_image_averages_what_falls_together(tmp_path):
    columns = np.zeros((2, 8, 3), np.uint8)
    columns[:, ::4] = 200  # one column in four; without antialiasing columns 1, 2, 5 and 6 alone would count
    Image.fromarray(columns).save(tmp_path / "fine.png")
    assert read_image(tmp_path / "fine.png", (2, 1))[0, :, 0].astype(int) == pytest.approx([50, 50], abs=15)


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "chunk"])
def test_unreadable_pictures_name_the_file(tmp_path, damage):
    path = tmp_path / "x.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("not a picture")
    else:
        path.write_bytes(content[:40] + b"\0\0\0\0" + content[44:])
    with pytest.raises(DataError, match=r"x\.png.*(Restore|again)"):
        read_image(path, (60, 40))


def test_pictures_of_16_bits_are_refused_not_bleached(tmp_path):
    Image.fromarray(np.full((8, 16), 20000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits"):
        read_image(tmp_path / "deep.png", (16, 8))


def test_an_error_from_a_worker_keeps_only_its_message():
    printed = (
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1\ntrainer.runtime.errors.DataError: a.png is missing\n'
    )
    assert str(DataError(printed)) == "a.png is missing"
    assert str(DataError("a.png is missing")) == "a.png is missing"
