"""`evaluate --pred-file`: predictions of other items, or in another order, are refused where that can be known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.commands.test_evaluate import write_run
from trainer.checkpoint.safefile import read_metadata
from trainer.commands.evaluate import main
from trainer.commands.export_depth import main as export


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained with a stereo pair."""
    return write_run(tmp_path_factory.mktemp("runs") / "md2" / "42", [0], **{"net.pose": None})


@pytest.fixture(scope="module")
def world(run, tmp_path_factory) -> tuple[Path, Path]:
    """What export_depth writes, and a configuration of the same items."""
    preds, cfg = run / "p.npz", tmp_path_factory.mktemp("cfg") / "data.yaml"
    assert export(["--ckpt", str(run), "--save", str(preds)]) == 0
    hparams = json.loads(read_metadata(run / "ckpts" / "best.safetensors")["hparams"])
    cfg.write_text(yaml.safe_dump({"dataset": hparams["config"]["dataset"]}))
    return preds, cfg


def evaluate(world: tuple[Path, Path], *options: str) -> int:
    preds, cfg = world
    save = preds.parent / "r.yaml"
    return main(["--pred-file", str(preds), "--save", str(save), "-c", str(cfg), "--limit", "1", *options])


def test_the_file_names_its_items_and_their_data_set(world):
    with np.load(world[0]) as file:
        assert file["items"].tolist()[0] == "synthetic/test/scene 0/frame 0/left"
        assert len(file["items"]) == 4
        told = json.loads(str(file["dataset"]))
    assert (told["type"], told["mode"], told["num_items"], told["items_per_scene"]) == (
        "synthetic",
        "test",
        4,
        2,
    )


def test_the_same_items_are_welcome(world, capsys):
    assert evaluate(world) == 0
    assert "names" not in capsys.readouterr().err
    assert evaluate(world, "--set", "dataset.size=[64,64]") == 0  # of pictures, which nobody looks at


def test_another_order_names_the_first_difference(world, tmp_path, capsys):
    preds = tmp_path / "p.npz"
    with np.load(world[0]) as file:
        np.savez(preds, **{**file, "items": file["items"][[0, 2, 1, 3]]})
    assert evaluate((preds, world[1])) == 2
    err = capsys.readouterr().err
    first, other = "synthetic/test/scene 1/frame 0/", "synthetic/test/scene 0/frame 1/"
    assert err.startswith(f"error: {preds}: prediction 1 is of '{first}")
    assert f"item 1 of the data set is '{other}" in err


@pytest.mark.parametrize(
    ("override", "differences", "fix"),
    [
        ("dataset.clutter=1.5", "clutter 0.0 (here 1.5)", "dataset.test.clutter=0.0"),
        ("dataset.scene_seed=3", "scene_seed 0 (here 3)", "dataset.test.scene_seed=0"),
        ("dataset.focal=[0.6,2]", "focal [0.58,1.92] (here [0.6, 2", "dataset.test.focal=[0.58,1.92]"),
    ],
)
def test_other_scenes_of_the_same_names(world, capsys, override, differences, fix):
    assert evaluate(world, "--set", override) == 2
    err = capsys.readouterr().err
    assert f"of another data set, in spite of the same names: {differences}" in err
    assert f"--set {fix}" in err
    assert evaluate(world, "--set", override, fix) == 0


def test_without_names_it_is_said_that_nothing_was_checked(world, tmp_path, capsys):
    preds = tmp_path / "p.npz"
    with np.load(world[0]) as file:
        np.savez(preds, pred=file["pred"], kind="disp")
    assert evaluate((preds, world[1]), "--pred-unit", "any") == 0
    told = f"{preds}: has no names of items, so nothing tells whether predictions and truths are in the same order"
    assert told in capsys.readouterr().err


def test_arrays_of_the_same_name_that_mean_something_else(world, tmp_path, capsys):
    preds = tmp_path / "p.npz"
    for items, code, message in (
        (np.arange(4), 0, "has no names of items"),
        (np.array(["a"]), 2, "items has shape (1,), for 4 predictions. Write a name for each"),
        (np.array("a"), 2, "items has shape (), for 4 predictions"),
    ):
        np.savez(preds, pred=np.ones((4, 6, 8)), kind="disp", unit="any", dataset="kitti", items=items)
        assert evaluate((preds, world[1])) == code
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("order", "code", "message"),
    [
        (slice(None), 0, ""),
        (slice(None, None, -1), 2, "prediction 0 is of 'synthetic/test/scene 0/frame 0/left', item 0 of "),
        (None, 0, "targets.npz: has no names of items"),
    ],
)
def test_targets_have_names_too(world, tmp_path, capsys, order, code, message):
    with np.load(world[0]) as file:
        names = {} if order is None else {"items": file["items"][order]}
    np.savez(tmp_path / "targets.npz", depth=np.ones((4, 6, 8), np.float32), **names)
    assert evaluate(world, "--targets", str(tmp_path / "targets.npz")) == code
    err = capsys.readouterr().err
    assert message in err
    assert message or "names" not in err
