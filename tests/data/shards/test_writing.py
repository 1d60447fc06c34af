"""Shards hold each frame once, as the bytes of its file, in the order and naming of WebDataset."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.clips import cut
from tests.data.shards.made import folder, sharded, write
from trainer.data import DATASETS
from trainer.data.shards.index import read_facts, read_tables
from trainer.data.shards.writing import in_order, planned, write_shard
from trainer.runtime.errors import DataError, UserError


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_a_shard_holds_each_frame_once_as_it_was_encoded(tmp_path: Path) -> None:
    dataset = folder(tmp_path, 5)  # items 1, 2, 3
    out = write(dataset, tmp_path / "out", 10**9)
    files = contents(out / "train-000000.tar")
    pictures = [content for name, content in files.items() if name.endswith(".png")]
    assert pictures == [(tmp_path / "clip" / f"{i:04d}.png").read_bytes() for i in range(5)]
    middle = json.loads(files["train-000000-000002.json"])
    assert (middle["item"], middle["name"]) == (1, "clip/2")
    assert middle["supports"] == {"-1": "train-000000-000001", "1": "train-000000-000003"}
    keys = [name.partition(".")[0] for name in files]
    assert keys == sorted(keys)  # the files of a sample follow each other


def test_the_index_knows_where_every_byte_is(tmp_path: Path) -> None:
    out = write(folder(tmp_path), tmp_path / "out")
    facts = read_facts((out / "train.json").read_bytes(), "train.json")
    index = read_tables(facts, (out / "train.npz").read_bytes(), "train.npz")
    assert len(index.shards) == 4
    for number, shard in enumerate(index.shards):
        content = (out / shard.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.num_bytes, shard.sha256)
        held = [content[e[1] : e[1] + e[2]] for e in index.entries.tolist() if e[0] == number]
        assert held == list(contents(out / shard.name).values())
    # Each item reads one shard: the frames on both sides of a cut are in both.
    assert {len(set(index.entries[row, 0].tolist())) for row in index.items} == {1}
    assert np.bincount(index.block).tolist() == [shard.items for shard in index.shards]


def test_equal_data_gives_equal_bytes_and_a_second_call_writes_what_is_missing(tmp_path: Path) -> None:
    dataset = folder(tmp_path)
    first, second = (write(dataset, tmp_path / name) for name in "ab")
    names = sorted(p.name for p in first.iterdir() if not p.name.startswith("."))
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    before = {p.name: p.stat().st_ino for p in first.glob("*.tar")}
    (first / "train-000001.tar").unlink()
    with open(first / "train-000002.tar", "ab") as file:
        os.truncate(file.fileno(), 512)  # as a copy that was stopped
    write(dataset, first)
    after = {p.name: p.stat().st_ino for p in first.glob("*.tar")}
    assert after["train-000000.tar"] == before["train-000000.tar"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_an_item_that_cannot_be_read_is_named_and_keeps_its_place(tmp_path: Path) -> None:
    dataset = folder(tmp_path, 8)
    cut(tmp_path / "clip" / "0003.png", 0.5)
    (plan,) = planned(dataset, in_order(dataset), 10**9, "made")
    assert len(write_shard(dataset, plan, tmp_path).problems) == 3  # of frames 2, 3, 4
    shards = sharded(write(dataset, tmp_path / "out", 10**9), use_depth=False)
    assert len(shards) == len(dataset)
    assert shards[0]["target"].equal(dataset[0]["target"])
    with pytest.raises(DataError, match=r"could not be read when the shards were written \[item 2 of train: clip/3\]"):
        shards[2]
    assert shards.notes() == ["3 of 6 items could not be read when the shards were written"]


def test_what_is_computed_is_kept_without_loss(tmp_path: Path) -> None:
    options = {"size": (64, 32), "num_items": 4, "items_per_scene": 4, "supp_idxs": [-1, 1, 0], "seed": 3}
    plain = DATASETS.create("synthetic", **options)
    shards = sharded(write(plain, tmp_path), size=(64, 32), supp_idxs=[-1, 1, 0], seed=3, use_aug=True)
    plain.use_aug = True
    for key in ((0, 0), (4, 3)):
        ours, theirs = shards[key], plain[key]
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert shards.frames().digest() == plain.frames().digest()
    assert [shards.scene_of(i) for i in range(4)] == [plain.scene_of(i) for i in range(4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is no index of shards"),
        (b"[]", "is no index of shards"),
        (b'{"format": 1, "shards": [], "tables": {"bytes": 1, "sha256": "0"}}', "names no shards"),
        (b'{"format": 2}', r"of version 2, and this trainer reads 1\. Update the trainer"),
    ],
)
def test_other_files_are_no_index(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_facts(content, "here/train.json")


def test_tables_that_belong_to_another_index_are_refused(tmp_path: Path) -> None:
    out = write(folder(tmp_path, 4), tmp_path / "out")
    (out / "train.npz").write_bytes((out / "train.npz").read_bytes() + b"x")
    with pytest.raises(UserError, match=r"train\.npz is not as it was written: its sha256 differs"):
        sharded(out)


# The package leaves the files open that it reads.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    dataset = folder(tmp_path, 6)
    out = write(dataset, tmp_path / "out", 10**9)
    samples = list(wds.WebDataset(str(out / "train-000000.tar"), shardshuffle=False).decode("rgb8"))
    assert len(samples) == 6
    items = [sample for sample in samples if "json" in sample]
    assert [sample["json"]["name"] for sample in items] == [dataset.describe(i) for i in range(len(dataset))]
    assert np.array_equal(items[0]["npz"]["K"], dataset.load(0).K)
