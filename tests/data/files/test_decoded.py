"""Decoded pictures: every data set reads from them what it reads from files; parts are continued, damage is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.data.clips import frames
from tests.data.test_kitti_odom import sequence
from tests.data.test_rgbd import scene
from tests.data.test_syns_patches import patch
from trainer.data import DATASETS, recorded
from trainer.data.files.decoded import INDEX, DecodedPictures, Source, digest_of, write_decoded
from trainer.data.files.pictures import read_image
from trainer.runtime.errors import DataError, UserError


@pytest.fixture(params=["folder", "rgbd", "kitti_odom", "syns_patches"])
def build(request, tmp_path):
    """Return what builds a small data set of a type."""
    root, options = tmp_path / "data", {}
    if request.param == "folder":
        options = {"path": frames(root / "clip", range(9)), "val_every": 0, "supp_range": (1, 3), "use_aug": True}
    elif request.param == "rgbd":
        scene(root / "one")
        options = {"root": str(root), "val_every": 0}
    elif request.param == "kitti_odom":
        sequence(root / "kitti_odom", "00")
        options = {"root": str(root), "val_every": 0, "supp_idxs": [-1, 1]}
    else:
        for number in range(2):
            patch(root, "01", number)
        (root / "test_files.txt").write_text("01 0.png\n01 1.png\n")
        options = {"root": str(root), "split_file": str(root / "test_files.txt"), "mode": "test"}
    return lambda **more: DATASETS.create(request.param, **{"size": (64, 32), **options, **more})


def test_pictures_are_all_that_items_read(build, tmp_path, monkeypatch):
    dataset, out = build(), tmp_path / "out"
    sources = dataset.picture_sources()
    places = list(sources.values())
    write_decoded(out, list(sources), (64, 32), lambda first: (read_image(place, (64, 32)) for place in places))
    ready = build(decoded_root=str(out))
    expected = [dataset[epoch, index] for epoch in range(3) for index in range(len(dataset))]
    assert ready.label_problems() == []
    monkeypatch.setattr(recorded, "read_rgb", None)  # nothing is decoded
    found = [ready[epoch, index] for epoch in range(3) for index in range(len(ready))]
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not any(source.name.startswith("/") for source in sources)


def test_a_stopped_command_continues(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    sources = [Source(f"{i}.png", i) for i in range(5)]

    def until(last):
        def give(first):
            for i in range(first, 5):
                if i == last:
                    raise KeyboardInterrupt
                yield "2 is broken" if i == 2 else pictures[i]

        return give

    with pytest.raises(KeyboardInterrupt):
        write_decoded(tmp_path, sources, (6, 4), until(3))
    (part,) = tmp_path.glob(".*.part")
    part.write_bytes(part.read_bytes() + b"unfinished")
    assert write_decoded(tmp_path, sources, (6, 4), until(None)) == []
    ready = DecodedPictures(tmp_path)
    assert [ready.read(f"{i}.png") is None for i in range(5)] == [False, False, True, False, False]
    assert np.array_equal(ready.read("4.png"), pictures[4])
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npy"]
    mapped = np.load(next(tmp_path.glob("*.npy")), mmap_mode="r")
    assert np.array_equal(mapped[3], pictures[3])


def test_missing_cut_and_changed_folders_are_refused(tmp_path):
    sources = [Source("a.png", 1), Source("b.png", 1)]
    write_decoded(tmp_path, sources, (2, 1), lambda first: [np.zeros((1, 2, 3), np.uint8)] * 2)
    ready = DecodedPictures(tmp_path)
    (data,) = tmp_path.glob("*.npy")
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"is cut off\. Run `monodepth prepare cache` again"):
        ready.read("b.png")
    with pytest.raises(UserError, match=r"decoded_root .* is damaged"):
        DecodedPictures(tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps(index | {"pictures": index["pictures"][:1]}))
    with pytest.raises(UserError, match=r"pictures\.json is not as it was written"):
        DecodedPictures(tmp_path)
    with pytest.raises(UserError, match="holds no decoded pictures"):
        DecodedPictures(tmp_path / "nowhere")


def test_one_process_writes_at_a_time(tmp_path):
    sources = [Source("a.png", 1)]

    def meanwhile(first):
        with pytest.raises(UserError, match="another process is writing"):
            write_decoded(tmp_path, sources, (2, 1), lambda first: [])
        yield np.zeros((1, 2, 3), np.uint8)

    assert write_decoded(tmp_path, sources, (2, 1), meanwhile) == []
    assert digest_of(sources, (2, 1)) != digest_of(sources, (1, 2))
