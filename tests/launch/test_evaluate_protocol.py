"""`evaluate` with a protocol in a file, and on several processes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launch.evaluate import main, parse
from tests.launch.test_evaluate import CPU_X2, told, write_run
from tests.world import ROOT, command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on video."""
    return write_run(tmp_path_factory.mktemp("runs") / "md2" / "42", [-1, 1])


def test_a_file_can_hold_the_protocol(run, tmp_path):
    path = tmp_path / "protocol.yaml"
    path.write_text(
        "evaluation:\n  metrics: benchmark\n  alignment: [none, median]\n  crop: garg\n  max_depth: 50\n  flip: true\n"
        "dataset: {test: {num_items: 2}}\n"
    )
    later = tmp_path / "later.yaml"
    later.write_text("evaluation: {max_depth: 60}\n")
    arguments = ["-c", str(path), str(later), "--crop", "none", "--save", str(tmp_path / "r.yaml")]
    assert main(["--ckpt", str(run), *arguments]) == 0
    for alignment in ("none", "median"):
        protocol = told(tmp_path / f"r_{alignment}.yaml")["protocol"]
        assert list(protocol["metrics"]) == ["benchmark"]
        assert (protocol["crop"], protocol["max_depth_m"]) == (
            "none",
            60,
        )  # command line, then the later file
        assert protocol["flip_post_processing"] is True
        assert protocol["items"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evaluation: {max_dept: 80}", "evaluation.max_dept is not an option. Did you mean 'max_depth'"),
        ("evaluation: {max_depth: far}", "evaluation.max_depth: "),
        ("evaluation: [eigen]", "evaluation must be a mapping"),
        ("evaluation: {crop: grag}", "Did you mean 'garg'"),
        ("{dataset: {scnee: road}, evaluation: {crop: garg}}", "protocol.yaml"),
        ("evaluation:\n  crop: garg\ndataset: {scnee: road}", "protocol.yaml:3: dataset.scnee"),
    ],
)
def test_mistakes_in_the_protocol_name_file_and_key(run, tmp_path, capsys, text, message):
    path = tmp_path / "protocol.yaml"
    path.write_text(text + "\n")
    assert main(["--ckpt", str(run), "-c", str(path)]) == 2
    assert message in capsys.readouterr().err


PROTOCOLS = {  # file: metric sets, crop, farthest truth, split or mode
    "kitti_eigen": (["eigen", "pointcloud"], "garg", 80, "eigen"),
    "kitti_eigen_benchmark": (["benchmark", "pointcloud"], "none", 100, "eigen_benchmark"),
    "kitti_eigen_zhou": (["benchmark", "pointcloud"], "none", 100, "eigen_zhou"),
    "syns_val": (["benchmark", "pointcloud", "ibims"], "none", 100, "val"),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_published_protocols(run, name):
    from launch._evaluation_settings import protocols_of, read_source

    args = parse(["--ckpt", str(run), "-c", str(ROOT / "cfg" / "eval" / f"{name}.yaml")])
    source = read_source(args)
    type_name, kwargs = source.cfg.dataset_kwargs("test")
    (protocol,) = protocols_of(args, source, type_name)
    metrics, crop, max_depth, split = PROTOCOLS[name]
    assert (list(protocol.sets), protocol.names["crop"]) == (metrics, crop)
    assert (protocol.min_depth, protocol.max_depth) == (0.001, max_depth)
    assert (kwargs["split"] if "split" in kwargs else kwargs["mode"]) == split
    assert kwargs.get("use_benchmark", False) == (crop == "none" and type_name == "kitti")


def test_prediction_options_are_not_for_checkpoints(run, capsys):
    assert main(["--ckpt", str(run), "--pred-kind", "disp"]) == 2
    assert "describe a --pred-file" in capsys.readouterr().err


# Several processes


@pytest.mark.slow
def test_two_processes_write_what_one_writes(run, tmp_path):
    arguments = [
        "--ckpt",
        str(run),
        "--pose",
        "--flip",
        "--batch-size",
        "2",
        "--alignment",
        "median",
        "lsqr_disp",
    ]
    for name, launcher in (("one", ()), ("two", CPU_X2)):
        save = ["--save", str(tmp_path / f"{name}.yaml"), "--legacy", str(tmp_path / f"{name}_old.yaml")]
        done = command(*launcher, "launch/evaluate.py", *arguments, *save)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("saved: ") == 2
        assert re.fullmatch(r"ratio to best constant depth: \d+\.\d\d", done.stdout.strip().splitlines()[-1])
    for ending in ("_median", "_lsqr_disp", "_old_median", "_old_lsqr_disp"):
        assert (tmp_path / f"one{ending}.yaml").read_bytes() == (tmp_path / f"two{ending}.yaml").read_bytes()
