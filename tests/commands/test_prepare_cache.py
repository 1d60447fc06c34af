"""`prepare cache`: items from decoded pictures are those of the files, nothing is decoded, misfits are refused."""

from __future__ import annotations

import json

import pytest
import torch

from trainer.commands.prepare import main
from trainer.data import DATASETS, recorded
from trainer.data.files.decoded import DecodedPictures
from trainer.runtime.errors import DataError, UserError

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"
NAME = f"{DRIVE}/image_02/data/{{:010d}}.png"


def cache(raw, *more):
    out = raw.parent / "decoded"
    settings = [f"dataset.root={raw}", "dataset.split=synthetic", "dataset.size=[96,64]", "dataset.val.split=synthetic"]
    return main(
        ["cache", "-c", "kitti/monodepth2_MS", "--out", str(out), "--jobs", "2", "--set", *settings, *more]
    ), out


def items(raw, size=(96, 64), **options):
    options = {"split": "synthetic", "supp_idxs": [-1, 1, 0], "depth_size": None, "size": size} | options
    return DATASETS.create("kitti", root=str(raw), **options)


def problems(dataset):
    return dataset.check() + dataset.label_problems()


def test_items_are_those_of_the_files_and_nothing_is_decoded(raw, monkeypatch, capsys):
    code, out = cache(raw)
    assert code == 0
    shown = capsys.readouterr().out
    assert "10 pictures of 96x64, 10 new" in shown
    assert f"dataset.decoded_root={out}" in shown
    files, ready = items(raw, use_aug=True), items(raw, use_aug=True, decoded_root=str(out))
    expected = [files[epoch, index] for epoch in range(3) for index in range(len(files))]
    assert problems(ready) == []
    monkeypatch.setattr(recorded, "read_rgb", None)
    found = [ready[epoch, index] for epoch in range(3) for index in range(len(ready))]
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    monkeypatch.undo()
    assert cache(raw) == (0, out)
    assert "10 pictures of 96x64, 0 new" in capsys.readouterr().out


def test_other_sizes_and_further_views_are_decoded(raw):
    _, out = cache(raw)
    for options in ({"size": (64, 32)}, {"views": {"high": [1.5, 2.0]}}):
        files, ready = items(raw, **options), items(raw, decoded_root=str(out), **options)
        assert all(torch.equal(files[0][key], ready[0][key]) for key in files[0])
    (problem,) = problems(items(raw, size=(64, 32), decoded_root=str(out)))
    assert "has pictures of 96x64, and dataset.size is 64x32. Run `monodepth prepare cache` again" in problem


def test_data_that_move_keep_their_pictures(raw):
    _, out = cache(raw)
    moved = raw.rename(raw.with_name("moved"))
    assert problems(items(moved, decoded_root=str(out))) == []


def test_what_changed_or_came_later_is_refused_and_decoded_by_the_next_call(raw, capsys, monkeypatch):
    _, out = cache(raw, "trainer.limit_val_batches=0")
    first = raw / NAME.format(0)
    first.write_bytes(first.read_bytes() + b"\0")
    (raw / NAME.format(6)).write_bytes(first.read_bytes())
    train = raw / "splits/synthetic/train_files.txt"
    train.write_text(f"{train.read_text()}{DRIVE} 5 l\n")
    (raw / NAME.format(6).replace("image_02", "image_03")).write_bytes(first.read_bytes())
    missing, changed = problems(items(raw, decoded_root=str(out)))
    assert "pictures are not in dataset.decoded_root" in missing
    assert f"1 of 12 pictures have changed since they came to {out}, the first: {NAME.format(0)}" in changed
    calls = []
    from trainer.commands.jobs import prepare_cache

    read = prepare_cache.read_image
    monkeypatch.setattr(prepare_cache, "read_image", lambda place, size: calls.append(str(place)) or read(place, size))
    capsys.readouterr()
    assert cache(raw)[0] == 0
    assert "13 pictures of 96x64, 6 new" in capsys.readouterr().out
    assert str(first) in calls
    assert len(calls) == 6  # that one, and five that no item needed
    assert problems(items(raw, decoded_root=str(out))) == []
    assert len(list(out.glob("*.npy"))) == 1


def test_a_broken_picture_is_named_and_costs_its_items_only(raw, capsys):
    broken = raw / NAME.format(1)
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 255  # its ends are sound
    broken.write_bytes(content)
    code, out = cache(raw)
    assert code == 1
    assert f"{broken} is not a readable picture" in capsys.readouterr().out
    dataset = items(raw, decoded_root=str(out))
    assert problems(dataset) == []
    with pytest.raises(DataError, match="is not a readable picture"):
        [dataset[index] for index in range(len(dataset))]
    assert cache(raw)[0] == 1


def test_a_data_set_without_picture_files_has_nothing_to_decode(tmp_path, capsys):
    with pytest.raises(UserError, match=r"dataset\.decoded_root: this data set has no picture files"):
        DATASETS.create("synthetic", decoded_root=str(tmp_path))
    assert main(["cache", "-c", "synthetic/monodepth2_MS", "--out", str(tmp_path)]) == 2
    assert "nothing to decode" in capsys.readouterr().err


def test_a_mixture_has_a_folder_for_each_data_set(raw, tmp_path):
    part = {"root": str(raw), "split": "synthetic", "depth_size": None}
    named = {"streets": None, "rooms": None, "a": {"type": "kitti", **part}}
    settings = [f"dataset.datasets={json.dumps(named)}", "dataset.length=null", "dataset.depth_size=null"]
    settings += ["dataset.size=[96,64]", "dataset.supp_idxs=[-1,1]"]
    assert main(["cache", "-c", "real/mixed", "--out", str(tmp_path), "--jobs", "1", "--set", *settings]) == 0
    assert DecodedPictures(tmp_path / "a").size == (96, 64)
    options = {"size": (96, 64), "supp_idxs": [-1, 1]}
    mixed = DATASETS.create("mixed", datasets={"a": {"type": "kitti", **part}}, decoded_root=str(tmp_path), **options)
    plain = DATASETS.create("mixed", datasets={"a": {"type": "kitti", **part}}, **options)
    assert problems(mixed) == []
    assert torch.equal(mixed[0]["supports"], plain[0]["supports"])
