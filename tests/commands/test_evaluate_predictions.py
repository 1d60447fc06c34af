"""`evaluate --pred-file`: numbers equal to those of a second evaluator, on real stereo matches and on noise."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.commands.evaluating import evaluate, refused, saved
from tests.metrics import reference

FOCAL_TIMES_BASELINE = 44.85728 + 339.5242  # P_rect_02[0, 3] - P_rect_03[0, 3], pixels times metres


@pytest.fixture(scope="module")
def kitti(shared_data, tmp_path_factory) -> tuple[Path, Path]:
    """A configuration of the three test items of the small KITTI drive, and its split file."""
    split = shared_data / "splits" / "kitti_raw" / "test_files.txt"
    cfg = tmp_path_factory.mktemp("cfg") / "kitti.yaml"
    cfg.write_text(
        f"dataset: {{type: kitti, root: {shared_data}, split_file: {split}}}\n"
        "evaluation: {metrics: [eigen, benchmark], crop: garg, max_depth: 80}\n"
    )
    return cfg, split


@pytest.fixture(scope="module")
def frames(shared_data, kitti) -> list[tuple[Path, int]]:
    rows = [line.split() for line in kitti[1].read_text().splitlines()]
    return [(shared_data / "kitti_raw" / drive, int(frame)) for drive, frame, _ in rows]


@pytest.fixture(scope="module")
def truths(frames) -> list[np.ndarray]:
    """Projected LiDAR, by the second implementation."""
    maps = []
    for drive, frame in frames:
        cameras, lidar = (_calibration(drive.parent / f"calib_{name}_to_cam.txt") for name in ("cam", "velo"))
        R, T = np.eye(4), np.eye(4)
        R[:3, :3] = cameras["R_rect_00"].reshape(3, 3)
        T[:3] = np.column_stack([lidar["R"].reshape(3, 3), lidar["T"]])
        scan = np.fromfile(drive / "velodyne_points" / "data" / f"{frame:010d}.bin", np.float32)
        points, size = scan.reshape(-1, 4)[:, :3], tuple(cameras["S_rect_02"].astype(int))
        maps.append(reference.velodyne_depth(points, cameras["P_rect_02"].reshape(3, 4), R, T, size))
    return maps


@pytest.fixture(scope="module")
def stereo(frames, tmp_path_factory) -> tuple[Path, np.ndarray]:
    """Inverse depth in 1/m by OpenCV's semi-global matcher, holes filled along rows."""
    matcher = cv2.StereoSGBM_create(
        minDisparity=0, numDisparities=128, blockSize=5, P1=200, P2=800, disp12MaxDiff=1, preFilterCap=63,
        uniquenessRatio=10, speckleWindowSize=100, speckleRange=2, mode=cv2.STEREO_SGBM_MODE_HH,
    )  # fmt: skip
    disps = []
    for drive, frame in frames:
        names = (drive / f"image_0{camera}" / "data" / f"{frame:010d}.png" for camera in (2, 3))
        grey = [cv2.imread(str(name), cv2.IMREAD_GRAYSCALE) for name in names]
        left, right = (cv2.copyMakeBorder(g, 0, 0, 128, 0, cv2.BORDER_REPLICATE) for g in grey)
        pixels = matcher.compute(left, right)[:, 128:].astype(np.float32) / 16
        columns = np.arange(pixels.shape[1])
        for row in pixels:
            if (row > 0).any():
                row[:] = np.interp(columns, columns[row > 0], row[row > 0])
        disps.append(np.maximum(pixels, 0) / FOCAL_TIMES_BASELINE)
    path = tmp_path_factory.mktemp("preds") / "sgbm.npz"
    values = np.stack(disps).astype(np.float32)
    np.savez(path, pred=values)
    return path, values


def _calibration(path: Path) -> dict[str, np.ndarray]:
    rows = [line.partition(":") for line in path.read_text().splitlines()[1:]]
    return {key: np.array(numbers.split(), dtype=float) for key, _, numbers in rows if key != "corner_dist"}


def score(kitti, pred, tmp_path, *options) -> dict:
    save = tmp_path / "r.yaml"
    assert evaluate("--pred-file", pred, "-c", kitti[0], "--save", save, *options) == 0
    return saved(save)


def agree(result: dict, expected: dict) -> None:
    for key, value in expected.items():
        if key in result["mean"]:
            # relative, because numbers in per cent or 1/km are large; the reference works in float32
            assert result["mean"][key] == pytest.approx(value, rel=1e-6, abs=1e-6), key


@pytest.mark.long
def test_stereo_matching_is_as_good_as_it_is_known_to_be(kitti, stereo, truths, tmp_path):
    result = score(kitti, stereo[0], tmp_path, "--pred-kind disp")
    assert 0.03 < result["mean"]["abs_rel"] < 0.05
    assert result["protocol"]["alignment"] == "none"
    agree(result, reference.evaluate(stereo[1], truths, mode="none")[0])
    # as depth they give the same
    depths = np.where(stereo[1] > 0, 1 / np.maximum(stereo[1], 1e-9), 0)
    np.savez(tmp_path / "depth.npz", pred=depths.astype(np.float32))
    as_depth = score(kitti, tmp_path / "depth.npz", tmp_path, "--pred-kind depth")
    assert as_depth["mean"] == pytest.approx(result["mean"], rel=1e-6)
    about = as_depth["protocol"]["predictions"]
    assert (about["kind"], about["unit"], len(about["sha256"])) == ("depth", "m", 64)


