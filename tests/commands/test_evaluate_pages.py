"""`evaluate -c page`: the protocol and the split of a page, over those of the checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.commands.evaluating import evaluate, hparams_of, refused, saved
from tests.world import ROOT
from trainer.commands.evaluate import parse
from trainer.commands.export_depth import main as export
from trainer.commands.jobs.evaluate_options import read_request
from trainer.commands.prepare import main as prepare
from trainer.evaluation.changes import Changes
from trainer.evaluation.places import file_stem, result_path
from trainer.metrics.crop import CROPS

PAGES = ROOT / "cfg" / "eval"


def request_of(run: Path, *words: str | Path):
    return read_request(parse(["--ckpt", str(run), *(word for text in words for word in str(text).split())]))


def test_a_file_can_hold_the_protocol(run, tmp_path):
    page, later = tmp_path / "protocol.yaml", tmp_path / "later.yaml"
    page.write_text(
        "evaluation:\n  metrics: benchmark\n  alignment: [none, median]\n  crop: garg\n  max_depth: 50\n  flip: true\n"
        "dataset: {test: {num_items: 2}}\n"
    )
    later.write_text("evaluation: {max_depth: 60}\n")
    assert evaluate("--ckpt", run, "-c", page, later, "--crop none --save", tmp_path / "r.yaml") == 0
    for alignment in ("none", "median"):
        protocol = saved(tmp_path / f"r_{alignment}.yaml")["protocol"]
        assert list(protocol["metrics"]) == ["benchmark"]
        # the command line, then the later file
        assert (protocol["crop"], protocol["max_depth_m"]) == ("none", 60)
        assert protocol["flip_post_processing"] is True
        assert protocol["items"] == 2


def test_the_protocol_of_a_training_is_the_default_for_its_data(run, tmp_path):
    hparams, path = hparams_of(run), tmp_path / "hparams.yaml"
    hparams["config"]["evaluation"] = {"crop": "nyu", "max_depth": 10.0}
    path.write_text(yaml.safe_dump(hparams))
    page = tmp_path / "page.yaml"
    page.write_text("evaluation: {max_depth: 20}\n")
    for words, crop, max_depth in (
        ("", "nyu", 10),
        (f"-c {page}", "nyu", 20),
        (f"-c {page} --set evaluation.crop=none --max-depth 30", "none", 30),
        ("--set dataset.type=kitti", "garg", 80),  # other data
    ):
        (protocol,) = request_of(run, "--hparams", path, words).protocols
        assert (protocol.names["crop"], protocol.max_depth) == (crop, max_depth)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evaluation: {max_dept: 80}", ":1: evaluation.max_dept is not a key of evaluation. Did you mean 'max_depth'"),
        ("evaluation:\n  crop: garg\ndataset: {scnee: road}", ":3: dataset.scnee"),
        ("{dataset: {scnee: road}, evaluation: {crop: garg}}", ":1: dataset.scnee"),
        ("net: {depth: {enc_nam: x}}", ":1: net.depth.enc_nam"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_line(run, tmp_path, capsys, text, message):
    page = tmp_path / "page.yaml"
    page.write_text(text + "\n")
    assert f"{page}{message}" in refused(capsys, "--ckpt", run, "-c", page)


def test_mistakes_of_two_files_name_both(run, tmp_path, capsys):
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text("evaluation: {crop: garg, min_depth: 50}\n")
    b.write_text("dataset: {test: {num_items: 2}}\nevaluation:\n  max_depth: 40\n")
    message = refused(capsys, "--ckpt", run, "-c", a, b)
    assert f"{b}:3: evaluation.max_depth: 40 must be above min_depth 50 ({a}:1)" in message


def test_mistakes_of_the_checkpoint_name_it(run, tmp_path, capsys):
    hparams, path = hparams_of(run), tmp_path / "hparams.yaml"
    hparams["config"]["dataset"]["test"]["num_items"] = "many"
    path.write_text(yaml.safe_dump(hparams))
    message = refused(capsys, "--ckpt", run, "--hparams", path)
    assert message.startswith(f"error: {path}: dataset.test.num_items: expected a whole number")


@pytest.mark.parametrize("path", sorted((ROOT / "cfg").glob("e[vx]*/*.yaml")), ids=str)
def test_shipped_pages_are_valid_changes(run, path):
    cfg = Changes([path]).apply(hparams_of(run)["config"], "checkpoint")
    assert list(cfg.dataset_kwargs("test")[1]["size"]) == [96, 64]


PROTOCOLS = {  # page: metric sets, crop, farthest truth, split or mode, name of its results
    "kitti_eigen": (["eigen", "pointcloud"], "garg", 80, "eigen", "kitti_eigen"),
    "kitti_eigen_legacy": (["eigen", "pointcloud"], "garg", 80, "eigen", "kitti_eigen_lidar_x"),
    "kitti_eigen_benchmark": (["benchmark", "pointcloud"], "none", 100, "eigen_benchmark", "kitti_eigen_benchmark"),
    "kitti_eigen_zhou": (["benchmark", "pointcloud"], "none", 100, "eigen_zhou", "kitti_eigen_zhou"),
    "syns_val": (["benchmark", "pointcloud", "ibims"], "none", 100, "val", "syns_patches_val"),
    "mdec2025": (["benchmark", "pointcloud", "ibims"], "none", 100, "test", "syns_patches"),
    "syns_test": (["benchmark", "pointcloud", "ibims"], "none", 100, "test", "syns_patches"),
}  # fmt: skip


ZERO_SHOT = {  # page: alignment, crop, limits in metres, metric sets, K is known, pictures of the set (width, height)
    "nyud": ("lsqr_disp", "nyu", (0.001, 100), ["eigen", "benchmark"], False, [640, 480]),
    "diode_indoors": ("lsqr_disp", "none", (0.001, 150), ["eigen", "benchmark"], False, [1024, 768]),
    "diode_outdoor": ("lsqr_disp", "none", (0.001, 150), ["eigen", "benchmark"], False, [1024, 768]),
    "eth3d": ("lsqr_depth", "none", (1e-5, 1e4), ["eigen"], False, [6048, 4032]),
    "sintel": ("lsqr_disp", "none", (0.001, 100), ["eigen", "benchmark", "pointcloud"], True, [1024, 436]),
    "ddad": ("lsqr_disp", "none", (0.001, 250), ["eigen", "benchmark", "pointcloud"], True, [1936, 1216]),
    "ibims": ("lsqr_disp", "none", (0.001, 10), ["eigen", "ibims"], True, [640, 480]),
    "tum": ("lsqr_disp", "none", (0.001, 100), ["eigen", "benchmark"], False, [640, 480]),
    "cityscapes": ("median", "cityscapes", (0.001, 80), ["eigen"], False, [2048, 1024]),
}


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_protocols_of_sets_in_layouts_of_their_own(run, name):
    request = request_of(run, "-c", PAGES / f"{name}.yaml")
    _, kwargs = request.subject.cfg.dataset_kwargs("test")
    (protocol,) = request.protocols
    alignment, crop, limits, metrics, has_K, size = ZERO_SHOT[name]
    assert (protocol.names, list(protocol.sets)) == ({"alignment": alignment, "crop": crop}, metrics)
    assert (protocol.min_depth, protocol.max_depth) == limits
    assert (list(kwargs["native_size"]), kwargs["K"] is not None) == (size, has_K)
    assert results_of(run, request) == run / "results" / f"frames_{name}_best_median.yaml"


def test_the_crop_of_cityscapes_is_of_what_its_cut_leaves():
    rows, columns = CROPS["cityscapes"].box(*CROPS["cityscapes"].made_for)
    assert (rows, columns) == (slice(256, 768), slice(192, 1856))


def results_of(run: Path, request) -> Path:
    """The place of results of a request whose items were all scored."""
    type_name, kwargs = request.subject.cfg.dataset_kwargs("test")
    counts = {"items": 1, "skipped_without_valid_pixel": 0, "limit": None, "alignment": "median"}
    result = SimpleNamespace(protocol={"dataset": {"type": type_name, **kwargs}, **counts})
    return result_path(request.subject.path, result.protocol)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_published_protocols(run, name):
    request = request_of(run, "-c", PAGES / f"{name}.yaml")
    type_name, kwargs = request.subject.cfg.dataset_kwargs("test")
    (protocol,) = request.protocols
    metrics, crop, max_depth, split, stem = PROTOCOLS[name]
    assert (list(protocol.sets), protocol.names["crop"]) == (metrics, crop)
    assert (protocol.min_depth, protocol.max_depth) == (0.001, max_depth)
    assert (kwargs["split"] if "split" in kwargs else kwargs["mode"]) == split
    assert kwargs.get("use_benchmark", False) == (crop == "none" and type_name == "kitti")
    assert (kwargs.get("depth_along") == "lidar_x") == name.endswith("legacy")
    assert results_of(run, request) == run / "results" / f"{stem}_best_median.yaml"


def test_the_challenge_has_both_parts_on_one_page(run):
    request = request_of(run, "-c", PAGES / "mdec2025.yaml", "--mode val")
    assert request.subject.cfg.dataset_kwargs("val")[1]["mode"] == "val"
    assert [protocol.names["alignment"] for protocol in request.protocols] == ["lsqr_depth_trim"]


@pytest.mark.parametrize(
    ("name", "override", "expected"),
    [
        ("kitti_eigen", "dataset.use_benchmark=true", "kitti_eigen_annotated"),
        ("kitti_eigen_benchmark", "dataset.use_benchmark=false", "kitti_eigen_benchmark_lidar"),
    ],
)
def test_results_on_other_truth_have_other_names(run, name, override, expected):
    request = request_of(run, "-c", PAGES / f"{name}.yaml", "--set", override)
    assert results_of(run, request) == run / "results" / f"{expected}_best_median.yaml"


def test_a_data_set_of_a_plugin_has_the_defaults():
    from trainer.data.base import DepthDataset
    from trainer.evaluation.items import dataset_class

    assert dataset_class("of a plugin") is DepthDataset
    assert (DepthDataset.usual_crop, DepthDataset.unusual_truth({}), DepthDataset.truth_of({})) == ("none", None, "")
    assert file_stem({"type": "dots", "split_file": "a/mine.txt", "mode": "val"}, "best") == "dots_mine_val_best"


# A split that is asked for wins over the split file of the training


def test_the_split_of_a_page_is_scored(run, tmp_path, capsys):
    raw, npz = tmp_path / "kitti_raw_sync", tmp_path / "p.npz"
    options = "--drives 2 --frames 6 --size 124x38 --annotated --split mini"
    assert prepare(["synthetic", "--out", str(raw), *options.split()]) == 0
    settings = hparams_of(run)
    settings["config"]["dataset"] = {
        "type": "kitti", "root": str(raw), "split_file": str(raw / "splits/mini/train_files.txt"),
        "size": [96, 64], "supp_idxs": [-1, 1],
    }  # fmt: skip
    hparams, page, save = tmp_path / "hparams.yaml", tmp_path / "page.yaml", tmp_path / "r.yaml"
    hparams.write_text(yaml.safe_dump(settings))
    page.write_text("dataset: {type: kitti, split: mini}\n")
    capsys.readouterr()
    assert evaluate("--ckpt", run, "--hparams", hparams, "-c", page, "--save", save) == 0
    message = capsys.readouterr().err
    assert message.count("a split is asked for") == 1
    assert "train_files.txt" in message
    assert "is what the network was trained on" not in message
    lines = (raw / "splits/mini/test_files.txt").read_text().split("\n")
    items = saved(save)["items"]
    assert len(items) == len([line for line in lines if line])
    frames = {int(line.split()[1]) for line in lines if line}
    assert {int(item["name"].rsplit("/", 1)[1]) for item in items} <= frames
    given = ["--ckpt", str(run), "--hparams", str(hparams), "--save", str(npz)]
    assert export([*given, "--set", "dataset.split=mini"]) == 0
    assert "a split is asked for" in capsys.readouterr().err
    assert evaluate("--ckpt", run, "--hparams", hparams, "--save", save) == 0
    assert "train_files.txt is what the network was trained on" in capsys.readouterr().err


EMBEDDED = {"dataset": {"type": "kitti", "split_file": "train.txt", "test": {"split_file": "t.txt", "split": "zhou"}}}


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["dataset.split=eigen"], {"split_file": None}),
        (["dataset.test.split=eigen"], {"split": "zhou", "split_file": None}),
        (["dataset={split: eigen}"], {"split_file": None}),
        ([], None),
        (["dataset.val.split=eigen"], None),  # another mode
        (["dataset.split=eigen", "dataset.split_file=mine.txt"], None),
        (["dataset.type=syns_patches", "dataset.split=eigen"], None),  # starts afresh
    ],
)
def test_split_files_that_are_dropped(overrides, part, capsys):
    config = Changes([], overrides).without_split_file(EMBEDDED, "test")
    data = EMBEDDED["dataset"]
    assert config == {"dataset": data if part is None else {**data, "test": part}}
    assert capsys.readouterr().err.count("\n") == (part is not None)
