"""`prepare shards`, and training on what it wrote: killed in mid-epoch over HTTP, a run ends with the same bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.shards.servers import serving
from tests.runs import assert_same_run, kill_after
from tests.world import SMALL, call, train_args
from trainer.commands.prepare import main, num_bytes
from trainer.data import DATASETS

ITEMS: dict[str, Any] = {"split": "synthetic", "supp_idxs": [-1, 1, 0], "size": (96, 64)}


def shards(raw: Path, out: Path, *more: str, jobs: str = "1") -> int:
    settings = [
        f"dataset.root={raw}",
        "dataset.split=synthetic",
        "dataset.size=[96,64]",
        "dataset.train.use_depth=true",
    ]
    options = ["--out", str(out), "--shard-size", "140kB", "--jobs", jobs, "--mode", "train"]
    return main(["shards", "-c", "kitti/monodepth2_MS", *options, "--set", *settings, *more])


def test_shards_of_a_page_are_its_items_and_are_written_once(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    assert shards(raw, out) == 0
    shown = capsys.readouterr().out
    assert "train has 2 shards, " in shown
    assert f"monodepth train -c kitti/monodepth2_MS --set dataset.type=shards dataset.path={out}" in shown
    files = DATASETS.create("kitti", root=str(raw), **ITEMS)
    ours = DATASETS.create("shards", path=str(out), size=(96, 64), supp_idxs=[-1, 1, 0])
    for i in range(len(files)):
        assert all(torch.equal(ours[i][key], value) for key, value in files[i].items())
    assert {p.name for p in out.iterdir()} == {"train-000000.tar", "train-000001.tar", "train.json", "train.npz"}
    before = {p.name: os.stat(p).st_ino for p in out.iterdir()}
    assert shards(raw, out) == 0
    assert "train has 2 shards, none of them new" in capsys.readouterr().out
    assert {p.name: os.stat(p).st_ino for p in out.iterdir()} == before
    assert shards(raw, out, "dataset.supp_idxs=[-1,1]") == 0  # another data set: written anew, the rest deleted
    assert "none of them new" not in capsys.readouterr().out
    assert DATASETS.create("shards", path=str(out), size=(96, 64)).facts["supp_idxs"] == [-1, 1]


def test_broken_items_are_named_and_left_out(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sorted(raw.rglob("image_02/data/*.png"))[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255  # `check` looks at ends only
    path.write_bytes(bytes(content))
    assert shards(raw, tmp_path / "shards") == 1
    shown = capsys.readouterr().out
    assert "items are broken and left out:" in shown
    assert path.name in shown


def test_mistakes_are_told(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture = ["dataset.type=mixed", f"dataset.datasets={{kitti: {{root: {raw}, split: synthetic}}}}"]
    assert shards(raw, tmp_path / "a", *mixture) == 2
    assert "a mixture has no items of its own. Write shards of each data set" in capsys.readouterr().err
    assert num_bytes("256MB") == 256_000_000
    assert num_bytes("1.5g") == 1_500_000_000
    for wrong in ("much", "0", "-1MB"):
        with pytest.raises(SystemExit):
            main(["shards", "-c", "kitti/monodepth2_MS", "--out", str(tmp_path), f"--shard-size={wrong}"])


@pytest.mark.slow
def test_killed_in_mid_epoch_on_shards_over_http_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    page = ["-c", "cfg/synthetic/monodepth2_MS.yaml", "-d", "cfg/synthetic/default.yaml"]
    options = ["--out", str(tmp_path / "served"), "--shard-size", "60kB", "--jobs", "1"]
    assert main(["shards", *page, *options, "--set", *SMALL]) == 0
    assert len(list((tmp_path / "served").glob("train-*.tar"))) > 2
    with serving(tmp_path / "served") as server:
        cache = f"cache_root: {tmp_path / 'cache'}, cache_gb: 0.001"
        data = f"dataset={{type: shards, path: '{server.url}', window: 2, {cache}}}"
        often = "trainer.save_every_n_steps=1"  # as `kill_after`: `best` may be from before the kill, with its settings
        straight, killed = tmp_path / "straight", tmp_path / "killed"
        done = call(*train_args(straight, data, often))
        assert done.returncode == 0, done.stderr
        server.plan("drop", "refuse", "corrupt", "short", "drop")
        kill_after(5, killed, data)
        done = call(*train_args(killed, data, often))
        assert done.returncode == 0, done.stderr
    assert_same_run(killed, straight)