def test_a_constant_is_as_bad_as_it_is_known_to_be(kitti, truths, tmp_path):
    pred = tmp_path / "constant.npz"
    np.savez(pred, pred=np.full((3, 6, 8), 10, np.float32))
    result = score(kitti, pred, tmp_path, "--pred-kind depth --pred-unit any")
    assert 0.48 < result["mean"]["abs_rel"] < 0.50
    agree(result, reference.evaluate(np.full((3, 6, 8), 0.1), truths)[0])
    assert result["ratio_to_constant_depth"] == pytest.approx(1)


@pytest.mark.parametrize(("unit", "mode", "alignment"), [("any", "mono", "median"), ("baseline", "stereo", "stereo")])
def test_noise_at_another_size_equals_the_reference(kitti, truths, tmp_path, unit, mode, alignment):
    disps = np.random.default_rng(0).uniform(0.05, 2, (3, 48, 160)).astype(np.float32)
    disps[:, :3] = 0  # no prediction
    pred = tmp_path / "noise.npz"
    np.savez_compressed(pred, pred=disps[:, None])  # (N 1 h w) is allowed, too
    result = score(kitti, pred, tmp_path, f"--pred-kind disp --pred-unit {unit}")
    means, items = reference.evaluate(disps, truths, mode=mode)
    assert result["protocol"]["alignment"] == alignment
    agree(result, means)
    assert [i["factor"] for i in result["items"]] == pytest.approx([i["factor"] for i in items], rel=1e-6)


def test_metadata_of_a_file_is_kept(kitti, tmp_path):
    pred = tmp_path / "p.npz"
    values = np.random.default_rng(0).uniform(0.1, 1, (3, 6, 8)).astype(np.float32)
    for flip in ("false", "true"):
        np.savez(pred, pred=values, kind="disp", unit="baseline", flip=flip, checkpoint="abc")
        protocol = score(kitti, pred, tmp_path)["protocol"]
        assert protocol["flip_post_processing"] is (flip == "true")
    assert protocol["predictions"]["checkpoint_sha256"] == "abc"
    assert protocol["predictions"]["size"] == [8, 6]
    assert "size" not in protocol["dataset"]


def test_alignments_side_by_side(kitti, stereo, tmp_path, capsys):
    names = ["none", "median", "lsqr_disp", "lsqr_depth"]
    places = ["--legacy", tmp_path / "old.yaml", "--save", tmp_path / "r.yaml"]
    options = ["--pred-file", stereo[0], "-c", kitti[0], "--pred-kind disp --alignment", *names]
    assert evaluate(*options, *places) == 0
    out = capsys.readouterr().out
    results = {name: saved(tmp_path / f"r_{name}.yaml") for name in names}
    ratios = {name: f"{results[name]['ratio_to_constant_depth']:.2f}" for name in names}
    assert out.splitlines()[-5:] == [
        *(f"ratio to best constant depth, {name}: {ratio}" for name, ratio in ratios.items()),
        f"ratio to best constant depth: {ratios['none']}",  # of the first, for scripts
    ]
    header = next(line for line in out.splitlines() if "metric" in line)
    assert [name in header for name in names] == [True] * 4
    row = next(line for line in out.splitlines() if "abs_rel" in line)
    for name, result in results.items():  # each ratio follows from what the table shows
        assert f"{result['baselines']['constant_depth']['abs_rel']:.4f}" in row
        assert re.search(rf"best constant, [\w ]*\b{name}\b", header)
    # what it minimises
    assert results["lsqr_disp"]["mean"]["inv_rmse"] < results["median"]["mean"]["inv_rmse"]
    assert results["lsqr_depth"]["mean"]["rmse"] > 0
    assert {"factor", "shift"} <= set(results["lsqr_disp"]["items"][0])
    assert list(saved(tmp_path / "old_none.yaml"))[:2] == ["Ratio", "AbsRel"]
    assert list(saved(tmp_path / "old_lsqr_disp.yaml"))[:2] == ["Scale", "Shift"]


def test_point_clouds_take_the_intrinsics_of_the_date(kitti, stereo, tmp_path):
    """The option `intrinsics` is about pictures, not about the truth."""
    options = "--pred-kind disp --metrics eigen pointcloud --set dataset.intrinsics="
    one, other = (score(kitti, stereo[0], tmp_path, options + name) for name in ("average", "calibrated"))
    assert one["mean"] == other["mean"]
    assert 0 < one["mean"]["f_score_10"] < one["mean"]["f_score_20"] < 100
    assert "chamfer" not in one["baselines"]["constant_depth"]


