"""A mixture: shares are exact, every item comes once before any comes twice, and all items fit into one batch."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.clips import cut, frames, noise_frame, scar
from tests.data.shards.made import write
from tests.data.test_kitti_odom import sequence
from tests.data.test_rgbd import scene
from trainer.config import ConfigError, load_config
from trainer.data import DATASETS
from trainer.data.loaders import EpochBatches, make_loader
from trainer.data.mixed import Pattern, item_counts
from trainer.runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path):
    """Three clips: a has 12 items, b has 4, c has 6."""
    for name, num_frames in (("a", 14), ("b", 6), ("c", 8)):
        frames(tmp_path / name, range(num_frames))
    return tmp_path


def clip(root, name, **options):
    return {"type": "folder", "path": str(root / name), "val_every": 0, **options}


def mixed(datasets, **options):
    return DATASETS.create("mixed", datasets=datasets, **{"size": (20, 10), **options})


def three(root, **options):
    weights = {"a": 3, "b": 2, "c": 1}
    return mixed({name: clip(root, name, weight=weight) for name, weight in weights.items()}, **options)


def epoch_of(dataset, epoch):
    """What each place of an epoch holds."""
    return [dataset.describe(int(dataset[epoch, i]["index"])) for i in range(len(dataset))]


def test_places_count_the_frames_of_each_recording(root):
    """By their step, so that the next frame has the next number; a mixture names its part, too."""
    frames(root / "d", range(3, 15, 2))
    film = DATASETS.create("folder", path=str(root / "d"), val_every=0, size=(20, 10))
    assert [film.describe(i) for i in range(len(film))] == ["d/5", "d/7", "d/9", "d/11"]
    assert [film.place(i) for i in range(len(film))] == [("d", n) for n in (2, 3, 4, 5)]
    dataset = three(root)
    places = [dataset.place(i) for i in range(len(dataset))]
    assert sorted(places)[0] == ("a: a", 1)
    assert [f"{recording}/{frame}" for recording, frame in places] == [dataset.describe(i) for i in range(len(dataset))]


# Arithmetic


@pytest.mark.parametrize(
    ("weights", "length", "counts"),
    [([1, 1], 10, [5, 5]), ([3, 1], 10, [8, 2]), ([1, 1, 1], 10, [4, 3, 3]), ([0.5, 0.25, 0.25], 8, [4, 2, 2])],
)
def test_items_are_divided_by_weight(weights, length, counts):
    assert item_counts(weights, length) == counts


def test_shares_and_lengths_of_nothing_are_refused(root):
    with pytest.raises(UserError, match="length 3 leaves"):
        item_counts([100, 1], 3)
    with pytest.raises(UserError, match="length must be 1"):
        three(root, length=0)


def test_data_sets_are_spread_evenly_over_an_epoch():
    pattern = Pattern([6, 3])
    owners = [pattern.place(i)[0] for i in range(9)]
    assert owners == [0, 1, 0, 0, 1, 0, 0, 1, 0]
    assert [pattern.place(i)[1] for i in range(9) if owners[i] == 0] == list(range(6))
    assert all(pattern.at(*pattern.place(i)) == i for i in range(9))


# Epochs


def test_shares_of_an_epoch_are_the_weights_whatever_the_sizes(root):
    dataset = three(root, length=30)
    assert len(dataset) == 30
    for epoch in range(3):
        assert Counter(name[0] for name in epoch_of(dataset, epoch)) == {"a": 15, "b": 10, "c": 5}


def test_every_item_comes_once_before_any_comes_twice(root):
    dataset = three(root, length=12)  # a 6 of 12, b 4 of 4, c 2 of 6
    seen = [name for epoch in range(6) for name in epoch_of(dataset, epoch)]
    for name, size in (("a", 12), ("b", 4), ("c", 6)):
        own = [item for item in seen if item[0] == name]
        for start in range(0, len(own) - size + 1, size):
            assert len(set(own[start : start + size])) == size
    assert Counter(item[0] for item in seen) == {"a": 36, "b": 24, "c": 12}
    assert seen[:12] != seen[12:24]
    assert seen[:12] != epoch_of(three(root, length=12, seed=1), 0)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_shards_in_a_mixture_are_read_window_by_window(root):
    plain = DATASETS.create("folder", size=(20, 10), **{k: v for k, v in clip(root, "a").items() if k != "type"})
    shards = {"type": "shards", "path": str(write(plain, root / "shards", 6000)), "window": 1}
    dataset = mixed({"s": {**shards, "weight": 3}, "b": clip(root, "b")})
    names = [name.removeprefix("s: ") for name in epoch_of(dataset, 0) if name.startswith("s: ")]
    assert sorted(names) == sorted(plain.describe(i) for i in range(12))
    (part,) = [part.dataset for part in dataset.parts if part.name == "s"]
    block = {part.describe(i): int(part.blocks[i]) for i in range(12)}
    runs = [number for number, _ in groupby(block[name] for name in names)]
    assert len(runs) == len(set(runs)) == len(part.index.shards) > 2


def test_an_item_depends_on_seed_epoch_and_place_only(root):
    options = {"length": 20, "use_aug": True, "seed": 5}
    forwards, backwards = three(root, **options), three(root, **options)
    keys = [(epoch, i) for epoch in (0, 1, 7) for i in range(20)]
    first = {key: forwards[key] for key in keys}
    assert all(same(first[key], backwards[key]) for key in reversed(keys))


def test_an_item_that_comes_twice_in_an_epoch_is_augmented_anew(root):
    for number in range(3):
        noise_frame(root / "one" / f"{number}.png", number)
    dataset = mixed({"one": clip(root, "one")}, length=16, use_aug=True)
    assert len({tuple(dataset[0, i]["target_aug"].flatten().tolist()) for i in range(16)}) > 8


def batches(dataset, rank=0, world=1, num_workers=0):
    sampler = EpochBatches(len(dataset), 4, rank=rank, world=world, seed=3, shuffle=True, drop_last=True)
    sampler.set_position(2)
    return list(make_loader(dataset, sampler, num_workers=num_workers))


def test_batches_are_the_same_on_any_number_of_processes_and_workers(root):
    alone = batches(three(root))
    two = [batches(three(root), rank, 2) for rank in range(2)]
    for whole, *halves in zip(alone, *two, strict=True):
        together = {key: torch.cat([half[key] for half in halves]) for key in whole}
        assert same(whole, together)
    assert all(same(x, y) for x, y in zip(alone, batches(three(root), num_workers=2), strict=True))


def test_validation_sees_every_item_once_and_a_limit_cuts_all(root):
    dataset = three(root, mode="val", length=7)
    assert len(dataset) == 22
    assert sorted(epoch_of(dataset, 0)) == sorted(
        f"{name}: {name}/{n}" for name, size in (("a", 12), ("b", 4), ("c", 6)) for n in range(1, size + 1)
    )
    assert epoch_of(dataset, 0) == epoch_of(dataset, 5) == [dataset.describe(i) for i in range(22)]
    assert {name[0] for name in epoch_of(dataset, 0)[:6]} == {"a", "b", "c"}


# One batch


@pytest.fixture
def streets_and_rooms(tmp_path):
    """KITTI odometry with stereo and motion, a room with depth, and a folder that knows nothing."""
    sequence(tmp_path / "odom", "00")
    scene(tmp_path / "rooms" / "000")
    frames(tmp_path / "walk", range(6))
    return {
        "streets": {"type": "kitti_odom", "root": str(tmp_path / "odom"), "val_every": 0},
        "rooms": {"type": "rgbd", "root": str(tmp_path / "rooms"), "val_every": 0},
        "walk": clip(tmp_path, "walk"),
    }


def test_keys_that_not_all_have_are_left_out_and_listed(streets_and_rooms):
    dataset = mixed(streets_and_rooms)
    assert dataset.check() == []
    assert dataset.use_depth is False
    (batch, *_) = batches(dataset)
    assert batch.keys() == {"target", "supports", "K", "index"}
    assert dataset.notes()[-1] == "left out, as not all data sets have it: K_depth, Ts_true, depth"
    assert "rooms: 4 of 12 items of an epoch (33.3%), 1 times its 4" in dataset.notes()


def test_cameras_stay_their_own(streets_and_rooms):
    dataset = mixed(streets_and_rooms)
    focal = {dataset.describe(i).partition(":")[0]: float(dataset[i]["K"][0, 0]) for i in range(len(dataset))}
    assert focal == {"streets": 10, "rooms": 15, "walk": pytest.approx(17.32, abs=0.01)}


def test_keys_that_all_have_stay(streets_and_rooms):
    dataset = mixed({name: streets_and_rooms[name] for name in ("streets", "rooms")})
    assert dataset[0]["Ts_true"].shape == (2, 4, 4)


def test_depth_of_different_size_asks_for_one_size(tmp_path, streets_and_rooms):
    scan = tmp_path / "odom" / "sequences" / "00" / "velodyne" / "000001.bin"
    scan.parent.mkdir()
    np.array([[10, 0, 0, 0.5]], np.float32).tofile(scan)
    both = {name: streets_and_rooms[name] for name in ("streets", "rooms")}
    problems = mixed(both).check()
    assert (
        "'depth' has different shapes: streets (1, 376, 1242), rooms (1, 10, 20). Set dataset.depth_size" in problems[0]
    )
    dataset = mixed(both, depth_size=(30, 10))
    assert dataset.check() == []
    assert {tuple(dataset[i]["depth"].shape) for i in range(len(dataset))} == {(1, 10, 30)}
    focal = {round(float(dataset[i]["K_depth"][0, 0]), 3) for i in range(len(dataset))}
    assert focal == {15.0, 22.5}  # 20 of 40 pixels, 30 of 40 pixels, as 30 pixels


def test_stereo_is_refused_where_one_has_no_partner(streets_and_rooms):
    with pytest.raises(UserError, match=r"datasets\.rooms: dataset\.supp_idxs has 0"):
        mixed(streets_and_rooms, supp_idxs=[-1, 1, 0])
    only = {"streets": streets_and_rooms["streets"]}
    assert mixed(only, supp_idxs=[0])[0]["T_stereo"].shape == (4, 4)


def test_supports_may_reach_differently_but_not_be_more(root):
    both = {"a": clip(root, "a"), "b": clip(root, "b", supp_idxs=[-2, 2])}
    assert mixed(both).check() == []
    both["b"]["supp_idxs"] = [-1]
    with pytest.raises(UserError, match=r"b\.supp_idxs \[-1\] do not match"):
        mixed(both)
    assert mixed(both, supp_idxs=None, mode="val")[0]["supports"].shape[0] == 0  # single images need none


def test_modes_may_override_keys_of_one_data_set(root):
    datasets = {"a": clip(root, "a", val={"path": str(root / "c")}), "b": clip(root, "b", val={"frame_gap": 2})}
    assert len(mixed(datasets, mode="val")) == 6 + 2
    assert len(mixed(datasets)) == 12 + 4
    assert len(mixed({"synthetic": {"num_items": 5}}, size=(64, 32))) == 5  # the name is the type


# One data set per batch


def of_one(root, **options):
    """Three clips of different size, in shares of 12, 8 and 4."""
    sizes, weights = {"a": [20, 10], "b": [24, 12], "c": [16, 16]}, {"a": 3, "b": 2, "c": 1}
    datasets = {name: clip(root, name, weight=weight, size=sizes[name]) for name, weight in weights.items()}
    return mixed(datasets, **{"length": 24, "one_per_batch": True, **options})


def grouped_batches(dataset, rank=0, world=1, num_workers=0, start=0):
    options = {"seed": 3, "shuffle": True, "drop_last": True, "groups": dataset.groups}
    sampler = EpochBatches(len(dataset), 4, rank=rank, world=world, **options)
    sampler.set_position(1, start)
    return list(make_loader(dataset, sampler, num_workers=num_workers))


def test_each_batch_is_of_one_data_set_with_its_size_and_shares_stay(root):
    dataset = of_one(root)
    assert dataset.check() == []
    epoch = grouped_batches(dataset)
    names = [{dataset.describe(int(i))[0] for i in batch["index"]} for batch in epoch]
    assert names == [{"a"}, {"b"}, {"a"}, {"c"}, {"b"}, {"a"}]
    shapes = {name.copy().pop(): tuple(batch["supports"].shape) for name, batch in zip(names, epoch, strict=True)}
    assert shapes == {"a": (4, 2, 3, 10, 20), "b": (4, 2, 3, 12, 24), "c": (4, 2, 3, 16, 16)}
    assert Counter(dataset.describe(int(i))[0] for batch in epoch for i in batch["index"]) == {"a": 12, "b": 8, "c": 4}


def test_batches_of_one_data_set_are_the_same_on_two_processes_with_workers_and_continued(root):
    alone = grouped_batches(of_one(root))
    halves = [grouped_batches(of_one(root), rank, 2) for rank in range(2)]
    for whole, *parts in zip(alone, *halves, strict=True):
        assert same(whole, {key: torch.cat([part[key] for part in parts]) for key in whole})
    continued = grouped_batches(of_one(root), start=2, num_workers=1)
    assert all(same(x, y) for x, y in zip(alone[2:], continued, strict=True))


def test_validation_of_data_sets_of_different_size_sees_every_item_once(root):
    dataset = of_one(root, mode="val")
    sampler = EpochBatches(22, 4, groups=dataset.groups)
    seen = [int(i) for batch in make_loader(dataset, sampler) for i in batch["index"]]
    assert sorted(seen) == list(range(22))


def test_a_size_of_ones_own_needs_batches_of_one_data_set(root):
    with pytest.raises(UserError, match=r"a\.size is set for all .* or set dataset\.one_per_batch: true"):
        of_one(root, one_per_batch=False)
    with pytest.raises(UserError, match=r"^dataset\.datasets\.a\.size is \[width, height\]"):
        mixed({"a": clip(root, "a", size=[10, 20])}, one_per_batch=True)


# Damage


def test_problems_of_all_data_sets_are_named_with_their_names(root):
    cut(root / "a" / "000003.png", 0.5)
    cut(root / "c" / "000004.png", 0.5)
    problems = three(root).check()
    assert [line[:3] for line in problems] == ["a: ", "c: "]


def test_a_stand_in_comes_from_the_same_data_set_and_is_counted_once(root, caplog):
    noise_frame(root / "c" / "000004.png")
    scar(root / "c" / "000004.png")
    dataset = three(root, length=24)
    for epoch in range(3):
        sampler = EpochBatches(24, 4)
        sampler.set_position(epoch)
        names = [dataset.describe(int(i)) for batch in make_loader(dataset, sampler) for i in batch["index"]]
        assert Counter(name[0] for name in names) == {"a": 12, "b": 8, "c": 4}
        assert not {"c: c/3", "c: c/4", "c: c/5"} & set(names)
    assert int(dataset.unreadable.sum()) == len(caplog.records) <= 3


# Mistakes


def one(**settings):
    return {"a": {"type": "folder", "path": "x", **settings}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one(type="foldr"), "a.type: 'foldr' is not a dataset that can be mixed. Did you mean 'folder'?"),
        (one(type="mixed"), "a.type: 'mixed' is not a dataset that can be mixed"),
        (one(pth="x"), "a.pth is not an argument of dataset 'folder'. Did you mean 'path'?"),
        ({"a": {"type": "folder"}}, "a.path: missing"),
        (one(frame_gap="2"), "a.frame_gap: '2' does not fit"),
        (one(size=[64, 32]), "a.size is set for all data sets together: use dataset.size"),
        (one(weight=0), "a.weight must be a positive number, got 0"),
        (one(weight="much"), "a.weight must be a positive number, got 'much'"),
        (one(val={"wait": 2}), "a.wait is not an argument of dataset 'folder'"),
        (one(val=3), "a: train, val and test must be mappings"),
        ({"a": None}, "datasets: none is named"),
        ({}, "datasets: none is named"),
    ],
)
def test_mistakes_are_named_with_the_nearest_name(change, message):
    with pytest.raises(UserError) as caught:
        mixed(change)
    assert message in str(caught.value)
    assert any(message in line for line in DATASETS.get("mixed").validate_config({"datasets": change}))


def test_keys_of_a_data_set_are_named_where_they_stand(root):
    datasets = {"a": clip(root, "a", fov=400), "b": clip(root, "b")}
    with pytest.raises(UserError, match=r"^dataset\.datasets\.a\.fov must be"):
        mixed(datasets)
    with pytest.raises(UserError, match=r"^dataset\.datasets\.a\.supp_idxs has 0"):
        mixed({"a": clip(root, "a", supp_idxs=[0, 1])})
    with pytest.raises(UserError, match=r"datasets\.a: dataset\.use_hints"):  # a key of all
        mixed({"a": clip(root, "a")}, use_hints=True)


@pytest.mark.parametrize("value", ["[]", "x"])
def test_data_sets_that_are_no_mapping_are_named_without_a_traceback(value):
    page, default = (ROOT / "cfg" / "real" / name for name in ("mixed.yaml", "default.yaml"))
    with pytest.raises(ConfigError, match=r"dataset\.datasets: expected a mapping"):
        load_config(page, default, [f"dataset.datasets={value}"])


def test_a_page_tells_mistakes_at_their_place():
    page, default = (ROOT / "cfg" / "real" / name for name in ("mixed.yaml", "default.yaml"))
    with pytest.raises(ConfigError) as caught:
        load_config(page, default, ["dataset.datasets.rooms.rot=x"])
    (problem,) = caught.value.problems
    assert "dataset.datasets: rooms.rot is not an argument of dataset 'rgbd'. Did you mean 'root'?" in problem
    cfg = load_config(page, default, ["dataset.datasets.rooms=~", "dataset.datasets.streets.weight=2"])
    assert cfg.dataset_kwargs("train")[1]["datasets"]["rooms"] is None


@pytest.mark.parametrize("page", sorted(p.name for p in (ROOT / "cfg" / "real").glob("*.yaml") if p.stem != "default"))
def test_pages_are_usable(page):
    cfg = load_config(ROOT / "cfg" / "real" / page, ROOT / "cfg" / "real" / "default.yaml")
    assert cfg.warnings == ()
    assert cfg.supp_idxs == (-1, 1)


def test_real_streets_and_rooms(shared_data):
    split = str(shared_data / "splits" / "kitti_raw" / "train_files.txt")
    datasets = {
        "streets": {"type": "kitti_odom", "root": str(shared_data), "weight": 3},
        "rooms": {"type": "rgbd", "root": str(shared_data / "indoor_hololens")},
        "drive": {"type": "kitti", "root": str(shared_data / "kitti_raw"), "split_file": split, "weight": 2},
    }
    dataset = mixed(datasets, size=(96, 64), length=24, use_depth=False)
    assert dataset.check() == []
    loaded = batches(dataset)
    assert sum(len(batch["index"]) for batch in loaded) == 24
    names = Counter(dataset.describe(int(i)).partition(":")[0] for batch in loaded for i in batch["index"])
    assert names == {"streets": 12, "drive": 8, "rooms": 4}
