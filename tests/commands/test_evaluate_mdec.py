"""The challenge of 2025 from a submission to its numbers, against the rules written a second time."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.commands.evaluating import evaluate, saved
from tests.data.clips import grey_frame

SIZE = (62, 19)  # width and height of the truths
K = [[31 / math.tan(math.radians(84.10) / 2), 31], [9 / math.tan(math.radians(25.46) / 2), 9]]  # focal length, centre


@pytest.fixture(scope="module")
def syns(tmp_path_factory):
    """Two patches: a folder, and their truths and edges."""
    root, rng, items = tmp_path_factory.mktemp("mini") / "syns_patches", np.random.default_rng(0), []
    for i in range(2):
        for folder in ("images", "depths", "edges"):
            (root / "01" / folder).mkdir(parents=True, exist_ok=True)
        truth = cv2.resize(rng.uniform(2, 12, (5, 9)), SIZE).astype(np.float32)
        truth[0, :5] = 0  # no truth
        truth[1, :5] = 120  # beyond the cap
        edges = rng.random(truth.shape) < 0.3
        grey_frame(root / "01" / "images" / f"{i}.png", 50, SIZE)
        np.save(root / "01" / "depths" / f"{i}.npy", truth)
        Image.fromarray((255 * edges).astype(np.uint8)).save(root / "01" / "edges" / f"{i}.png")
        items.append((truth.astype(float), edges))
    (root / "splits").mkdir()
    (root / "splits" / "val_files.txt").write_text("01 0.png\n01 1.png\n")
    return root, items


def points(depth, mask):
    v, u = np.nonzero(mask)
    z = depth[mask]
    return np.stack([z * (u - K[0][1]) / K[0][0], z * (v - K[1][1]) / K[1][0], z], axis=1)


def scores(pred, truth, edges):
    """AbsRel and F-score at 10 cm over all valid pixels, then over those on edges after another fit."""
    valid = (truth > 0.001) & (truth < 100)
    found = []
    for mask in (valid, valid & edges):
        low, high = np.percentile(pred[mask], [5, 95])
        inside = mask & (pred > low) & (pred < high)
        design = np.stack([pred[inside], np.ones(inside.sum())], axis=1)
        a, b = np.linalg.lstsq(design, truth[inside], rcond=None)[0]
        depth = np.clip(a * pred + b, 0.001, 100)
        apart = np.linalg.norm(points(depth, mask)[:, None] - points(truth, mask)[None], axis=-1)
        p, r = (apart.min(1) < 0.1).mean(), (apart.min(0) < 0.1).mean()
        found += [100 * np.mean(np.abs(depth - truth)[mask] / truth[mask]), 100 * 2 * p * r / (p + r)]
    return found


def test_numbers_of_the_challenge(syns, tmp_path, capsys):
    root, items = syns
    rng = np.random.default_rng(1)
    noisy = [cv2.resize(1 / np.maximum(t, 2), (48, 16)) * rng.uniform(0.97, 1.03, (16, 48)) for t, _ in items]
    pred = np.stack(noisy).astype(np.float32)
    pred[0, 3, 4:9] = 0  # becomes depth 0, as in the rules
    np.savez(tmp_path / "submission.npz", pred=pred, pred_type="disparity")
    given = ["--pred-file", tmp_path / "submission.npz", "-c eval/mdec2025 --mode val --set", f"dataset.root={root}"]
    assert evaluate(*given, "--save", tmp_path / "r.yaml", "--legacy", tmp_path / "old.yaml", "--pooled") == 0
    expected = []
    for disp, (truth, edges) in zip(pred, items, strict=True):
        disp = cv2.resize(disp, SIZE, interpolation=cv2.INTER_LINEAR)
        expected.append(scores((disp > 0) / np.maximum(disp, 1e-8).astype(float), truth, edges))
    result = saved(tmp_path / "r.yaml")
    keys = ["abs_rel_pct", "f_score_10", "abs_rel_pct_edges", "f_score_10_edges"]
    for row, numbers in zip(result["items"], expected, strict=True):
        assert [row[key] for key in keys] == pytest.approx(numbers, rel=1e-4)
    assert [result["mean"][key] for key in keys] == pytest.approx(np.mean(expected, axis=0), rel=1e-4)
    assert result["protocol"]["alignment"] == "lsqr_depth_trim"
    assert {"dir_acc", "edge_accuracy", "edge_completeness"} <= set(result["mean"])
    assert {"abs_rel_pct", "chamfer", "abs_rel_pct_edges", "chamfer_edges"} <= set(result["pooled"]["mean"])
    assert set(result["pooled"]["left_out"]) >= {"log_si_pct", "f_score_10", "dir_acc", "f_score_10_edges"}
    old = saved(tmp_path / "old.yaml")[0]  # a list, for items have categories
    assert list(old)[:2] == ["Scale", "Shift"]
    assert {"F-Score", "F-Score-Edges", "Scale-Edges", "Shift-Edges"} <= set(old)
