"""KITTI in LMDB databases, ours and those of earlier code: the same items as from files; no pickle is ever run."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch

from tests.data.files.test_pickles import doubled
from trainer.commands.prepare import main
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.data.files import lmdb as _lmdb
from trainer.data.files.arrays import array_bytes
from trainer.data.files.lmdb import Database, write_database
from trainer.data.files.scans import read_points
from trainer.data.kitti_raw.databases import DatabaseListing
from trainer.runtime.errors import DataError, UserError

DATE = "2011_09_26"
DRIVE = f"{DATE}/{DATE}_drive_0001_sync"
SIZE = (124, 38)


class Marker:
    """What runs when it is unpickled leaves a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def write_earlier(folder: Path, entries: dict[str, bytes], protocol: int = 4) -> None:
    """Write a database as earlier code does: pickled keys, a pickled list of them, a raw key `protocol`."""
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"protocol", pickle.dumps(protocol))
        transaction.put(pickle.dumps("keys", protocol), pickle.dumps(sorted(entries), protocol))
        for key, value in entries.items():
            transaction.put(pickle.dumps(key, protocol), value)


def earlier_copy(raw: Path, out: Path) -> Path:
    """The recording `raw` as earlier code keeps it."""
    for drive in raw.glob("*/*_drive_*"):
        to = out / drive.relative_to(raw)
        for camera in (2, 3):
            files = sorted((drive / f"image_0{camera}/data").glob("*.png"))
            write_earlier(to / f"image_0{camera}/data", {f.stem: f.read_bytes() for f in files})
        scans = {}
        for file in (drive / "velodyne_points/data").glob("*.bin"):
            points = read_points(str(file)).copy()
            points[:, 3] = 1
            scans[file.stem] = pickle.dumps(points, 4)
        write_earlier(to / "velodyne_points/data", scans)
        for annotated in (raw / "depth_benchmark" / drive.relative_to(raw) / "proj_depth/groundtruth").iterdir():
            truth = {f.stem: f.read_bytes() for f in annotated.glob("*.png")}
            write_earlier(out / annotated.relative_to(raw), truth)
    write_earlier(out / DATE / "calibration", calibration(raw / DATE))
    hints = pickle.dumps(np.arange(12, dtype=np.float32).reshape(3, 4), 4)
    for camera in (2, 3):
        entries = {f"{i:010d}": hints for i in range(6)}
        write_earlier(out / "depth_hints" / DRIVE / f"image_0{camera}", entries)
    shutil.copytree(raw / "splits", out / "splits")
    return out


