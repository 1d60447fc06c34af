"""`prepare lmdb`: databases give the items that the files gave; broken files are left out and named."""

from __future__ import annotations

import os
import pickle
import shutil

import lmdb
import numpy as np
import pytest
import torch

from trainer.commands.prepare import main
from trainer.data import DATASETS
from trainer.data.files.lmdb import Database
from trainer.data.kitti_raw.pack import list_packages

DATE = "2011_09_26"
DRIVE = f"{DATE}/{DATE}_drive_0001_sync"
OPTIONS = {"split": "synthetic", "size": (124, 38), "supp_idxs": [-1, 1, 0], "depth_size": None}
NUM_DATABASES = 2 + 1 + 2 + 2 + 1  # pictures, scans, annotated depth, hints, calibration


@pytest.fixture
def raw(raw):
    """The recording with depth hints."""
    for camera in (2, 3):
        folder = raw / "depth_hints" / DRIVE / f"image_0{camera}"
        folder.mkdir(parents=True)
        for number in range(6):
            np.save(folder / f"{number:010d}.npy", np.full((3, 4), number + camera, np.float32))
    return raw


def pack(raw, jobs=1):
    out = raw.parent / "kitti_raw_sync_lmdb"
    return main(["lmdb", "--root", str(raw), "--out", str(out), "--jobs", str(jobs)]), out


@pytest.mark.parametrize("options", [{}, {"use_benchmark": True, "intrinsics": "calibrated"}])
def test_items_equal_those_of_the_files(raw, options, capsys):
    code, out = pack(raw)
    assert code == 0
    assert f"{NUM_DATABASES} databases, {NUM_DATABASES} of them new" in capsys.readouterr().out
    files = DATASETS.create("kitti", root=str(raw), use_hints=True, **OPTIONS, **options)
    entries = DATASETS.create("kitti_lmdb", root=str(out), use_hints=True, **OPTIONS, **options)
    assert entries.check() == entries.notes() == []
    for index in range(len(files)):
        for key, value in files[index].items():
            assert torch.equal(entries[index][key], value), key


def test_pictures_keep_their_bytes_and_nothing_is_pickled(raw):
    _, out = pack(raw)
    key = f"{3:010d}"
    database = Database(str(out / DRIVE / "image_02/data"))
    assert database.read(key) == (raw / DRIVE / f"image_02/data/{key}.png").read_bytes()
    for sensor in ("image_02/data", "velodyne_points/data"):
        names = sorted(path.name for path in (out / DRIVE / sensor).iterdir())
        assert names == ["data.mdb"]
    assert Database(str(out / DRIVE / "velodyne_points/data")).read(key).startswith(b"\x93NUMPY")
    assert Database(str(out / DATE / "calibration")).value("cam2cam/P_rect_02").shape == (3, 4)


def test_only_what_is_missing_incomplete_or_broken_is_written(raw, capsys):
    _, out = pack(raw)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("data.mdb")}
    cut = out / DRIVE / "image_03/data/data.mdb"
    os.truncate(cut, cut.stat().st_size // 2)
    shutil.rmtree(out / DRIVE / "velodyne_points")
    staged = out / DRIVE / "velodyne_points" / ".data.tmp-1"
    staged.mkdir(parents=True)
    (staged / "data.mdb").write_bytes(b"unfinished")
    new = raw / DRIVE / "image_02/data/0000000006.png"
    shutil.copy(new.with_name("0000000005.png"), new)
    capsys.readouterr()
    assert pack(raw) == (0, out)
    assert f"{NUM_DATABASES} databases, 3 of them new" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in out.rglob("data.mdb")}
    assert after.keys() == before.keys()
    changed = {path.parent.parent.name for path in after if after[path] != before[path]}
    assert changed == {"image_02", "image_03", "velodyne_points"}
    assert len(Database(str(out / DRIVE / "image_02/data")).keys()) == 7
    assert pack(raw) == (0, out)
    assert f"{NUM_DATABASES} databases, 0 of them new" in capsys.readouterr().out


def test_broken_files_are_left_out_named_and_counted(raw, capsys):
    picture = raw / DRIVE / "image_02/data/0000000001.png"
    picture.write_bytes(picture.read_bytes()[:-200])
    scan = raw / DRIVE / "velodyne_points/data/0000000002.bin"
    scan.write_bytes(b"")
    code, out = pack(raw, jobs=2)
    text = capsys.readouterr().out
    assert code == 1
    assert "2 broken files were left out:" in text
    assert f"{picture} is not a readable picture" in text
    assert f"{scan} is not a LiDAR scan: 0 bytes" in text
    assert len(Database(str(out / DRIVE / "image_02/data")).keys()) == 5
    problems = DATASETS.create("kitti_lmdb", root=str(out), **OPTIONS).check()
    assert any("target" in problem and "image_02/0000000001 is missing" in problem for problem in problems)


def test_the_check_reads_databases(raw, capsys):
    _, out = pack(raw)
    check = ["kitti", "check", "--root", str(out), "--jobs", "1", "--deep"]
    assert main(check) == 0
    assert "none broken" in capsys.readouterr().out
    cut = out / DRIVE / "image_03/data/data.mdb"
    os.truncate(cut, 9000)
    assert main(check) == 1
    text = capsys.readouterr().out
    assert f"1 broken file or database:\n  {cut.parent} is cut off: 9000 of" in text


def test_databases_are_not_packed_again(raw, capsys):
    _, out = pack(raw)
    assert main(["lmdb", "--root", str(out), "--out", str(out.parent / "twice")]) == 2
    assert "holds databases already" in capsys.readouterr().err


def test_hints_are_made_from_databases(raw, monkeypatch):
    from trainer.data.kitti_raw import hints

    monkeypatch.setattr(hints, "SETTINGS", ((1, 16),))
    monkeypatch.setattr(hints, "SIZE", (128, 40))
    _, out = pack(raw)
    for root in (raw, out):
        options = ["--root", str(root), "--splits", "synthetic", "--jobs", "1"]
        assert main(["hints", *options, "--out", str(root.parent / f"hints_{root.name}")]) == 0
    one, two = (sorted(raw.parent.glob(f"hints_{root.name}/*/*/*/*.npy")) for root in (raw, out))
    assert len(one) == 8
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


class Marker:
    """What runs when it is unpickled leaves a folder behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_check_names_and_counts_malicious_entries(raw, tmp_path, capsys):
    _, out = pack(raw)
    scans = out / DRIVE / "velodyne_points/data"
    shutil.rmtree(scans)
    scans.mkdir()
    keys = [f"{i:010d}" for i in range(6)]
    with lmdb.open(str(scans)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"protocol", pickle.dumps(4))
        for key, value in [("keys", keys), *((key, Marker(tmp_path / "owned")) for key in keys)]:
            transaction.put(pickle.dumps(key, 4), pickle.dumps(value, 4))
    assert main(["kitti", "check", "--root", str(out), "--jobs", "1", "--deep"]) == 1
    text = capsys.readouterr().out
    assert "4 broken files or databases:" in text  # frames 1 to 4 are in the splits
    assert f"{scans}/0000000001: refused. The pickle asks for posix.mkdir" in text
    assert not (tmp_path / "owned").exists()


def test_annotated_depth_that_is_there_twice_becomes_one_database(raw):
    truth = raw / "depth_benchmark"
    shutil.copytree(truth / DATE, truth / "train")
    packages = list_packages(raw, truth, None)
    assert len({package.database for package in packages}) == len(packages) == NUM_DATABASES - 2
    assert sum(package.folder.startswith(f"{truth}/{DATE}") for package in packages) == 2