@pytest.mark.parametrize(
    ("pred_type", "shift", "factor"), [("affine-invariant", -60, -2.0), ("metric", 0, 1.0), ("scale-invariant", 0, 0.1)]
)
def test_depth_of_a_submission_is_interpolated_as_depth(kitti, truths, tmp_path, pred_type, shift, factor):
    """As MDEC 2025 reads it: resized with OpenCV, fitted without extremes, numbers below 0 as they are."""
    depth = np.random.default_rng(0).uniform(2, 50, (3, 12, 40)).astype(np.float32)
    pred = tmp_path / "p.npz"
    np.savez(pred, pred=factor * depth + np.float32(shift), pred_type=pred_type)
    result = score(kitti, pred, tmp_path)
    assert result["protocol"]["alignment"] == "lsqr_depth_trim"
    assert result["protocol"]["resize"] == "depth, bilinear, to the size of the truth"
    expected = []
    for values, t in zip(depth, truths, strict=True):
        valid = (t > 1e-3) & (t < 80)
        valid[: int(0.40810811 * t.shape[0])] = valid[int(0.99189189 * t.shape[0]) :] = False
        valid[:, : int(0.03594771 * t.shape[1])] = valid[:, int(0.96405229 * t.shape[1]) :] = False
        p, t = cv2.resize(values, t.shape[::-1], interpolation=cv2.INTER_LINEAR)[valid], t[valid]
        inside = (np.percentile(p, 5) < p) & (p < np.percentile(p, 95))
        p = np.clip(np.polyval(np.polyfit(p[inside], t[inside], 1), p), 1e-3, 80)
        expected.append(np.mean(np.abs(p - t) / t))
    assert result["mean"]["abs_rel"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert "unpredicted" not in result["items"][0]


ONES = np.ones((3, 4, 6))
DISP = "--pred-kind disp"


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"pred": ONES[:2]}, DISP, "holds 2 predictions, the data set has 3 items"),
        ({"pred": ONES}, "", "Add --pred-kind"),
        ({"prd": ONES}, DISP, "Did you mean 'prd'"),
        ({"pred": ONES.astype(int)}, DISP,
         "holds int64. Write the disp that the numbers stand for, as floats: pred.astype(np.float32)"),
        ({"pred": ONES[0]}, DISP, "expected floats (N, h, w)"),
        ({"pred": np.ones((2, 0, 3))}, DISP, "expected floats (N, h, w)"),
        ({"pred": np.nan * ONES}, DISP,
         "item 0 (and 2 more) is not finite everywhere. Write 0 where there is no prediction, which counts as"),
        ({"pred": np.where(np.arange(3)[:, None, None] == 1, np.inf, ONES)}, DISP,
         "item 1 is not finite everywhere"),
        ({"pred": -np.inf * ONES}, "--pred-kind depth", "an infinite depth is allowed"),
        ({"pred": ONES, "kind": np.array("depth")}, DISP, "says that it holds depth"),
        ({"pred": ONES, "kind": np.array("disparity")}, "", "unknown kind 'disparity'"),
        ({"pred": ONES, "unit": np.array("ft")}, DISP, "unit 'ft'"),
        ({"pred": ONES, "pred_type": np.array("disparities")}, "", "Did you mean 'disparity'? Known: affine-invariant"),
        ({"pred": ONES, "pred_type": np.array("disparity")}, "--pred-kind depth", "says that it holds disp, not depth"),
        ({"pred": ONES}, f"{DISP} --flip", "--flip is about a network"),
        ({"pred": ONES}, "--pred-kind depth --pred-unit m --alignment stereo", "Leave out --alignment stereo"),
        ({"pred": ONES}, "--pred-kind depth --pred-unit m --set evaluation.alignment=stereo", "needs no factor"),
        ({"pred": np.array([None])}, DISP, "is not an NPZ file of plain arrays (one holds objects)"),
    ],
)  # fmt: skip
def test_wrong_files(kitti, tmp_path, capsys, arrays, options, message):
    pred = tmp_path / "x.npz"
    np.savez(pred, **arrays)
    assert message in refused(capsys, "--pred-file", pred, "-c", kitti[0], options)


def test_what_is_not_an_npz_file(kitti, tmp_path, capsys):
    path, damaged = tmp_path / "x.npz", tmp_path / "damaged.npz"
    fix = "is not an NPZ file. Write one with np.savez(file, pred=array)\n"
    np.savez_compressed(damaged, pred=np.random.default_rng(0).uniform(1, 2, (3, 40, 60)))
    content = bytearray(damaged.read_bytes())
    content[100:160] = bytes(60)
    np.save(tmp_path / "x.npy", ONES)
    single = (tmp_path / "x.npy").read_bytes()
    for found, message in (
        (None, "no such file"), (b"PK nothing", fix), (b"hello", fix), (single, fix), (content, "not an NPZ file"),
    ):  # fmt: skip
        if found:
            path.write_bytes(found)
        assert message in refused(capsys, "--pred-file", path, DISP, "-c", kitti[0])
    assert "needs ground truth" in refused(capsys, "--pred-file", path, DISP)
