"""`evaluate --vary`: tables on real recordings and untrained networks, what is refused, where it is saved."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.commands.evaluating import evaluate, refused, saved


@pytest.fixture
def kitti(recording, tmp_path):
    """A page of six made left images with LiDAR and annotated depth, and predictions of 6 x 12 pixels for them."""
    split, page, pred = (tmp_path / name for name in ("split.txt", "kitti.yaml", "pred.npz"))
    drive = next(path for path in recording.glob("*/*_sync")).relative_to(recording)
    split.write_text("".join(f"{drive} {i} l\n" for i in range(6)))
    page.write_text(f"dataset: {{type: kitti, root: {recording}, split_file: {split}}}\n")
    np.savez(pred, pred=np.random.default_rng(0).uniform(0.02, 0.5, (6, 6, 12)).astype(np.float32))
    return page, pred, recording


def test_kitti_has_other_truths(kitti, tmp_path, capsys):
    page, pred, _ = kitti
    save = tmp_path / "v.json"
    assert evaluate("--pred-file", pred, "--pred-kind disp -c", page, "--alignment median --vary --save", save) == 0
    found = json.loads(save.read_text())
    rows = {(row["factor"], row["choice"]): row for row in found["effects"]}
    # the scanner stands behind the camera: the same prediction against a truth that is farther
    for truth in ("LiDAR, metres ahead of the scanner", "annotated depth (arXiv:1708.06500)"):
        assert rows["truth", truth]["items"] == 6
    assert rows["resize", "depth, bilinear"]["change_pct"] != 0
    assert ("alignment", "stereo") not in rows
    assert {"alignment stereo: the predictions are in metres", "flip: needs the network, --ckpt"} <= set(
        found["not_measured"]
    )
    out = capsys.readouterr().out
    for text in ("as chosen", "truth", "annotated depth", "alignment median (factor", f"saved: {save}"):
        assert text in out
    # each is the number of an evaluation of its own
    for options, row in (
        ("--alignment lsqr_disp", rows["alignment", "lsqr_disp"]),
        ("--alignment median --crop none", rows["crop", "none"]),
        ("--alignment median --set dataset.use_benchmark=true", rows["truth", "annotated depth (arXiv:1708.06500)"]),
    ):
        place = tmp_path / "r.yaml"
        assert evaluate("--pred-file", pred, "--pred-kind disp -c", page, options, "--save", place) == 0
        assert saved(place)["mean"]["abs_rel"] == pytest.approx(row["abs_rel"], rel=1e-9)


def test_a_truth_that_is_not_there_is_named(kitti, tmp_path, capsys):
    page, pred, _ = kitti
    options = f"--vary --set dataset.depth_root={tmp_path}"
    assert evaluate("--pred-file", pred, "--pred-kind disp -c", page, options, "--save", tmp_path / "v.yaml") == 0
    assert "not measured: truth annotated depth (arXiv:1708.06500): " in capsys.readouterr().out


def test_a_network(run, capsys):
    assert evaluate("--ckpt", run, "--limit 2 --vary") == 0
    path = run / "variations" / "synthetic_best_median_2items.yaml"
    found = saved(path)
    assert found["chosen"]["abs_rel"] > 0
    assert {"flip", "resize", "alignment", "crop", "max_depth", "min_depth", "mean"} == {
        row["factor"] for row in found["effects"]
    } | {"resize"} & {line.partition(":")[0] for line in found["not_measured"]}
    assert found["protocol"]["limit"] == "2 of 4, evenly spaced"
    assert f"saved: {path}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--metrics eigen", "leave out --metrics"),
        ("--pose", "leave out --pose"),
        ("--odometry", "leave out --odometry"),
        ("--sheet s.png", "leave out --sheet"),
        ("--legacy l.yaml", "leave out --legacy"),
        ("--alignment median none", "Choose the one to start from with --alignment"),
        ("--save /dev/null/v.yaml", "is a file, but a folder is needed there"),
    ],
)
def test_what_does_not_go_together(run, capsys, options, message):
    assert message in refused(capsys, "--ckpt", run, "--vary", options)
