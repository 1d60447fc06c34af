"""`evaluate` with predictions and ground truth in files: the same items in the same order, with the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.commands.evaluating import evaluate, hparams_of, refused, saved
from trainer.commands.export_depth import main as export
from trainer.commands.prepare import main as prepare


@pytest.fixture(scope="module")
def world(stereo_run, tmp_path_factory) -> tuple[Path, Path]:
    """What export_depth writes, and a configuration of the same items."""
    folder = tmp_path_factory.mktemp("world")
    preds, cfg = folder / "p.npz", folder / "data.yaml"
    assert export(["--ckpt", str(stereo_run), "--save", str(preds)]) == 0
    cfg.write_text(yaml.safe_dump({"dataset": hparams_of(stereo_run)["config"]["dataset"]}))
    return preds, cfg


def score(world: tuple[Path, Path], *options: str) -> list[str | Path]:
    preds, cfg = world
    return ["--pred-file", preds, "-c", cfg, "--limit 1 --save", cfg.parent / "r.yaml", *options]


def changed(world: tuple[Path, Path], path: Path, **arrays) -> tuple[Path, Path]:
    """The same with other arrays in the file of predictions; None leaves one out."""
    with np.load(world[0]) as file:
        kept = {key: value for key, value in {**file, **arrays}.items() if value is not None}
    np.savez(path, **kept)
    return path, world[1]


def test_the_file_names_its_items_and_their_data_set(world):
    with np.load(world[0]) as file:
        assert file["items"].tolist()[0] == "synthetic/test/scene 0/frame 0/left"
        assert len(file["items"]) == 4
        data = json.loads(str(file["dataset"]))
    assert [data[key] for key in ("type", "mode", "num_items", "items_per_scene")] == ["synthetic", "test", 4, 2]


def test_the_same_items_are_accepted(world, capsys):
    assert evaluate(*score(world)) == 0
    assert "names" not in capsys.readouterr().err
    assert evaluate(*score(world, "--set dataset.size=[64,64]")) == 0  # of pictures, which are not used


def test_another_order_names_the_first_difference(world, tmp_path, capsys):
    with np.load(world[0]) as file:
        other = changed(world, tmp_path / "p.npz", items=file["items"][[0, 2, 1, 3]])
    message = refused(capsys, *score(other))
    assert message.startswith(f"error: {other[0]}: prediction 1 is of 'synthetic/test/scene 1/frame 0/")
    assert "item 1 of the data set is 'synthetic/test/scene 0/frame 1/" in message


@pytest.mark.parametrize(
    ("override", "differences", "fix"),
    [
        ("dataset.clutter=1.5", "clutter 0.0 (here 1.5)", "dataset.test.clutter=0.0"),
        ("dataset.focal=[0.6,2]", "focal [0.58,1.92] (here [0.6, 2", "dataset.test.focal=[0.58,1.92]"),
    ],
)
def test_other_scenes_of_the_same_names(world, capsys, override, differences, fix):
    message = refused(capsys, *score(world, "--set", override))
    assert f"of another data set, in spite of the same names: {differences}" in message
    assert f"--set {fix}" in message
    assert evaluate(*score(world, "--set", override, fix)) == 0


def test_without_names_the_order_is_unknown(world, tmp_path, capsys):
    other = changed(world, tmp_path / "p.npz", items=None, dataset=None)
    assert evaluate(*score(other, "--pred-unit any")) == 0
    assert f"{other[0]}: has no names of items, so predictions and truths cannot be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (np.arange(4), ""),
        (np.array(["a"]), "items has shape (1,), for 4 predictions. Write a name for each"),
        (np.array("a"), "items has shape (), for 4 predictions"),
    ],
)
def test_arrays_of_the_same_name_that_mean_something_else(world, tmp_path, capsys, items, message):
    other = changed(world, tmp_path / "p.npz", items=items, dataset="kitti")
    if message:
        assert message in refused(capsys, *score(other))
    else:
        assert evaluate(*score(other)) == 0
        assert "has no names of items" in capsys.readouterr().err


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
    assert evaluate(*score(world, f"--targets {tmp_path / 'targets.npz'}")) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert message or "names" not in shown


# Ground truth in a file


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recordings, a configuration of their split, its targets, and predictions."""
    folder = tmp_path_factory.mktemp("targets")
    raw, targets, preds = (folder / name for name in ("kitti_raw_sync", "targets_test.npz", "preds.npz"))
    options = "--drives 2 --frames 6 --size 124x38 --annotated --split mini"
    assert prepare(["synthetic", "--out", str(raw), *options.split()]) == 0
    write_targets(raw, targets, "lidar")
    cfg = folder / "kitti.yaml"
    cfg.write_text(
        f"dataset: {{type: kitti, root: {raw}, split: mini}}\n"
        "evaluation: {metrics: [eigen, benchmark, pointcloud], crop: garg, max_depth: 80}\n"
    )
    names = np.load(targets)["items"]
    values = np.random.default_rng(0).uniform(0.05, 1, (len(names), 12, 40))
    np.savez(preds, pred=values, kind="disp", unit="any", items=names)
    return {"cfg": cfg, "targets": targets, "preds": preds, "raw": raw}


def write_targets(raw: Path, path: Path, source: str, *options: str) -> None:
    words = ["--root", str(raw), "--split", "mini", "--source", source, "--jobs", "1", "--out", str(path)]
    assert prepare(["targets", *words, *options]) == 0


