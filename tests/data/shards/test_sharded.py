"""Items of shards are those of the plain reader, from a folder, over HTTP and from S3, whatever the network does."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.made_kitti import DRIVE, kitti, write_hints, write_lines, write_raw
from tests.data.shards.made import SIZE, folder, sharded, write
from tests.data.shards.servers import Server, serving
from trainer.data import DATASETS
from trainer.data.loaders import EpochBatches, make_loader
from trainer.data.shards import fetching
from trainer.runtime.errors import DataError, UserError

S3 = {"key": "anybody", "secret": "nothing"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return folder(tmp_path_factory.mktemp("plain"), use_aug=True, seed=4)


@pytest.fixture(scope="module")
def served(plain: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("served")
    write(plain, root / "bucket" / "made")
    with serving(root) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_FIRST_PAUSE", 0.001)


def over(kind: str, server: Server, tmp_path: Path, **options: Any) -> Any:
    """Open the shards that a server has: by HTTP or S3, item by item ("ranges") or with a cache ("whole")."""
    server.plan()
    server.asked.clear()
    protocol, how = kind.split()
    pytest.importorskip("aiohttp" if protocol == "http" else "s3fs")
    path = f"{server.url}/bucket/made"
    if protocol == "s3":
        path, options = "s3://bucket/made", {"storage_options": {"endpoint_url": server.url, **S3}, **options}
    room = {"cache_root": str(tmp_path / "cache"), "cache_gb": 1 if how == "whole" else 0}
    return sharded(path, **{"use_aug": True, "seed": 4, **room, **options})


def assert_equal(ours: Any, theirs: Any, keys: Any) -> None:
    for key in keys:
        a, b = ours[key], theirs[key]
        assert a.keys() == b.keys()
        assert [name for name in b if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("kind", ["http ranges", "http whole", "s3 ranges", "s3 whole"])
def test_items_are_those_of_the_plain_reader(kind: str, plain: Any, served: Server, tmp_path: Path) -> None:
    shards = over(kind, served, tmp_path)
    assert shards.check() == []
    assert_equal(shards, plain, [(epoch, i) for epoch in (0, 2) for i in range(len(plain))])
    tars = [name for name, _ in served.asked if name.endswith(".tar")]
    if kind.endswith("whole"):  # each shard once
        assert sorted(tars) == sorted(set(tars))
        assert len(list((tmp_path / "cache").glob("*.tar"))) == len(shards.index.shards)
    else:
        assert len(tars) == 2 * len(plain)  # the frames of an item lie together: one request
        assert not (tmp_path / "cache").exists()


def test_a_folder_of_shards_is_read_in_place(plain: Any, served: Server) -> None:
    shards = sharded(served.folder / "bucket" / "made", use_aug=True, seed=4)
    assert_equal(shards, plain, [(1, i) for i in range(len(plain))])
    assert_equal(pickle.loads(pickle.dumps(shards)), plain, [(1, 3)])
    assert shards.notes() == ["the shards have no depth: their page did not read it (dataset.use_depth)"]
    assert shards.blocks.tolist() == sorted(shards.blocks.tolist())
    assert [shards.label_name(i) for i in range(12)] == [plain.label_name(i) for i in range(12)]
    assert shards.fingerprint_of(2) == plain.fingerprint_of(2)
    assert np.array_equal(shards.fingerprints(), plain.fingerprints())
    assert shards.frames().digest() == plain.frames().digest()
    assert shards.frames([3]).digest() == plain.frames([3]).digest()


def test_kitti_with_stereo_lidar_hints_and_a_repeated_line(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw")
    lines = (f"{DRIVE} 1 l", f"{DRIVE} 2 r", f"{DRIVE} 1 l", f"{DRIVE} 3 l")
    write_lines(raw / "splits" / "mini" / "train_files.txt", *lines)
    for number, side in ((1, 2), (2, 3), (3, 2)):
        write_hints(raw / "depth_hints", number, side, np.full((6, 20), 1.5, np.float32))
    options: dict[str, Any] = {"supp_idxs": (-1, 1, 0), "use_hints": True}
    dataset = kitti(raw, hints_root=str(raw / "depth_hints"), **options)
    out = write(dataset, tmp_path / "out")
    shards = sharded(out, size=(20, 6), **options)
    assert {"K", "K_depth", "T_stereo", "depth", "hints"} == set(shards.facts["has"])
    assert_equal(shards, dataset, range(4))
    assert (shards.truth, shards.list_name) == (dataset.truth, dataset.list_name)
    fewer = sharded(out, size=(20, 6), supp_idxs=[1], use_depth=False)
    assert set(fewer[1]) == {"target", "supports", "K", "index"}
    assert fewer[1]["supports"].equal(dataset[1]["supports"][1:2])
    assert_equal(sharded(out, size=(40, 12), supp_idxs=[1]), kitti(raw, size=(40, 12), supp_idxs=[1]), range(4))


@pytest.mark.skipif("MONODEPTH_TEST_DATA" not in os.environ, reason="no real KITTI: MONODEPTH_TEST_DATA is not set")
@pytest.mark.parametrize("split", ["kitti_raw", "kitti_raw_jpg"])
def test_real_drives_keep_their_bytes_and_tensors(split: str, tmp_path: Path) -> None:
    data = Path(os.environ["MONODEPTH_TEST_DATA"])
    options: dict[str, Any] = {"size": (64, 32), "supp_idxs": (-1, 1, 0)}
    dataset = DATASETS.create("kitti", root=str(data / split), split=split, **options)
    shards = sharded(write(dataset, tmp_path, 8_000_000), **options)
    assert_equal(shards, dataset, range(len(dataset)))
    assert shards.open_picture(shards.picture_of(0)).read() == Path(str(dataset.picture_of(0))).read_bytes()


@pytest.mark.parametrize("kind", ["http ranges", "http whole", "s3 whole"])
def test_a_server_that_fails_now_and_then_costs_nothing(kind: str, plain: Any, served: Server, tmp_path: Path) -> None:
    shards = over(kind, served, tmp_path, timeout=0.3)
    served.stall = 0.6
    served.plan("drop", "corrupt", "refuse", "short", "stall")
    keys = [(0, i) for i in range(len(plain))]
    assert_equal(dict(zip(keys, shards.__getitems__(keys), strict=True)), plain, keys)
    assert (served.faults, int(shards.unreadable.sum())) == ([], 0)


def test_an_item_that_cannot_be_fetched_is_counted_and_another_takes_its_place(
    plain: Any, served: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards = over("http ranges", served, tmp_path, tries=3)
    served.plan("drop", "drop", "drop")
    with pytest.raises(DataError, match=r"train-000000\.tar could not be fetched in 3 tries: .* \[item 0 of train"):
        shards[0]
    served.plan("corrupt", "corrupt")  # fetched once more, and then it is damage
    batch = shards.__getitems__([(0, 0), (0, 5)])
    assert int(batch[0]["index"]) != 0
    assert batch[1]["target"].equal(plain[0, 5]["target"])
    assert shards.unreadable.nonzero().flatten().tolist() == [0]
    assert "its bytes are not those that were written" in caplog.text
    assert "Another item takes its place (1 of 12 items so far)" in caplog.text


def test_whole_shards_that_are_damaged_for_good_cost_their_items(plain: Any, served: Server, tmp_path: Path) -> None:
    shards = over("http whole", served, tmp_path)
    served.plan("corrupt", "corrupt")
    shards.__getitems__([(0, 0), (0, 11)])
    assert int(shards.unreadable.sum()) == 1
    shards.__getitems__([(0, i) for i in range(12)])
    assert int(shards.unreadable.sum()) == 1  # it was fetched again, and is whole now


def test_a_cached_shard_that_rots_is_fetched_again(plain: Any, served: Server, tmp_path: Path) -> None:
    shards = over("http whole", served, tmp_path)
    assert_equal(shards, plain, [(0, 0)])
    (path,) = (tmp_path / "cache").glob("*.tar")
    path.write_bytes(bytes(path.stat().st_size))
    assert_equal(shards, plain, [(0, 0)])


@pytest.mark.parametrize(("workers", "how"), [(0, "ranges"), (2, "ranges"), (2, "whole")])
def test_workers_read_the_same_batches(workers: int, how: str, plain: Any, served: Server, tmp_path: Path) -> None:
    """Connections of this process are open when the workers are forked."""
    shards = over(f"http {how}", served, tmp_path)
    shards[0]

    def batches(dataset: Any, workers: int) -> list[Any]:
        return list(make_loader(dataset, EpochBatches(12, 4, seed=1, shuffle=True), workers, pin_memory=False))

    for ours, theirs in zip(batches(shards, workers), batches(plain, 0), strict=True):
        assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []


def test_a_window_reads_one_shard_after_another(served: Server, tmp_path: Path) -> None:
    shards = over("http whole", served, tmp_path, window=1, cache_gb=40e-6)
    sampler = EpochBatches(12, 2, seed=3, shuffle=True, blocks=shards.blocks, window=shards.window)
    for batch in sampler:
        shards.__getitems__(batch)
    tars = [name for name, _ in served.asked if name.endswith(".tar")]
    assert len(tars) == len(set(tars)) == len(shards.index.shards)  # though the cache holds one
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 1


def test_validation_that_the_cache_does_not_hold_is_read_item_by_item(served: Server, tmp_path: Path) -> None:
    """It reads in the order of its list, so that whole shards would be fetched over and over."""
    pytest.importorskip("aiohttp")
    write(folder(tmp_path / "plain", mode="val"), served.folder / "validation")
    options = {"mode": "val", "window": 1, "cache_root": str(tmp_path / "cache"), "cache_gb": 40e-6}
    shards = sharded(f"{served.url}/validation", **options)
    served.asked.clear()
    shards[0]
    assert [name for name, _ in served.asked] == ["validation/val-000000.tar"]
    assert not (tmp_path / "cache").exists()


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no such mode": ({"mode": "val"}, r"no val\.json and val\.npz, .*It has shards of train\. Write them: monodepth"),
    "another support": ({"supp_idxs": [-2, 2]}, r"the shards have supports \[-1, 1\], not \[-2, 2\]"),
    "no hints": ({"use_hints": True}, r"dataset\.use_hints: the shards have no hints"),
    "no labels": ({"use_pseudo": True}, r"dataset\.use_pseudo: the shards have no pseudo"),
    "no speed": ({"use_speed": True}, r"dataset\.use_speed: the shards do not know how far"),
    "no window": ({"window": 0}, r"dataset\.window must be 1 shard or more"),
    "no tries": ({"tries": 0}, r"tries must be 1 or more"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_before_training(mistake: str, served: Server) -> None:
    options, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        sharded(served.folder / "bucket" / "made", **options)


def test_a_window_that_the_cache_does_not_hold(served: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.cache_gb: 3e-05 GB hold no window of 2 shards, which has up to"):
        over("http whole", served, tmp_path, window=2, cache_gb=30e-6)


def test_a_wrong_path_a_missing_package_and_a_missing_shard(
    served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError,
        match=r"dataset\.path .*/nowhere: nothing is there: check the address.* no train\.json.* another mode either",
    ):
        sharded(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"Known: a folder, http://, https://, s3:// or hf://"):
        sharded("htp://somewhere/made")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "http", raising=False)
    with pytest.raises(UserError, match=r'http:// needs a package that is missing: pip install -e "\.\[shards\]"'):
        sharded("http://127.0.0.1:1/made")
    out = write(folder(tmp_path / "plain"), tmp_path / "out")
    (out / "train-000001.tar").unlink()
    with open(out / "train-000002.tar", "ab") as file:
        file.truncate(100)
    first, second = sharded(out).check()
    assert first == f"{out}/train-000001.tar is missing. Copy the shard again"
    assert second.startswith(f"{out}/train-000002.tar has 100 bytes, and was written with ")


def test_other_sizes_take_the_stored_pictures(plain: Any, served: Server) -> None:
    larger = sharded(served.folder / "bucket" / "made", size=(40, 20))
    theirs = folder(plain.path, size=(40, 20))
    assert larger.size != SIZE
    for name in ("target", "supports"):
        assert larger[2][name].equal(theirs[2][name])
    torch.testing.assert_close(larger[2]["K"], theirs[2]["K"])
