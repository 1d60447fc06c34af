"""Views of an item: windows of its pictures at other sizes, drawn from (seed, epoch, index) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_base import Ramp, same
from trainer.data import DATASETS, views
from trainer.data.files.pictures import at_size
from trainer.data.folder import FrameFolder
from trainer.data.loaders import EpochBatches, make_loader
from trainer.data.synthetic import Synthetic
from trainer.data.views import Window
from trainer.runtime.errors import DataError, UserError

ALL = {"high": [1.1, 2.0], "low": [0.7, 0.9], "crop": [1.2, 2.0], "permute": [0.1, 0.9]}
SIZE = (64, 32)


def numbered(size):
    """A picture whose pixels say where they are: red the column, green the row."""
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(size[0]), np.arange(size[1])[:, None]
    return picture


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Nine random frames of 100 x 50 pixels, a picture of noise each."""
    folder = tmp_path_factory.mktemp("frames")
    noise = np.random.default_rng(0).integers(0, 256, (9, 50, 100, 3), dtype=np.uint8)
    for i, picture in enumerate(noise):
        Image.fromarray(picture).save(folder / f"{i:03d}.png")
    return folder


def folder(frames, **options):
    return FrameFolder(str(frames), val_every=0, fov=60.0, size=SIZE, supp_idxs=(-1, 1), **options)