def test_numbers_are_those_of_the_data_set(kitti, tmp_path, capsys):
    a, b, gone = (tmp_path / "run/42/results/a.yaml", tmp_path / "run/42/results/b.yaml", tmp_path / "gone.yaml")
    gone.write_text(kitti["cfg"].read_text().replace("kitti_raw_sync", "not_there"))
    for cfg, save, more in ((kitti["cfg"], a, ()), (gone, b, ("--targets", kitti["targets"]))):
        places = ["--save", save, "--legacy", tmp_path / f"{save.stem}_old.yaml"]
        assert evaluate("--pred-file", kitti["preds"], "-c", cfg, *places, *more) == 0
    one, other = saved(a), saved(b)
    for key in ("mean", "baselines", "factor", "items", "skipped"):
        assert one[key] == other[key], key
    assert (tmp_path / "a_old.yaml").read_bytes() == (tmp_path / "b_old.yaml").read_bytes()
    protocol = other["protocol"]
    assert protocol["dataset"] == {
        "type": "kitti", "split": "mini", "mode": "test", "num_items": len(one["items"]),
    }  # fmt: skip
    assert protocol["targets"]["file"] == str(kitti["targets"])
    words = one["protocol"]["truth"]
    assert words == "LiDAR, metres along the optical axis"
    assert protocol["truth"] == f"{words} (targets_test.npz, sha256 {protocol['targets']['sha256'][:16]})"
    assert f"protocol: kitti mini test from {words} (targets_test.npz, sha256 " in capsys.readouterr().out
    from trainer.tables.results import read_result  # tables keep them apart

    assert [read_result(save)[0].protocol["truth"] for save in (a, b)] == [words, protocol["truth"]]


@pytest.mark.parametrize(
    ("source", "option"),
    [("lidar-forward", "dataset.depth_along=lidar_x"), ("annotated", "dataset.use_benchmark=true")],
)
def test_every_kind_of_truth_gives_the_numbers_of_the_data_set(kitti, tmp_path, source, option):
    targets, save = tmp_path / "t.npz", tmp_path / "r.yaml"
    write_targets(kitti["raw"], targets, source, "--padded")
    results = []
    for more in (("--set", option), ("--targets", targets)):
        assert evaluate("--pred-file", kitti["preds"], "-c", kitti["cfg"], "--save", save, *more) == 0
        results.append(saved(save))
    assert results[0]["items"] == results[1]["items"]
    words = [result["protocol"]["truth"] for result in results]
    assert words[1].startswith(f"{words[0]} (t.npz, sha256 ")


@pytest.mark.parametrize(
    ("option", "warning"),
    [
        ("dataset.depth_along=lidar_x", "LiDAR, metres along the optical axis, not LiDAR, metres ahead of"),
        ("dataset.test.use_benchmark=true", "LiDAR, metres along the optical axis, not annotated depth"),
        ("dataset.depth_along=optical_axis", ""),
        ("dataset.split=mini", ""),
    ],
)
def test_a_page_that_asks_for_another_truth_than_the_file_holds(kitti, capsys, option, warning):
    options = ["-c", kitti["cfg"], "--set", option, "--targets", kitti["targets"]]
    assert evaluate("--pred-file", kitti["preds"], *options) == 0
    shown = capsys.readouterr().err
    assert warning in shown
    assert ("holds another truth" in shown) == bool(warning)
    # results are beside those of the data set, with a name of their own
    folder = kitti["cfg"].parent / "results"
    assert [path.name for path in folder.iterdir()] == ["kitti_mini_targets_test_preds_median.yaml"]


def test_files_of_other_tools_do_not_name_their_truth(kitti, tmp_path):
    targets, save = tmp_path / "t.npz", tmp_path / "r.yaml"
    with np.load(kitti["targets"]) as archive:
        arrays = {key: archive[key] for key in ("depth", "items")}
    np.savez(targets, **arrays, truth=np.zeros(len(arrays["items"])))
    assert evaluate("--pred-file", kitti["preds"], "--targets", targets, "--save", save) == 0
    assert saved(save)["protocol"]["truth"].startswith("t.npz, sha256 ")


def test_no_configuration_is_needed(kitti, tmp_path):
    """And point clouds take the intrinsics of the file."""
    options = ["--pred-file", kitti["preds"], "--targets", kitti["targets"], "--save", tmp_path / "r.yaml"]
    assert evaluate(*options) == 0
    protocol = saved(tmp_path / "r.yaml")["protocol"]
    assert (protocol["dataset"]["type"], protocol["crop"]) == ("targets", "none")
    assert list(protocol["metrics"]) == ["eigen"]
    assert evaluate(*options, "--metrics eigen pointcloud --limit 1") == 0
    assert saved(tmp_path / "r.yaml")["mean"]["chamfer"] > 0


def test_wrong_options(kitti, run, tmp_path, capsys):
    np.savez(tmp_path / "short.npz", depth=np.ones((1, 4, 6)))
    for options, message in (
        (["absent.npz"], "absent.npz: no such file"),
        ([kitti["targets"], "--sheet x.png"], "--sheet shows images"),
        ([kitti["targets"], "--metrics eigen ibims"], "needs true depth edges"),
        ([tmp_path / "short.npz"], "predictions, "),
    ):
        assert message in refused(capsys, "--pred-file", kitti["preds"], "--targets", *options)
    message = refused(capsys, "--ckpt", run, "--targets", kitti["targets"])
    assert "holds ground truth without images, and a network needs images" in message
    assert "export-depth" in message
