"""A split that `evaluate` is asked for wins over the split file that a checkpoint was trained with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.commands.test_evaluate import write_run
from trainer.checkpoint.safefile import read_metadata
from trainer.commands.evaluate import main
from trainer.commands.export_depth import main as export
from trainer.commands.prepare import main as prepare
from trainer.evaluation.split import of_the_split_asked_for


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "md2" / "42", [-1, 1])


@pytest.fixture(scope="module")
def hparams(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a run that was trained on the file of a split."""
    folder = tmp_path_factory.mktemp("kitti")
    raw = folder / "kitti_raw_sync"
    options = ["--drives", "2", "--frames", "6", "--size", "124x38", "--annotated", "--split", "mini"]
    assert prepare(["synthetic", "--out", str(raw), *options]) == 0
    told = json.loads(read_metadata(run / "ckpts" / "best.safetensors")["hparams"])
    told["config"]["dataset"] = {
        "type": "kitti", "root": str(raw), "split_file": str(raw / "splits/mini/train_files.txt"),
        "size": [96, 64], "supp_idxs": [-1, 1],
    }  # fmt: skip
    path = folder / "hparams.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def test_the_split_of_a_page_is_scored(run, hparams, tmp_path, capsys):
    page, save = tmp_path / "page.yaml", tmp_path / "r.yaml"
    page.write_text("dataset: {type: kitti, split: mini}\n")
    given = ["--ckpt", str(run), "--hparams", str(hparams)]
    assert main([*given, "-c", str(page), "--save", str(save)]) == 0
    told = capsys.readouterr().err
    assert told.count("a split is asked for") == 1
    assert "train_files.txt" in told
    assert "is what the network was trained on" not in told
    raw = hparams.parent / "kitti_raw_sync"
    lines = (raw / "splits/mini/test_files.txt").read_text().split("\n")
    items = yaml.safe_load(save.read_text())["items"]
    assert len(items) == len([line for line in lines if line])
    frames = {int(line.split()[1]) for line in lines if line}
    assert {int(item["name"].rsplit("/", 1)[1]) for item in items} <= frames
    npz = tmp_path / "p.npz"
    assert export([*given, "--set", "dataset.split=mini", "--save", str(npz)]) == 0
    assert "a split is asked for" in capsys.readouterr().err


EMBEDDED = {
    "dataset": {"type": "kitti", "split_file": "train.txt", "test": {"split_file": "t.txt", "split": "zhou"}}
}


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["dataset.split=eigen"], {"split_file": None}),
        (["dataset.test.split=eigen"], {"split": "zhou", "split_file": None}),
        (["dataset={split: eigen}"], {"split_file": None}),
    ],
)
def test_what_is_left_out(overrides, part, capsys):
    config = of_the_split_asked_for(EMBEDDED, [], overrides, "test")
    assert config["dataset"] == {**EMBEDDED["dataset"], "test": part}
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["dataset.val.split=eigen"],  # about another part
        ["dataset.split=eigen", "dataset.split_file=mine.txt"],
        ["dataset.type=syns_patches", "dataset.split=eigen"],  # starts afresh
    ],
)
def test_what_stays(overrides, capsys):
    assert of_the_split_asked_for(EMBEDDED, [], overrides, "test") == EMBEDDED
    assert not capsys.readouterr().err