def test_a_part_of_an_enlarged_picture():
    window = Window((6, 4), (9, 6), (2, 1))
    cut = window.cut(numbered((9, 6)))
    assert cut[0, :, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert cut[:, 0, 1].tolist() == [1, 2, 3, 4]
    assert (window.A @ [4, 2, 1]).tolist() == [4 * 1.5 - 2, 2 * 1.5 - 1, 1]


def test_a_reduced_picture_is_continued_with_its_own_last_strips():
    window = Window((6, 4), (4, 3))
    cut = window.cut(numbered((4, 3)))
    assert cut[0, :, 0].tolist() == [0, 1, 2, 3, 2, 3]  # columns 2 * 4 - 6 .. 4, in order
    assert cut[:, 5, 1].tolist() == [0, 1, 2, 2]  # rows 2 * 3 - 4 .. 3, also in the corner
    assert np.allclose(window.A, np.diag([4 / 6, 3 / 4, 1]))


def test_draws_stay_in_their_ranges_and_are_independent():
    rng = np.random.default_rng(0)
    drawn = [views.draw(views.checked_ranges(ALL), (640, 192), rng) for _ in range(200)]
    for name, (least, most) in {key: ALL[key] for key in ("high", "low", "crop")}.items():
        ratios = np.array([item[name].zoomed[0] / 640 for item in drawn])
        assert least - 1 / 640 <= ratios.min() < least + 0.1
        assert most - 0.1 < ratios.max() <= most
        for window in (item[name] for item in drawn):
            assert all(
                0 <= o <= max(z - s, 0) for o, z, s in zip(window.origin, window.zoomed, (640, 192), strict=True)
            )
    cuts = np.array([item["permute"].origin for item in drawn]) / (640, 192)
    assert 0.09 < cuts.min() < cuts.max() < 0.91
    assert abs(np.corrcoef(cuts.T)[0, 1]) < 0.2
    least = [views.draw({"low": (0.5, 0.5)}, (5, 3), rng)["low"].zoomed for _ in range(2)]
    assert least == [(3, 2)] * 2  # not 2 x 1, of which there is nothing to repeat


def test_the_plain_item_is_as_it_is_without_views(frames):
    item, plain = folder(frames, views=ALL, use_aug=True)[3, 2], folder(frames, use_aug=True)[3, 2]
    assert same({key: item[key] for key in plain}, plain)
    shapes = {key.removeprefix("view_"): tuple(value.shape) for key, value in item.items() if key not in plain}
    one, both = (3, 32, 64), (2, 3, 32, 64)
    assert shapes == {
        **{f"{name}_target": one for name in ("high", "low", "crop")},
        **{f"{name}_supports": both for name in ("high", "low", "crop")},
        **{f"{name}_A": (3, 3) for name in ("high", "low", "crop")},
        "crop_target_aug": one,
        "crop_depth_factor": (),
        "permute_cut": (2,),
    }
    assert item["view_crop_depth_factor"] == item["view_crop_A"][0, 0]
    assert item["view_permute_cut"].dtype == torch.int64


def test_validation_has_the_plain_view_alone(frames):
    assert same(folder(frames, views=ALL, mode="val")[1], folder(frames, mode="val")[1])
    assert Synthetic.evaluation_arguments()["views"] is None


def test_views_are_cut_from_the_picture_as_recorded_which_is_decoded_once(frames, monkeypatch):
    """Also mirrored items: they are resized, mirrored, then cut."""
    from trainer.data import recorded

    dataset, read, flips = folder(frames, views=ALL, use_aug=True), [], set()
    decode = recorded.read_rgb
    monkeypatch.setattr(recorded, "read_rgb", lambda source: read.append(source) or decode(source))
    plain = folder(frames)[2]["target"]
    for epoch in range(6):
        read.clear()
        item = dataset[epoch, 2]
        assert len(read) == 3
        flip = not torch.equal(item["target"], plain)
        flips.add(flip)
        A = item["view_high_A"].double()
        zoomed = round(float(A[0, 0]) * 64), round(float(A[1, 1]) * 32)
        x, y = (-A[:2, 2]).int().tolist()
        sources = [str(source) for source in read]
        for source, view in zip(sources, [item["view_high_target"], *item["view_high_supports"]], strict=True):
            picture = at_size(decode(source), zoomed)
            picture = picture[:, ::-1] if flip else picture
            assert np.array_equal((view * 255).round().byte().permute(1, 2, 0), picture[y : y + 32, x : x + 64])
    assert flips == {False, True}


def test_crop_gets_the_colours_of_the_item_and_high_keeps_its_own(frames):
    dataset = folder(frames, views={"high": [1.5, 1.5], "crop": [1.5, 1.5]}, use_aug=True)
    item = next(i for i in (dataset[e, 1] for e in range(9)) if not torch.equal(i["target"], i["target_aug"]))
    assert not torch.equal(item["view_crop_target"], item["view_crop_target_aug"])
    assert "view_high_target_aug" not in item
    assert "view_crop_target_aug" not in folder(frames, views={"crop": [1.5, 1.5]})[1]


def test_a_data_set_without_files_is_loaded_again_at_the_size_of_the_view():
    item = Synthetic(size=SIZE, num_items=2, views={"high": [2.0, 2.0]})[1]
    twice = Synthetic(size=(128, 64), num_items=2)[1]
    x, y = (-item["view_high_A"][:2, 2]).int().tolist()
    assert torch.equal(item["view_high_target"], twice["target"][:, y : y + 32, x : x + 64])
    assert torch.equal(item["view_high_supports"], twice["supports"][..., y : y + 32, x : x + 64])
    K = item["view_high_A"] @ item["K"]
    assert torch.allclose(K[:2, 2] + torch.tensor([x, y]), twice["K"][:2, 2])  # cx - dx, cy - dy
    with pytest.raises(DataError, match=r"one size only.*permute"):
        Ramp(views={"high": [2.0, 2.0]})[0]
    assert Ramp(views={"permute": [0.5, 0.5]})[0]["view_permute_cut"].tolist() == [2, 1]


def test_every_data_set_has_views_and_a_mixture_passes_them_on(frames):
    assert all("views" in DATASETS.parameters(name) for name in DATASETS.names())
    mixed = DATASETS.create(
        "mixed",
        datasets={"folder": {"path": str(frames), "val_every": 0, "fov": 60.0}, "synthetic": {"num_items": 4}},
        size=SIZE,
        views=ALL,
        use_depth=False,
    )
    assert not mixed.check()
    items = [mixed[0, index] for index in range(6)]
    assert {key for item in items for key in item} == items[0].keys()
    assert {"view_high_target", "view_permute_cut"} <= items[0].keys()


def test_workers_change_nothing(frames):
    def batches(workers):
        dataset = folder(frames, views=ALL, use_aug=True, seed=5)
        sampler = EpochBatches(len(dataset), 3, seed=5, shuffle=True, drop_last=True)
        sampler.set_position(2, 0)
        return list(make_loader(dataset, sampler, num_workers=workers))

    one, two = batches(0), batches(2)
    assert len(one) == 2
    assert all(same(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"hihg": [1.1, 2]}, "dataset.views: 'hihg' is not a view. Did you mean 'high'?"),
        ({"high": [0.9, 2]}, "dataset.views: high is the range of a ratio .* from 1 to 4; got .0.9, 2."),
        ({"low": [0.9, 0.7]}, "low is the range .* the smaller one first"),
        ({"permute": 0.5}, "two numbers.* got 0.5"),
    ],
)
def test_an_odd_range_is_one_sentence(wrong, told):
    with pytest.raises(UserError, match=told):
        Ramp(views=wrong)
    assert Ramp(views={"high": None}).views == {}
