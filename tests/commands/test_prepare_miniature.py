"""`prepare miniature`: each set is read in its own layout, and its truth as prediction scores an AbsRel of 0."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.commands.evaluating import evaluate, refused, saved
from tests.world import ROOT
from trainer.commands.prepare import main
from trainer.data import DATASETS

PAGES = ("nyud", "diode_indoors", "diode_outdoor", "eth3d", "sintel", "ddad", "ibims", "tum", "cityscapes")
OTHERS = ("kitti_eigen", "syns_val")


def miniature(name: str, out: Path) -> Path:
    assert main(["miniature", name, "--out", str(out)]) == 0
    return out


def words_for(out: Path, name: str) -> list:
    return ["--pred-file", out / f"truth_as_prediction_{name}.npz", "-c", ROOT / f"cfg/eval/{name}.yaml", "--set"]


@pytest.fixture(scope="module")
def nyud(tmp_path_factory):
    return miniature("nyud", tmp_path_factory.mktemp("mini"))


@pytest.mark.parametrize("name", [*PAGES, *OTHERS])
def test_the_truth_as_prediction_has_no_error(tmp_path, capsys, name):
    out = miniature(name, tmp_path / name)
    printed = capsys.readouterr().out
    assert f"monodepth evaluate --pred-file {out}/truth_as_prediction_{name}.npz -c eval/{name} --set" in printed
    save = tmp_path / "r.yaml"
    assert evaluate(*words_for(out, name), f"dataset.root={out}", "--save", save) == 0
    result = saved(save)
    assert result["mean"].get("abs_rel", result["mean"].get("abs_rel_pct")) < 1e-5
    assert result["protocol"]["items"] == (2 if name == "kitti_eigen" else 3)
    assert min(item["pixels"] for item in result["items"]) > 100
    data = result["protocol"]["dataset"]
    assert (data["type"], data.get("split")) == ("frames", name) or name in OTHERS


def test_a_miniature_is_always_the_same_bytes(tmp_path):
    name = "sintel"
    one, other = (digests(miniature(name, tmp_path / part / name)) for part in "ab")
    assert one == other
    assert digests(miniature(name, tmp_path / "a" / name)) == one  # over itself


def test_a_suite_finds_miniatures_side_by_side(run, tmp_path, monkeypatch, capsys):
    """Under the folders of their pages, though the pictures of one set fit the patterns of another."""
    names = ("ibims", "tum")
    for name in names:
        miniature(name, tmp_path / "all")
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"sets": [f"eval/{name}" for name in names]}))
    shutil.copytree(tmp_path / "all/tum/sequence", tmp_path / "all/rooms")  # fits {sequence}/rgb/{time}.png, too
    monkeypatch.setenv("MONODEPTH_DATA", str(tmp_path / "all"))
    assert evaluate("--ckpt", run, "--suite", tmp_path / "suite.yaml", "--metrics eigen") == 0
    rows = saved(run / "suites" / "suite_best.yaml")["sets"]
    assert [(row["set"], row["state"]) for row in rows] == [(name, "scored") for name in names]
    assert (run / "suites" / "suite_best.md").read_text().count("| 3 of ") == 2


def test_depth_camera_and_poses_of_a_miniature_agree(tmp_path):
    """A point of one frame, moved by its true motion, has the depth that the next frame shows where it lands."""
    arguments = yaml.safe_load((ROOT / "cfg/eval/sintel.yaml").read_text())["dataset"]
    root = miniature("sintel", tmp_path / "sintel")
    kind = arguments.pop("type")
    dataset = DATASETS.create(kind, **arguments, root=str(root), supp_idxs=[1], size=(192, 64))
    assert len(dataset) == 2
    first, second = (dataset[i] for i in range(2))
    depth, K, T = first["depth"][0].double().numpy(), first["K_depth"].double().numpy(), first["Ts_true"][0].numpy()
    rows, columns = np.nonzero(depth)
    points = np.linalg.inv(K) @ np.stack([columns, rows, np.ones_like(rows)]) * depth[rows, columns]
    moved = T[:3, :3] @ points + T[:3, 3:]
    x, y, _ = np.rint(K @ moved / moved[2]).astype(int)
    height, width = depth.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (moved[2] > 0)
    seen = second["depth"][0].numpy()[y[inside], x[inside]]
    known = seen > 0
    error = np.abs(moved[2][inside][known] / seen[known] - 1)
    unmoved = np.abs(depth[rows, columns][inside][known] / seen[known] - 1)
    assert np.median(error) < 0.01 < np.median(unmoved)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_where_its_data_are(name):
    head = (ROOT / f"cfg/eval/{name}.yaml").read_text().partition("\ndataset:")[0]
    assert re.search(r"^# Data: https?://\S+ .*(licence|MIT|CC BY)", head, re.M)
    assert re.search(r"arXiv:\d{4}\.\d{5}", head)


def test_errors_of_the_truth_show(nyud, tmp_path):
    """Twice the depth is off by 100 %, and by nothing after an alignment."""
    arrays = dict(np.load(nyud / "truth_as_prediction_nyud.npz"))
    np.savez(tmp_path / "double.npz", **{**arrays, "pred": 2 * arrays["pred"]})
    words = ["--pred-file", tmp_path / "double.npz", "-c", ROOT / "cfg/eval/nyud.yaml", "--set", f"dataset.root={nyud}"]
    assert evaluate(*words, "--alignment none median --save", tmp_path / "r.yaml") == 0
    assert saved(tmp_path / "r_none.yaml")["mean"]["abs_rel"] == pytest.approx(1.0)
    assert saved(tmp_path / "r_median.yaml")["mean"]["abs_rel"] == pytest.approx(0.0, abs=1e-6)


def test_results_are_called_by_the_set(nyud, run):
    assert evaluate("--ckpt", run, "-c", ROOT / "cfg/eval/nyud.yaml", "--set", f"dataset.root={nyud}") == 0
    path = run / "results" / "frames_nyud_best.yaml"
    path = next(path.parent.glob("frames_nyud_best*.yaml"))
    protocol = saved(path)["protocol"]
    assert (protocol["crop"], protocol["alignment"], protocol["max_depth_m"]) == ("nyu", "lsqr_disp", 100)
    assert protocol["dataset"]["size"] == [96, 64]


@pytest.mark.parametrize("kind", ["empty", "deep", "no depth", "ending", "scale"])
def test_wrong_layouts_are_refused_in_a_sentence_with_the_tree(nyud, run, tmp_path, capsys, kind):
    root = Path(shutil.copytree(nyud / "nyud", tmp_path / "nyud"))
    words = ["--ckpt", run, "-c", ROOT / "cfg/eval/nyud.yaml", "--save", tmp_path / "r.yaml", "--set"]
    changes = {
        "empty": lambda: shutil.rmtree(root / "test"),
        "no depth": lambda: shutil.rmtree(root / "test/depth"),
        "ending": lambda: [path.rename(path.with_suffix(".jpg")) for path in (root / "test/rgb").iterdir()],
    }
    changes.get(kind, lambda: None)()
    if kind == "scale":
        for path in (root / "test/depth").iterdir():
            np.save(path, 10 * np.load(path))
        assert evaluate(*words, f"dataset.root={root}") == 0
        assert "m, where 0.5 to 9 m are usual here. Is dataset.depth_scale right" in capsys.readouterr().err
        return
    message = refused(capsys, *words, f"dataset.root={root / 'test' if kind == 'deep' else root}")
    assert "    test/rgb/{stem}.png    a picture\n    test/depth/{stem}.npy  depth\n" in message
    expected = {
        "empty": f"found: {root} is empty",
        "deep": f"Did you mean {root}?",
        "no depth": "depth is missing for 3 of 3 pictures",
        "ending": "found: test/rgb holds 00000.jpg, 00001.jpg, 00002.jpg",
    }
    assert expected[kind] in message


def test_a_miniature_is_not_written_into_another_folder(nyud, tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    for words, message in (
        (["nyud", "--out", str(tmp_path)], "holds no miniatures, and is not empty. Choose another --out"),
        (["nyu"], "nyu: no such page. Did you mean 'nyud'? Known: cityscapes, ddad"),
        (["synthetic", "--out", str(tmp_path / "s")], "its data set, synthetic, has no folder of its own"),
        (["kitti_odometry", "--out", str(tmp_path / "o")], "there is no miniature of this data set"),
    ):
        assert main(["miniature", *words]) == 2
        assert message in capsys.readouterr().err
