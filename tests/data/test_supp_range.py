"""Supports a random number of frames away: on both sides alike, only where frames are, never those of validation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.clips import frames, level
from tests.data.test_kitti_odom import sequence
from tests.data.test_rgbd import scene
from trainer.data import DATASETS
from trainer.data.loaders import EpochBatches, make_loader
from trainer.runtime.errors import DataError, UserError

NUM_FRAMES = 13


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(frames(tmp_path_factory.mktemp("clip"), range(NUM_FRAMES)))


def folder(path: Path, **options: Any) -> Any:
    return DATASETS.create(
        "folder", path=str(path), **{"size": (20, 10), "val_every": 0, "supp_range": (1, 5), **options}
    )


def numbers(item: Any) -> tuple[int, ...]:
    """Numbers of target and supports, which the grey levels tell."""
    return tuple(level(image) // 10 for image in (item["target"], *item["supports"]))


def test_supports_are_equally_far_on_both_sides_and_exist(clip: Path) -> None:
    dataset = folder(clip)
    assert [dataset.describe(i) for i in range(len(dataset))] == [f"{clip.name}/{n}" for n in range(1, NUM_FRAMES - 1)]
    factors: dict[int, Counter[int]] = {}
    for epoch in range(25):
        for index in range(len(dataset)):
            target, before, after = numbers(dataset[epoch, index])
            assert target - before == after - target
            factors.setdefault(target, Counter())[after - target] += 1
    for target, drawn in factors.items():
        assert set(drawn) == set(range(1, min(5, target, NUM_FRAMES - 1 - target) + 1))
    assert min(factors[6].values()) >= 2  # of 25, 5 expected


def test_the_factor_is_a_function_of_seed_epoch_and_index(clip: Path) -> None:
    keys = [(epoch, index) for epoch in (0, 1, 9) for index in range(11)]
    one, other = folder(clip, use_aug=True), folder(clip, use_aug=True)
    first = {key: numbers(one[key])[2] for key in keys}
    assert {key: numbers(other[key])[2] for key in reversed(keys)} == first
    assert {key: numbers(folder(clip, seed=1)[key])[2] for key in keys} != first
    assert len({tuple(first[epoch, index] for index in range(11)) for epoch in (0, 1, 9)}) == 3


def test_worker_processes_change_nothing(clip: Path) -> None:
    def read(num_workers: int) -> list[Any]:
        sampler = EpochBatches(11, 4, seed=1, shuffle=True)
        batches = make_loader(folder(clip), sampler, num_workers=num_workers)
        return [batch["supports"].tolist() for batch in batches]

    assert read(0) == read(1)


@pytest.mark.parametrize("mode", ["val", "test"])
def test_evaluations_draw_nothing(clip: Path, mode: str) -> None:
    dataset = folder(clip, mode=mode, supp_range=(2, 5))
    assert len(dataset) == NUM_FRAMES - 2
    assert all(numbers(dataset[3, i]) == (i + 1, i, i + 2) for i in range(len(dataset)))


def test_no_picture_is_read_by_training_and_validation(tmp_path: Path) -> None:
    path = frames(tmp_path / "a", range(25))
    train, val = (folder(path, mode=mode, val_every=3, supp_range=(1, 3)) for mode in ("train", "val"))
    read = {n for epoch in range(6) for i in range(len(train)) for n in numbers(train[epoch, i])}
    validated = {n for i in range(len(val)) for n in numbers(val[i])}
    assert not read & validated
    assert any(numbers(train[epoch, 2])[2] - numbers(train[epoch, 2])[0] > 2 for epoch in range(20))


def test_a_gap_shortens_the_reach_and_a_least_factor_chooses_items(tmp_path: Path) -> None:
    path = frames(tmp_path / "a", [n for n in range(13) if n != 9])
    dataset = folder(path)
    where = [dataset.describe(i) for i in range(len(dataset))].index("a/6")
    assert {numbers(dataset[epoch, where])[2] for epoch in range(40)} == {7, 8, 10, 11}
    least = folder(path, supp_range=(4, 4))
    assert [least.describe(i) for i in range(len(least))] == ["a/4", "a/6", "a/7", "a/8"]
    assert numbers(least[0, 1]) == (6, 2, 10)


def test_motions_belong_to_the_supports(tmp_path: Path) -> None:
    scene(tmp_path / "rooms" / "000", num_frames=9)
    sequence(tmp_path / "odom", "00", num_frames=9)
    common = {"size": (20, 10), "val_every": 0, "supp_range": (1, 4)}
    rooms = DATASETS.create("rgbd", root=str(tmp_path / "rooms"), **common)
    drives = DATASETS.create("kitti_odom", root=str(tmp_path / "odom"), supp_idxs=[-1, 0, 1], **common)
    for epoch in range(12):
        item = rooms[epoch, 3]
        target, before, after = numbers(item)
        np.testing.assert_allclose(item["Ts_true"][:, 0, 3], [(target - before) / 10, (target - after) / 10], atol=1e-6)
        item = drives[epoch, 3]
        target, before, partner, after = numbers(item)
        assert partner == target
        np.testing.assert_allclose(item["Ts_true"][[0, 2], 2, 3], [target - before, target - after], atol=1e-5)


def test_a_clip_that_is_not_there_is_named(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "split.txt").write_text("elsewhere 3\n")
    dataset = folder(clip, split_file=str(tmp_path / "split.txt"))
    with pytest.raises(DataError, match="elsewhere/3 is missing"):
        dataset[0, 0]


@pytest.mark.parametrize("wrong", [(0, 2), (3, 2)])
def test_a_range_must_rise_from_one(clip: Path, wrong: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"dataset\.supp_range must be \[least, most\]"):
        folder(clip, supp_range=wrong)
