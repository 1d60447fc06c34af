"""`evaluate --targets`: what `prepare targets` writes gives the numbers of the data set, without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.commands.test_evaluate import write_run
from trainer.commands.evaluate import main
from trainer.commands.prepare import main as prepare


def told(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recordings, a configuration of their split, its targets, and predictions; the recordings can be taken away."""
    folder = tmp_path_factory.mktemp("targets")
    raw = folder / "kitti_raw_sync"
    options = ["--drives", "2", "--frames", "6", "--size", "124x38", "--annotated", "--split", "mini"]
    assert prepare(["synthetic", "--out", str(raw), *options]) == 0
    targets = folder / "targets_test.npz"
    arguments = ["--root", str(raw), "--split", "mini", "--source", "lidar", "--jobs", "1"]
    assert prepare(["targets", *arguments, "--out", str(targets)]) == 0
    cfg = folder / "kitti.yaml"
    cfg.write_text(
        f"dataset: {{type: kitti, root: {raw}, split: mini}}\n"
        "evaluation: {metrics: [eigen, benchmark, pointcloud], crop: garg, max_depth: 80}\n"
    )
    names = np.load(targets)["items"]
    values = np.random.default_rng(0).uniform(0.05, 1, (len(names), 12, 40))
    preds = folder / "preds.npz"
    np.savez(preds, pred=values, kind="disp", unit="any", items=names)
    return {"cfg": cfg, "targets": targets, "preds": preds, "folder": folder, "raw": raw}


def evaluate(world, *options: str) -> int:
    return main(["--pred-file", str(world["preds"]), *options])


def test_numbers_are_those_of_the_data_set(world, tmp_path, capsys):
    arguments = ["-c", str(world["cfg"]), "--legacy"]
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    assert evaluate(world, *arguments, str(tmp_path / "a_old.yaml"), "--save", str(a)) == 0
    gone = tmp_path / "gone.yaml"
    gone.write_text(world["cfg"].read_text().replace("kitti_raw_sync", "not_there"))
    arguments = [
        "-c",
        str(gone),
        "--targets",
        str(world["targets"]),
        "--legacy",
        str(tmp_path / "b_old.yaml"),
    ]
    assert evaluate(world, *arguments, "--save", str(b)) == 0
    one, other = told(a), told(b)
    for key in ("mean", "baselines", "factor", "items", "skipped"):
        assert one[key] == other[key], key
    assert (tmp_path / "a_old.yaml").read_bytes() == (tmp_path / "b_old.yaml").read_bytes()
    protocol = other["protocol"]
    assert protocol["dataset"] == {
        "type": "kitti", "split": "mini", "mode": "test", "num_items": len(one["items"]),
    }  # fmt: skip
    assert protocol["targets"]["file"] == str(world["targets"])
    words = one["protocol"]["truth"]
    assert words == "LiDAR, metres along the optical axis"
    assert protocol["truth"] == f"{words} (targets_test.npz, sha256 {protocol['targets']['sha256'][:16]})"
    assert f"protocol: kitti mini test from {words} (targets_test.npz, sha256 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "option"),
    [("lidar-forward", "dataset.depth_along=lidar_x"), ("annotated", "dataset.use_benchmark=true")],
)
def test_every_kind_of_truth_gives_the_numbers_of_the_data_set(world, tmp_path, source, option):
    targets = tmp_path / "t.npz"
    arguments = [
        "--root",
        str(world["raw"]),
        "--split",
        "mini",
        "--source",
        source,
        "--jobs",
        "1",
        "--padded",
    ]
    assert prepare(["targets", *arguments, "--out", str(targets)]) == 0
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    assert evaluate(world, "-c", str(world["cfg"]), "--set", option, "--save", str(a)) == 0
    assert evaluate(world, "-c", str(world["cfg"]), "--targets", str(targets), "--save", str(b)) == 0
    assert told(a)["items"] == told(b)["items"]
    assert told(b)["protocol"]["truth"].startswith(f"{told(a)['protocol']['truth']} (t.npz, sha256 ")


