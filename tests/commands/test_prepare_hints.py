"""`prepare hints`: files that the readers find, made once, and complete or absent."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from trainer.commands.prepare import main
from trainer.data.kitti import KittiRaw
from trainer.data.kitti_raw import hints as _hints

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"
NUM_PICTURES = 12


@pytest.fixture
def quick(monkeypatch):
    """One small matcher instead of twelve large ones."""
    monkeypatch.setattr(_hints, "SETTINGS", ((1, 16),))
    monkeypatch.setattr(_hints, "SIZE", (128, 40))


def hints(raw, *options, jobs=1):
    return main(["hints", "--root", str(raw), "--jobs", str(jobs), *options])


def test_the_reader_finds_what_was_made(raw, quick, capsys):
    assert hints(raw) == 0
    assert f"{NUM_PICTURES} of {NUM_PICTURES} pictures have depth hints, {NUM_PICTURES} of them new" in (
        capsys.readouterr().out
    )
    dataset = KittiRaw(str(raw), "synthetic", use_hints=True, use_depth=False, size=(128, 40), supp_idxs=0)
    assert dataset.check() == []
    for index in range(2):
        item = dataset[index]
        raw_item = dataset.load(index)
        expected = _hints.depth_hints(raw_item.target, raw_item.supports[0], right=index == 1)
        np.testing.assert_array_equal(item["depth_hints"][0], expected)


def test_only_what_is_missing_is_made(raw, quick, capsys):
    assert hints(raw) == 0
    files = sorted((raw / "depth_hints").rglob("*.npy"))
    before = {path: path.stat().st_mtime_ns for path in files}
    files[3].unlink()
    stale = files[3].with_name(f".{files[3].name}.tmp-999999999")
    stale.write_bytes(b"cut off")
    capsys.readouterr()
    assert hints(raw) == 0
    assert "12 of 12 pictures have depth hints, 1 of them new" in capsys.readouterr().out
    assert sorted(path for path in (raw / "depth_hints").rglob("*") if path.is_file()) == files
    assert [path for path in files if path.stat().st_mtime_ns != before[path]] == [files[3]]


@pytest.mark.parametrize("damage", ["cut short", "NaN"])
def test_hints_that_readers_refuse_are_made_again(raw, quick, capsys, damage):
    assert hints(raw) == 0
    path = min((raw / "depth_hints").rglob("*.npy"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] if damage == "cut short" else whole[:-4] + np.float32("nan").tobytes())
    capsys.readouterr()
    assert hints(raw) == 0
    assert "12 of 12 pictures have depth hints, 1 of them new" in capsys.readouterr().out
    assert path.read_bytes() == whole


def test_lines_that_name_no_picture_are_reported(raw, quick, capsys):
    split = raw / "splits" / "synthetic" / "test_files.txt"
    split.write_text("image 7\n")
    assert hints(raw, "--splits", "synthetic") == 1
    assert f"1 line of the splits names no picture:\n  {split}:1: 'image 7'" in capsys.readouterr().out


def test_splits_and_another_folder(raw, quick, tmp_path):
    out = tmp_path / "elsewhere"
    assert hints(raw, "--splits", "synthetic", "--out", str(out)) == 0
    assert len(list(out.rglob("*.npy"))) == 8  # frames 1 to 4 of both cameras
    assert not (raw / "depth_hints").exists()


def test_broken_and_missing_pictures_are_named_and_the_rest_is_made(raw, quick, capsys):
    broken = raw / DRIVE / "image_02/data/0000000001.png"
    broken.write_bytes(broken.read_bytes()[:-100])
    (raw / DRIVE / "image_03/data/0000000004.png").unlink()
    assert hints(raw) == 1
    text = capsys.readouterr().out
    assert "8 of 11 pictures have depth hints, 8 of them new" in text
    assert "3 pictures have none:" in text  # both of the broken pair, and the one whose partner is gone
    assert f"{DRIVE}/image_03/0000000001: {broken} is not a readable picture" in text
    assert f"{DRIVE}/image_02/0000000004: {DRIVE}/image_03/0000000004 is missing" in text


def test_a_full_disk_is_seen_before_work_begins(raw, monkeypatch, capsys):
    usage = shutil.disk_usage(raw)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert hints(raw) == 2
    assert "depth hints need 16 MB" in capsys.readouterr().err


@pytest.mark.slow
def test_other_processes_make_hints_of_full_size(raw, tmp_path):
    split = tmp_path / "pair" / "train_files.txt"
    split.parent.mkdir()
    split.write_text(f"{DRIVE} 1 l\n{DRIVE} 1 r\n")
    assert hints(raw, "--splits-dir", str(tmp_path), jobs=2) == 0
    made = list((raw / "depth_hints").rglob("*.npy"))
    assert [np.load(path).shape for path in made] == [(320, 1024)] * 2
