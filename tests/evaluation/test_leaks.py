"""The leak guard: planted frames are found, whoever took them and whatever they are called; clean lists are silent."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data.clips import noise_frame
from tests.data.made_kitti import kitti, write_lines, write_raw
from trainer.checkpoint import TrainedOn
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.data.files.frames import TARGET, FrameList
from trainer.data.kitti_raw.lists import read_list
from trainer.evaluation.leaks import declared, find_leaks, in_words
from trainer.evaluation.targets import TargetsFile
from trainer.runtime.errors import UserError

DRIVE = "2011_09_26/2011_09_26_drive_0002_sync"  # one of Eigen's test drives


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "kitti_raw")


@pytest.fixture
def splits(shared_data: Path) -> Path:
    return shared_data / "kitti_splits"


def trained_on(dataset: DepthDataset) -> TrainedOn:
    lists, frames = zip(*dataset.lists(), strict=True)
    return TrainedOn(lists, frames[0], dataset.fingerprints())


@pytest.fixture(scope="module")
def zhou(shared_data: Path) -> TrainedOn:
    """The clean training of 39,810 lines, supports at -1 and 1."""
    entry, frames = read_list(str(shared_data / "kitti_splits/eigen_zhou/train_files.txt"), None, (-1, 1))
    assert (entry.items, len(frames.only(TARGET))) == (39_810, 32)
    return TrainedOn((entry,), frames)


def items_of(raw: Path, path: Path) -> DepthDataset:
    return kitti(raw, split_file=str(path), mode="test", supp_idxs=None)


def counts(leaks: dict) -> dict[str, int]:
    return {key: leaks[key] for key in ("exact", "other_camera", "as_support", "near", "shared_drives")}


def test_clean_lists_are_silent(raw: Path, splits: Path, zhou: TrainedOn) -> None:
    for test in ("eigen/test", "eigen_benchmark/test"):
        items = items_of(raw, splits / f"{test}_files.txt")
        leaks = find_leaks(zhou, items, range(len(items)))
        assert set(counts(leaks).values()) == {0}
        sentence, is_warning = in_words(leaks)
        assert not is_warning
        assert sentence == (
            f"training frames: none of the {leaks['frames']} evaluated frames, nor a frame within 10 of them, nor their"
            " drives (eigen_zhou/train, the Eigen-Zhou training list, 77b5f05794d6)"
        )


def test_the_benchmark_list_under_another_name(raw: Path, splits: Path, tmp_path: Path) -> None:
    train = tmp_path / "eigen_zhou" / "train_files.txt"
    train.parent.mkdir()
    shutil.copy(splits / "benchmark" / "train_files.txt", train)
    training = kitti(raw, split_file=str(train), supp_idxs=[-1, 1])
    items = items_of(raw, splits / "eigen" / "test_files.txt")
    leaks = find_leaks(trained_on(training), items, range(697))
    assert (leaks["frames"], leaks["drives"]) == (697, 28)
    assert leaks["exact"] - leaks["as_support"] == 451
    sentence, is_warning = in_words(leaks)
    assert is_warning
    assert sentence.startswith(f"leak: {leaks['exact']} of 697 evaluated frames are training frames (")
    assert f"{leaks['as_support']} as supports alone" in sentence
    assert "(eigen_zhou/train, the KITTI benchmark training list, 55f5eceb84c1)" in sentence
    training.supp_idxs = ()
    assert counts(find_leaks(trained_on(training), items, range(697))) == {
        "exact": 451, "other_camera": 0, "as_support": 0, "near": 505, "shared_drives": 21,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "side", "found"),
    [  # 69 is a test frame, 66 is none; supports are read, too
        (69, "l", {"exact": 1, "other_camera": 0, "as_support": 0}),
        (69, "r", {"exact": 1, "other_camera": 1, "as_support": 0}),
        (70, "l", {"exact": 1, "other_camera": 0, "as_support": 1}),
        (67, "l", {"exact": 0, "other_camera": 0, "as_support": 0}),
    ],
)
def test_one_frame_planted_in_39_810(
    raw: Path, splits: Path, tmp_path: Path, zhou: TrainedOn, frame: int, side: str, found: dict
) -> None:
    test = splits / "eigen" / "test_files.txt"
    items = items_of(raw, test)
    one = kitti(raw, split_file=write_lines(tmp_path / "one.txt", f"{DRIVE} {frame} {side}"), supp_idxs=[-1, 1])
    leaks = find_leaks(zhou | trained_on(one), items, range(697))
    rows = [int(row.split()[1]) for row in test.read_text().splitlines() if row.startswith(DRIVE)]
    near = sum(any(abs(n - s) <= 10 for s in (frame - 1, frame, frame + 1)) for n in rows)
    assert counts(leaks) == {**found, "near": near, "shared_drives": 1}
    sentence, is_warning = in_words(leaks)
    assert is_warning
    assert sentence.startswith("leak: 1 of 697" if found["exact"] else "none of 697")


def test_a_validation_list_of_frames_of_the_training(raw: Path, splits: Path, zhou: TrainedOn) -> None:
    """By the other camera: a published fact."""
    items = items_of(raw, splits / "eigen_zhou" / "val_files.txt")
    leaks = find_leaks(zhou, items, range(len(items)))
    assert (leaks["frames"], leaks["exact"] - leaks["as_support"], leaks["near"]) == (4_187, 3_950, 4_187)
    assert leaks["other_camera"] == 3_950


def test_a_limit_counts_what_is_scored(raw: Path, tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.txt", f"{DRIVE} 1 l")
    test = write_lines(tmp_path / "test.txt", f"{DRIVE} 1 l", f"{DRIVE} 3 l")
    training = kitti(raw, split_file=train, supp_idxs=None)
    items = kitti(raw, split_file=test, mode="test", supp_idxs=None)
    assert find_leaks(trained_on(training), items, [0, 1])["exact"] == 1
    assert find_leaks(trained_on(training), items, [1])["exact"] == 0


def test_without_a_list_nobody_knows(raw: Path) -> None:
    leaks = find_leaks(None, kitti(raw), [0, 1])
    assert leaks == {"training": "unknown", "items": 2}
    sentence, is_warning = in_words(leaks)
    assert sentence.startswith("training frames: unknown, so nobody can say whether the network was trained on these 2")
    assert not is_warning


def test_a_list_that_is_declared(raw: Path) -> None:
    items = kitti(raw, mode="train")
    leaks = find_leaks(declared("mini", items, (-1, 1)), items, [0])
    assert (leaks["training"], leaks["exact"]) == ("declared", 1)
    assert "(declared: mini/train, " in in_words(leaks)[0]
    with pytest.raises(UserError, match="Did you mean 'mini'"):
        declared("mimi", items, ())


def test_weights_that_do_not_say_what_they_saw_before(raw: Path, tmp_path: Path) -> None:
    training = trained_on(kitti(raw)) | TrainedOn(is_whole=False)
    other = write_lines(tmp_path / "test.txt", "2011_09_26/2011_09_26_drive_0005_sync 3 l")
    leaks = find_leaks(training, kitti(raw, split_file=other), [0])
    assert (leaks["training"], leaks["exact"]) == ("known in part", 0)
    assert "known in part, for it started from weights that do not say: mini/train" in in_words(leaks)[0]


def test_truths_in_a_file_are_known_by_the_names_of_their_items(raw: Path) -> None:
    dataset = kitti(raw)
    truths = TargetsFile([np.ones((2, 2), np.float32)] * 2, names=[dataset.describe(0), dataset.describe(1)])
    assert find_leaks(trained_on(dataset), truths, [0, 1])["exact"] == 2
    assert find_leaks(trained_on(dataset), truths, [1])["exact"] == 1


def folder_of(root: Path, seeds: range, digits: int = 4) -> Path:
    for number, seed in enumerate(seeds):
        noise_frame(root / f"{number:0{digits}d}.png", seed)
    return root


def test_two_folders_that_share_three_renamed_pictures(tmp_path: Path) -> None:
    ours, theirs = folder_of(tmp_path / "film", range(8)), folder_of(tmp_path / "other", range(100, 108))
    for number, stolen in enumerate((2, 5, 7)):
        shutil.copy(ours / f"{stolen:04d}.png", theirs / f"{2 * number:04d}.png")
    films = [
        DATASETS.create("folder", path=str(path), size=(20, 10), val_every=0, supp_idxs=supports, fov=60.0)
        for path, supports in ((ours, [-1, 1]), (theirs, None))
    ]
    leaks = find_leaks(trained_on(films[0]), films[1], range(len(films[1])))
    assert (leaks["items"], leaks["same_pictures"], leaks["exact"]) == (8, 3, 0)
    sentence, is_warning = in_words(leaks)
    assert is_warning
    assert sentence.startswith("leak: 3 of 8 evaluated pictures are training pictures by their bytes (")


def test_a_clip_is_the_same_recording_wherever_it_lies(tmp_path: Path) -> None:
    film = folder_of(tmp_path / "film", range(40))
    copy = Path(shutil.copytree(film, tmp_path / "elsewhere" / "copy"))
    options = {"size": (20, 10), "fov": 60.0, "val_every": 4}
    train = DATASETS.create("folder", path=str(film), supp_idxs=[-1, 1], **options)
    val = DATASETS.create("folder", path=str(copy), supp_idxs=None, mode="val", **options)
    leaks = find_leaks(trained_on(train), val, range(len(val)))
    assert (leaks["exact"], leaks["near"], leaks["same_pictures"], leaks["shared_drives"]) == (
        0,
        9,
        0,
        1,
    )  # of 30 to 39; read are 0 to 28
    sentence, is_warning = in_words(leaks)
    assert is_warning
    assert sentence.startswith("none of 10 evaluated frames is a training frame, but 9 have one within 10 frames")


def test_mixed_sets_tell_what_all_of_their_parts_read(raw: Path, tmp_path: Path) -> None:
    film = folder_of(tmp_path / "film", range(6))
    parts = {"film": {"type": "folder", "path": str(film), "val_every": 0, "fov": 60.0}}
    parts["kitti"] = {"type": "kitti", "root": str(raw), "split": "mini"}
    mixed = DATASETS.create("mixed", datasets=parts, size=(20, 6), supp_idxs=[-1, 1], use_depth=False)
    lists = [entry for entry, _ in mixed.lists()]
    assert [(type(entry), entry.name, entry.items) for entry in lists] == [
        (FrameList, "", 4),
        (FrameList, "mini/train", 2),
    ]
    assert len(mixed.fingerprints()) == 6
    items = kitti(raw)
    trained = TrainedOn(tuple(lists), mixed.frames(), mixed.fingerprints())
    assert find_leaks(trained, items, [0, 1])["exact"] == 2
    own = find_leaks(trained, mixed, range(len(mixed)))
    assert (own["frames"], own["exact"], own["same_pictures"]) == (5, 5, 3)  # half of an epoch of 6 is of the film


def test_synthetic_scenes_of_other_modes_have_nothing_in_common() -> None:
    train, test = (DATASETS.create("synthetic", num_items=16, mode=mode) for mode in ("train", "test"))
    leaks = find_leaks(trained_on(train), test, range(16))
    assert set(counts(leaks).values()) == {0}
    assert find_leaks(trained_on(train), train, range(4))["exact"] == 4
    other = DATASETS.create("synthetic", num_items=16, motion=1.0)
    assert find_leaks(trained_on(train), other, range(16))["exact"] == 0
