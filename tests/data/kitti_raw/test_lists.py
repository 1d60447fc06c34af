"""Lists of KITTI's frames are known by their content, and what is named is counted right."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.data.made_kitti import DATE, kitti, write_lines, write_raw
from tests.data.test_kitti_odom import odometry, sequence, split
from trainer.data.files.frames import LEFT, Frames, compare
from trainer.data.kitti_raw.files import MANIFEST
from trainer.data.kitti_raw.lists import (
    KNOWN,
    are_published_together,
    eigen_test,
    frames_named,
    identify,
    list_name,
    read_list,
)
from trainer.runtime.errors import UserError

BENCHMARK, ZHOU = (
    next(d for d, k in KNOWN.items() if k.names[0] == name) for name in ("benchmark/train", "eigen_zhou/train")
)
LISTS = {
    "eigen/test": (697, 697),
    "eigen_benchmark/test": (652, 652),
    "eigen_zhou/train": (21_880, 0),
    "eigen_zhou/val": (4_187, 0),
    "eigen_full/train": (22_600, 0),
    "eigen_full/val": (888, 0),
    "benchmark/train": (36_042, 451),
    "benchmark/val": (3_030, 145),
}


@pytest.fixture
def splits(shared_data: Path) -> Path:
    return shared_data / "kitti_splits"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "kitti_raw")


def test_the_list_that_goes_along_is_that_of_eigen() -> None:
    assert len(eigen_test()) == 697
    assert KNOWN[eigen_test().digest()].names[0] == "eigen/test"
    assert len(eigen_test().drives) == 28


@pytest.mark.parametrize("name", LISTS)
def test_published_lists_have_their_digest_and_their_test_frames(splits: Path, name: str) -> None:
    entry, frames = read_list(str(splits / f"{name}_files.txt"), None, ())
    assert (entry.name, name in KNOWN[entry.digest].names) == (name, True)
    count, shared = LISTS[name]
    assert (len(frames), compare(frames, eigen_test()).exact) == (count, shared)
    tests = name.endswith("/test")
    told = identify(entry.digest, entry.name, frames, tests=tests)
    assert bool(told) == bool(shared and not tests)  # clean lists under their names are not worth a word


def test_the_odometry_lists_hold_test_frames_of_their_raw_drives(splits: Path) -> None:
    entry, frames = read_list(str(splits / "odom" / "train_files.txt"), None, (-1, 1))
    assert (entry.items, KNOWN[entry.digest].names) == (36_671, ("odom/train",))
    assert compare(eigen_test(), frames).exact == 95
    drives = {drive for drive in frames.drives if drive in eigen_test().drives}
    assert drives == {"2011_10_03_drive_0027_sync", *(f"2011_09_30_drive_{n}_sync" for n in ("0016", "0018", "0027"))}


def test_the_benchmark_list_under_another_name_is_named(splits: Path, tmp_path: Path) -> None:
    lines = (splits / "benchmark" / "train_files.txt").read_text().splitlines()
    path = tmp_path / "eigen_zhou" / "train_files.txt"
    path.parent.mkdir()
    path.write_text("\n".join(reversed(lines)))  # the order does not matter
    entry, frames = read_list(str(path), None, (-1, 1))
    told = identify(entry.digest, entry.name, frames)
    assert told == (
        "this is the KITTI benchmark training list under the name eigen_zhou/train: 451 of the 697 Eigen test frames"
        " are in it"
    )


def test_other_lists_are_told_by_what_they_hold() -> None:
    some = Frames.of([("2011_09_26_drive_0002_sync", [69, 70], LEFT)])
    assert identify(some.digest(), "mine/train", some) == "mine/train: 1 of the 697 Eigen test frames are in it"
    assert identify(some.digest(), "mine/test", some, tests=True) == ""
    other = Frames.of([("2011_09_26_drive_0001_sync", [69], LEFT)])
    assert identify(other.digest(), "mine/train", other) == ""
    assert identify(ZHOU, "mine/train", other) == "this is the Eigen-Zhou training list under the name mine/train"


def test_lists_of_one_publication() -> None:
    val = next(d for d, k in KNOWN.items() if k.names == ("eigen_zhou/val",))
    assert are_published_together([ZHOU, val])
    assert not are_published_together([BENCHMARK, val])
    assert not are_published_together([ZHOU, "0" * 64])
    assert not are_published_together([])


def test_a_data_set_of_kitti_tells_targets_and_supports(raw: Path) -> None:
    dataset = kitti(raw, supp_idxs=[-1, 0, 1])
    ((entry, frames),) = dataset.lists()
    drive = f"{DATE}_drive_0001_sync"
    assert (entry.name, entry.items) == ("mini/train", 2)
    assert {n: int(r) for n, r in zip(*map(list, frames.drives[drive]), strict=True)} == {0: 4, 1: 5, 2: 6, 3: 4}
    assert dataset.frames([1]).drives[drive][0].tolist() == [1, 2, 3]
    assert dataset.fingerprints().tolist() == []
    assert dataset.fingerprint_of(0) is not None
    assert frames_named(dataset.describe(i) for i in (0, 1)).digest() == entry.digest


def test_rendered_drives_do_not_pass_for_those_of_kitti(raw: Path) -> None:
    (raw / MANIFEST).write_text("{}")
    (drive,) = kitti(raw).frames().drives
    assert drive.startswith("rendered_")
    assert drive.endswith(f"_{DATE}_drive_0001_sync")


def test_odometry_frames_are_those_of_their_raw_drives(tmp_path: Path) -> None:
    for name in ("08", "11"):
        sequence(tmp_path, name)
    dataset = odometry(tmp_path, **split(tmp_path, "8 2 l", "8 2 r", "11 3 l"))
    ((entry, frames),) = dataset.lists()
    assert entry.digest == Frames.of([("8", [2], LEFT), ("11", [3], LEFT)]).digest()
    assert {drive: numbers.tolist() for drive, (numbers, _) in frames.drives.items()} == {
        "2011_09_30_drive_0028_sync": [1101, 1102, 1103],
        "odometry_11": [2, 3, 4],
    }


def test_names_of_split_files() -> None:
    assert list_name(Path("/splits/eigen_zhou/train_files.txt")) == "eigen_zhou/train"
    assert list_name(Path("/splits/mine.txt")) == "mine"


def test_a_declared_list_may_be_a_name_or_a_file(raw: Path, tmp_path: Path) -> None:
    by_name, by_file = read_list("mini", raw, (1,)), read_list(str(raw / "splits/mini/train_files.txt"), None, (1,))
    assert by_name[0] == by_file[0]
    with pytest.raises(UserError, match="Did you mean 'mini'"):
        read_list("mimi", raw, ())
    with pytest.raises(UserError, match=r"no such split file\. Name one, with lines"):
        read_list("mini", None, ())
    (tmp_path / "list.txt").write_text("2011_09_26/2011_09_26_drive_0001_sync 1 l\nimage 3\n")
    with pytest.raises(UserError, match=r"list.txt:2: 'image 3': expected"):
        read_list(str(tmp_path / "list.txt"), None, ())


def test_a_list_of_72_000_lines_is_named_in_no_time(raw: Path) -> None:
    rows = (f"{DATE}/{DATE}_drive_{n // 1000:04d}_sync {n % 1000} {side}" for n in range(36_000) for side in "lr")
    train = kitti(raw, split_file=write_lines(raw.parent / "train_files.txt", *rows), supp_idxs=[-1, 0, 1])
    start = time.process_time()
    ((entry, frames),) = train.lists()
    identify(entry.digest, entry.name, frames)
    assert compare(train.frames(), frames).exact == entry.items / 2
    assert time.process_time() - start < 1  # measured: a tenth of it