@pytest.mark.parametrize(
    ("option", "warns"),
    [
        ("dataset.depth_along=lidar_x", "LiDAR, metres along the optical axis, not LiDAR, metres ahead of"),
        ("dataset.test.use_benchmark=true", "LiDAR, metres along the optical axis, not annotated depth"),
        ("dataset.depth_along=optical_axis", ""),
        ("dataset.split=mini", ""),
    ],
)
def test_a_page_that_asks_for_another_truth_than_the_file_holds(world, tmp_path, capsys, option, warns):
    arguments = ["-c", str(world["cfg"]), "--set", option, "--targets", str(world["targets"])]
    assert evaluate(world, *arguments, "--save", str(tmp_path / "r.yaml")) == 0
    told = capsys.readouterr().err
    assert warns in told
    assert ("holds another truth" in told) == bool(warns)


def test_files_of_other_tools_say_nothing_of_their_truth(world, tmp_path):
    with np.load(world["targets"]) as archive:
        arrays = {key: archive[key] for key in ("depth", "items")}
    np.savez(tmp_path / "t.npz", **arrays, truth=np.zeros(len(arrays["items"])))
    arguments = ["--targets", str(tmp_path / "t.npz"), "--save", str(tmp_path / "r.yaml")]
    assert evaluate(world, *arguments) == 0
    assert told(tmp_path / "r.yaml")["protocol"]["truth"].startswith("t.npz, sha256 ")


def test_results_lie_beside_those_of_the_data_set(world):
    assert evaluate(world, "-c", str(world["cfg"]), "--targets", str(world["targets"])) == 0
    assert (world["folder"] / "results/kitti_mini_targets_test_preds_median.yaml").is_file()


def test_no_configuration_is_needed(world, tmp_path):
    save = tmp_path / "r.yaml"
    assert evaluate(world, "--targets", str(world["targets"]), "--save", str(save), "--limit", "1") == 0
    protocol = told(save)["protocol"]
    assert (protocol["dataset"]["type"], protocol["crop"]) == ("targets", "none")
    assert list(protocol["metrics"]) == ["eigen"]


def test_point_clouds_take_the_intrinsics_of_the_file(world, tmp_path):
    save = tmp_path / "r.yaml"
    arguments = ["--targets", str(world["targets"]), "--save", str(save), "--metrics", "eigen", "pointcloud"]
    assert evaluate(world, *arguments) == 0
    assert told(save)["mean"]["chamfer"] > 0


def test_tables_keep_other_truth_apart(world, tmp_path):
    from trainer.tables.results import read_result

    saves = [tmp_path / "run/42/results" / name for name in ("a.yaml", "b.yaml")]
    assert evaluate(world, "-c", str(world["cfg"]), "--save", str(saves[0])) == 0
    assert (
        evaluate(world, "-c", str(world["cfg"]), "--targets", str(world["targets"]), "--save", str(saves[1]))
        == 0
    )
    one, other = (read_result(save)[0].protocol for save in saves)
    assert one["truth"].startswith("LiDAR, ")
    assert other["truth"].startswith(f"{one['truth']} (targets_test.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--targets", "absent.npz"], "absent.npz: there is no such file"),
        (["--targets", "TARGETS", "--sheet", "x.png"], "--sheet shows images"),
        (["--targets", "TARGETS", "--metrics", "eigen", "ibims"], "needs true depth edges"),
        (["--targets", "SHORT"], "predictions, "),
    ],
)
def test_wrong_options(world, tmp_path, capsys, options, message):
    np.savez(tmp_path / "short.npz", depth=np.ones((1, 4, 6)))
    places = {"TARGETS": str(world["targets"]), "SHORT": str(tmp_path / "short.npz")}
    assert evaluate(world, *(places.get(option, option) for option in options)) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("error: ")
    assert message in err


def test_a_network_needs_images(world, tmp_path, capsys):
    run = write_run(tmp_path / "md2" / "42", [-1, 1])
    assert main(["--ckpt", str(run), "--targets", str(world["targets"])]) == 2
    err = capsys.readouterr().err
    assert "holds ground truth without images, and a network needs images" in err
    assert "export_depth" in err
