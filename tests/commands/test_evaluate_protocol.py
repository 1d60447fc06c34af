"""`evaluate` with a protocol in a file, and on several processes."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.commands.test_evaluate import CPU_X2, told, write_run
from tests.world import ROOT, command
from trainer.commands.evaluate import main, parse


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
        ("evaluation: {crop: grag}", "protocol.yaml:1: evaluation.crop: 'grag' is not a known crop. Did you"),
        (
            "\nevaluation:\n  crop: garg\n  metrics: [eigen, egien]",
            "yaml:4: evaluation.metrics: 'egien' is not",
        ),
        ("evaluation:\n  alignment: mean\n", "yaml:2: evaluation.alignment: 'mean' is not a known alignment"),
        ("evaluation: {alignment: []}", "yaml:1: evaluation.alignment: List should have at least 1 item"),
        ("evaluation:\n  max_depth: -1\n", "yaml:2: evaluation.max_depth: Input should be greater than 0"),
        (
            "evaluation:\n  min_depth: 9\n  max_depth: 5",
            "yaml:3: evaluation.max_depth 5 must be above min_depth 9",
        ),
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
    "kitti_eigen_legacy": (["eigen", "pointcloud"], "garg", 80, "eigen"),
    "kitti_eigen_benchmark": (["benchmark", "pointcloud"], "none", 100, "eigen_benchmark"),
    "kitti_eigen_zhou": (["benchmark", "pointcloud"], "none", 100, "eigen_zhou"),
    "syns_val": (["benchmark", "pointcloud", "ibims"], "none", 100, "val"),
    "syns_test": (["benchmark", "pointcloud", "ibims"], "none", 100, "test"),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_published_protocols(run, name):
    from trainer.evaluation.subject import protocols_of, read_source

    args = parse(["--ckpt", str(run), "-c", str(ROOT / "cfg" / "eval" / f"{name}.yaml")])
    source = read_source(args)
    type_name, kwargs = source.cfg.dataset_kwargs("test")
    (protocol,) = protocols_of(args, source, type_name)
    metrics, crop, max_depth, split = PROTOCOLS[name]
    assert (list(protocol.sets), protocol.names["crop"]) == (metrics, crop)
    assert (protocol.min_depth, protocol.max_depth) == (0.001, max_depth)
    assert (kwargs["split"] if "split" in kwargs else kwargs["mode"]) == split
    assert kwargs.get("use_benchmark", False) == (crop == "none" and type_name == "kitti")
    assert (kwargs.get("depth_along") == "lidar_x") == name.endswith("legacy")


@pytest.mark.parametrize(
    ("name", "override", "expected"),
    [
        ("kitti_eigen", [], "kitti_eigen_best_median"),
        ("kitti_eigen_legacy", [], "kitti_eigen_lidar_x_best_median"),
        ("kitti_eigen", ["dataset.use_benchmark=true"], "kitti_eigen_annotated_best_median"),
        ("kitti_eigen_benchmark", [], "kitti_eigen_benchmark_best_median"),
        ("kitti_eigen_benchmark", ["dataset.use_benchmark=false"], "kitti_eigen_benchmark_lidar_best_median"),
        ("kitti_eigen_zhou", [], "kitti_eigen_zhou_best_median"),
        ("syns_test", [], "syns_patches_best_median"),
    ],
)
def test_results_on_other_truth_do_not_replace_each_other(run, name, override, expected):
    from trainer.commands.jobs.evaluate import default_result_path
    from trainer.evaluation.subject import read_source

    page = str(ROOT / "cfg" / "eval" / f"{name}.yaml")
    source = read_source(parse(["--ckpt", str(run), "-c", page, *(["--set", *override] if override else [])]))
    type_name, kwargs = source.cfg.dataset_kwargs("test")
    counts = {"items": 1, "skipped_without_valid_pixel": 0, "limit": None, "alignment": "median"}
    result = SimpleNamespace(protocol={"dataset": {"type": type_name, **kwargs}, **counts})
    assert default_result_path(source.path, result) == run / "results" / f"{expected}.yaml"


@pytest.mark.parametrize("name", ["syns_val", "syns_test"])
def test_parts_of_a_data_set_do_not_share_a_file(run, name):
    from trainer.evaluation.subject import file_stem, read_source

    args = parse(["--ckpt", str(run), "-c", str(ROOT / "cfg" / "eval" / f"{name}.yaml")])
    type_name, kwargs = read_source(args).cfg.dataset_kwargs("test")
    expected = {"syns_val": "syns_patches_val_best", "syns_test": "syns_patches_best"}
    assert file_stem({"type": type_name, **kwargs}, "best", None) == expected[name]


def test_prediction_options_are_not_for_checkpoints(run, capsys):
    assert main(["--ckpt", str(run), "--pred-kind", "disp"]) == 2
    assert "describe a --pred-file" in capsys.readouterr().err


def test_a_later_file_names_its_own_line(run, tmp_path, capsys):
    paths = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    paths[0].write_text("evaluation: {crop: garg, min_depth: 50}\n")
    paths[1].write_text("dataset: {test: {num_items: 2}}\nevaluation:\n  max_depth: 40\n")
    assert main(["--ckpt", str(run), "-c", *map(str, paths)]) == 2
    err = capsys.readouterr().err
    assert f"{paths[1]}:3: evaluation.max_depth 40 must be above min_depth 50 ({paths[0]}:1)" in err


# Several processes


def test_what_all_find_is_told_by_the_first(monkeypatch, capsys):
    from trainer.evaluation import FoundByAll, Processes, session

    for rank, kind in ((0, FoundByAll), (1, SystemExit)):
        machine = session.Machine(torch.device("cpu"), Processes(rank, 2))
        monkeypatch.setattr(session, "_meet", lambda machine=machine: machine)
        with pytest.raises(kind), session.start():
            raise FoundByAll("nothing was scored")


@pytest.mark.slow
def test_two_processes_say_once_what_is_wrong(run):
    done = command(*CPU_X2, "launch/evaluate.py", "--ckpt", str(run), "--max-depth", "0.002")
    assert done.returncode != 0
    assert done.stderr.count("nothing was scored") == 1, done.stderr


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