def calibration(folder: Path) -> dict[str, bytes]:
    entries = {}
    for group, name in (("cam2cam", "cam_to_cam"), ("velo2cam", "velo_to_cam")):
        for line in (folder / f"calib_{name}.txt").read_text().splitlines()[1:]:
            key, _, numbers = line.partition(": ")
            array = np.array([float(number) for number in numbers.split()])
            if key.startswith("P"):
                array = np.vstack([array.reshape(3, 4), [0, 0, 0, 1]])
            elif key.startswith(("R", "K")):
                array = array.reshape(3, 3)
            elif key.startswith("S"):
                array = array.astype(int)
            entries[f"{group}/{key}"] = pickle.dumps(array, 4)
    return entries


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Let go of databases before their folders are deleted: the next may be given the same i-node."""
    yield
    while _lmdb._environments:
        _lmdb._environments.popitem()[1].environment.close()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("files") / "kitti_raw_sync"
    options = ["--drives", "1", "--frames", "6", "--size", "124x38", "--annotated"]
    assert main(["synthetic", "--out", str(out), *options]) == 0
    return out


@pytest.fixture(scope="module")
def earlier(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return earlier_copy(raw, tmp_path_factory.mktemp("earlier") / "kitti_raw_sync_lmdb")


@pytest.fixture
def databases(earlier: Path, tmp_path: Path) -> Path:
    """A copy to be broken."""
    return Path(shutil.copytree(earlier, tmp_path / "kitti_raw_sync_lmdb"))


def dataset(kind: str, root: Path, **options: Any) -> DepthDataset:
    given = {"split": "synthetic", "size": SIZE, "supp_idxs": [-1, 1, 0], "depth_size": None, **options}
    made: DepthDataset = DATASETS.create(kind, root=str(root), **given)
    return made


@pytest.mark.parametrize(
    "options", [{}, {"use_benchmark": True}, {"intrinsics": "calibrated"}, {"depth_along": "lidar_x"}]
)
def test_items_equal_those_of_files(raw: Path, earlier: Path, options: dict[str, Any]) -> None:
    files, entries = dataset("kitti", raw, **options), dataset("kitti_lmdb", earlier, **options)
    assert entries.check() == entries.notes() == []
    assert len(files) == len(entries) > 0
    for index in range(len(files)):
        assert files.describe(index) == entries.describe(index)
        a, b = files[index], entries[index]
        assert a.keys() == b.keys()
        assert a["depth"].count_nonzero() > 100
        for key in a:
            assert torch.equal(a[key], b[key]), key


def test_hints_are_entries_or_files(earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONODEPTH_DATA", str(earlier.parent))
    made = DATASETS.create(  # with the keys that configurations of earlier code have
        "kitti_lmdb", split="synthetic", mode="train", size=[8, 6], supp_idxs=[-1, 1, 0], use_depth=True,
        use_hints=True, use_benchmark=False, use_strong_aug=False, use_aug=False, as_torch=True, log_time=True,
    )  # fmt: skip
    assert made.check() == []
    hints = made[0]["depth_hints"][0]
    expected = np.arange(12, dtype=np.float32).reshape(3, 4).repeat(2, 0).repeat(2, 1)
    assert hints.tolist() == expected.tolist()
    path = tmp_path / DRIVE / "image_02/0000000001.npy"
    path.parent.mkdir(parents=True)
    np.save(path, np.full((3, 4), 7, np.float32))
    files = dataset("kitti_lmdb", earlier, use_hints=True, size=(8, 6), hints_root=str(tmp_path))
    assert files[0]["depth_hints"].unique().tolist() == [7]
    (problem,) = files.check()
    assert problem.startswith("3 of 4 items have no depth hints, the first: ")


def test_entries_that_are_no_frames_are_passed_over(databases: Path) -> None:
    folder = databases / DRIVE / "image_02/data"
    shutil.rmtree(folder)
    write_earlier(folder, {f"{i:010d}": b"" for i in range(3)} | {"shape": b"", "dtype": b""})
    frames = [frame.number for frame in DatabaseListing(databases).frames() if frame.camera == 2]
    assert frames == [0, 1, 2]


def test_the_same_database_serves_two_data_sets_and_forked_workers(earlier: Path) -> None:
    one, other = dataset("kitti_lmdb", earlier), dataset("kitti_lmdb", earlier, mode="val")
    expected = one[0]["target"]
    assert other[0]["target"].shape == expected.shape
    assert torch.equal(pickle.loads(pickle.dumps(one))[0]["target"], expected)  # as workers are given it
    if hasattr(os, "fork"):
        pid = os.fork()
        if pid == 0:  # the child: nothing of pytest may run in it
            same = False
            try:
                same = torch.equal(one[0]["target"], expected)
            finally:
                os._exit(0 if same else 1)
        assert os.waitpid(pid, 0)[1] == 0


# Broken and malicious databases


def check(databases: Path) -> list[str]:
    return dataset("kitti_lmdb", databases).check()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("sensor", ["image_02/data", "velodyne_points/data"])
def test_a_database_that_is_cut_off_is_named_once(databases: Path, sensor: str, share: float) -> None:
    file = databases / DRIVE / sensor / "data.mdb"
    os.truncate(file, int(share * file.stat().st_size))
    (problem,) = check(databases)
    assert str(file.parent) in problem
    assert "is cut off" in problem or "cannot be read" in problem
    with pytest.raises(DataError, match=r"cut off|cannot be read"):
        dataset("kitti_lmdb", databases)[0]


def test_a_malicious_scan_is_refused_and_not_run(databases: Path, tmp_path: Path) -> None:
    folder = databases / DRIVE / "velodyne_points/data"
    shutil.rmtree(folder)
    evil = pickle.dumps(Marker(tmp_path / "owned"), 4)
    write_earlier(folder, {f"{i:010d}": evil for i in range(6)})
    with pytest.raises(DataError, match=r"0000000001: refused. The pickle asks for posix.mkdir.*nothing is run"):
        dataset("kitti_lmdb", databases)[0]
    assert not (tmp_path / "owned").exists()
    pickle.loads(evil)  # the marker itself works
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("key", ["protocol", "keys", "calibration"])
def test_a_malicious_pickle_anywhere_is_refused_before_training(databases: Path, tmp_path: Path, key: str) -> None:
    evil = pickle.dumps(Marker(tmp_path / "owned"), 4)
    folder = databases / DRIVE / "image_02/data" if key != "calibration" else databases / DATE / "calibration"
    encoded = {"protocol": b"protocol", "keys": pickle.dumps("keys", 4)}
    put(folder, encoded.get(key, pickle.dumps("velo2cam/R", 4)), evil)
    (problem,) = check(databases)
    assert "refused. The pickle asks for posix.mkdir" in problem
    assert not (tmp_path / "owned").exists()


def test_a_truncated_picture_in_a_database_is_named(databases: Path, raw: Path) -> None:
    folder = databases / DRIVE / "image_02/data"
    picture = (raw / DRIVE / "image_02/data/0000000001.png").read_bytes()
    shutil.rmtree(folder)
    broken = {"0000000001": picture[:-100], "0000000003": b"no picture"}
    write_earlier(folder, {f"{i:010d}": picture for i in range(6)} | broken)
    with pytest.raises(DataError, match=f"{folder}/0000000001 is not a readable picture"):
        dataset("kitti_lmdb", databases)[0]
    one, other = check(databases)
    assert one.startswith(f"{folder}/0000000001 is not a readable picture (")
    assert other.startswith(f"{folder}/0000000003 is not a readable picture (none of PNG,")


def test_scans_of_a_wrong_shape_and_missing_databases_are_named(databases: Path, tmp_path: Path) -> None:
    folder = databases / DRIVE / "velodyne_points/data"
    shutil.rmtree(folder)
    entries = {f"{i:010d}": pickle.dumps(np.zeros((0, 4), np.float32), 4) for i in range(6)}
    write_earlier(folder, entries | {"0000000002": pickle.dumps({"a": 1}, 4)})
    made = dataset("kitti_lmdb", databases)
    with pytest.raises(DataError, match=r"0000000001 is not a LiDAR scan: float32 of shape \(0, 4\)"):
        made[0]
    with pytest.raises(DataError, match=r"0000000002: refused\. The pickle holds a dict"):
        made[2]
    with pytest.raises(UserError, match=r"KITTI as LMDB databases was not found[\s\S]*kitti_raw_sync_lmdb"):
        dataset("kitti_lmdb", folder)


def put(folder: Path, key: bytes, value: bytes) -> None:
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        transaction.put(key, value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (pickle.dumps(np.eye(2), 4), "float64 of shape (2, 2), expected numbers (3, 3)"),
        (doubled(60) + b".", "refused. The pickle holds a tuple"),
    ],
    ids=["shape", "endless"],
)
def test_a_calibration_of_something_else_is_named(databases: Path, value: bytes, message: str) -> None:
    put(databases / DATE / "calibration", pickle.dumps("velo2cam/R", 4), value)
    (problem,) = check(databases)
    assert f"velo2cam/R: {message}" in problem


def test_databases_that_are_missing_or_something_else_are_one_problem(databases: Path) -> None:
    folder = databases / DRIVE / "image_02/data"
    shutil.rmtree(folder)
    problem, total = check(databases)
    assert "items are incomplete: `monodepth prepare kitti check`" in total
    assert f"{folder} does not exist or is empty" in problem
    folder.mkdir()
    put(folder, b"hello", b"world")
    (problem,) = check(databases)
    assert f"{folder} is no database of pictures or arrays" in problem


# Our format


def test_what_is_written_is_read_and_holds_no_pickle(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    entries = {"0000000001": array_bytes(array), "0000000002": b"bytes"}
    assert write_database(tmp_path / "db", iter(entries.items()), sum(map(len, entries.values()))) == 2
    database = Database(str(tmp_path / "db"))
    assert database.keys() == set(entries)
    np.testing.assert_array_equal(database.value("0000000001"), array)
    assert database.read("0000000002") == b"bytes"
    with pytest.raises(DataError, match="has no entry '3'"):
        database.read("3")
    with pytest.raises(DataError, match="db/0000000002 is not a readable array"):
        database.value("0000000002")
    with lmdb.open(str(tmp_path / "copy")) as environment:  # not the open one: it is opened once per process
        assert environment.stat()["entries"] == 0
    assert b"\x80\x04" not in (tmp_path / "db" / "data.mdb").read_bytes()[8192:]


def test_an_array_file_with_a_pickle_in_it_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([Marker(tmp_path / "owned")], object), allow_pickle=True)
    write_database(tmp_path / "db", [("a", (tmp_path / "evil.npy").read_bytes())], 10_000)
    with pytest.raises(DataError, match="db/a is not a readable array"):
        Database(str(tmp_path / "db")).value("a")
    assert not (tmp_path / "owned").exists()
