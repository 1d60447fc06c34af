"""Crops, alignment, caps: which pixels count and how depth becomes metres."""

import numpy as np
import pytest

from trainer.metrics import METRICS, Metric, MetricSet
from trainer.metrics.align import ALIGNMENTS
from trainer.metrics.crop import CROPS
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import UserError


@pytest.mark.parametrize(
    ("crop", "rows", "columns"),
    [
        ("garg", (153, 371), (44, 1197)),  # 0.40810811 * 375 = 153.04, 0.99189189 * 375 = 371.96, ...
        ("eigen", (124, 342), (44, 1197)),  # 0.3324324 * 375 = 124.66, 0.91351351 * 375 = 342.57
        ("none", (0, 375), (0, 1242)),
        ("nyu", (45, 471), (41, 601)),
        ("cityscapes", (256, 768), (192, 1856)),
        # a window of 352 x 1216 from row 375 - 352 = 23 and column (1242 - 1216) / 2 = 13; within it rows 117 to 321
        # (0.3324324 * 352 = 117.02, 0.91351351 * 352 = 321.56) and columns 43 to 1172
        ("marigold", (23 + 117, 23 + 321), (13 + 43, 13 + 1172)),
    ],
)
def test_crops(crop, rows, columns):
    size = CROPS[crop].made_for or (375, 1242)  # of KITTI
    assert CROPS[crop].box(*size) == (slice(*rows), slice(*columns))
    mask = CROPS[crop].mask(*size)
    assert mask.sum() == (rows[1] - rows[0]) * (columns[1] - columns[0])
    assert mask[rows[0], columns[0]]
    assert mask[rows[1] - 1, columns[1] - 1]


def test_a_window_larger_than_the_image_is_the_image():
    assert CROPS["marigold"].box(100, 200) == CROPS["eigen"].box(100, 200)
    assert CROPS["marigold"].box(352, 1216) == CROPS["eigen"].box(352, 1216)
    assert CROPS["marigold"].box(353, 1217)[0].start == CROPS["eigen"].box(352, 1217)[0].start + 1


def test_alignment_factors():
    pred, truth = np.array([1.0, 2.0]), np.array([10.0, 20.0])
    factor = {name: alignment.fit(pred, truth).scale for name, alignment in ALIGNMENTS.items()}
    assert factor["none"] == 1.0
    assert factor["stereo"] == pytest.approx(5.4)  # 0.54 m / 0.1
    assert factor["median"] == pytest.approx(15 / 1.5)  # averages the two middle values


def test_doubled_prediction_is_perfect_after_median_scaling():
    truth = np.array([4.0, 10.0, 30.0])
    for alignment, expected in (("none", 1.0), ("median", 0.0)):
        protocol = DepthProtocol(["eigen"], alignment, "none", max_depth=80)
        scores = protocol.score(protocol.alignment.fit(2 * truth, truth).apply(2 * truth), truth)
        assert scores["abs_rel"] == pytest.approx(expected)


def test_range_is_open_and_zero_is_no_truth():
    protocol = DepthProtocol(["eigen"], "none", "none", min_depth=1, max_depth=80)
    truth = np.array([[0.0, 1.0, 1.01, 79.9, 80.0, np.nan, np.inf]])
    assert protocol.valid_pixels(truth).tolist() == [[False, False, True, True, False, False, False]]


def test_prediction_is_clipped_after_alignment():
    protocol = DepthProtocol(["eigen"], "none", "none", min_depth=1, max_depth=80)
    scores = protocol.score(np.array([1000.0, 0.1]), np.array([40.0, 2.0]))
    assert scores["abs_rel"] == pytest.approx((40 / 40 + 1 / 2) / 2)


def test_description_holds_all_that_a_reader_needs():
    facts = DepthProtocol(["eigen"], "stereo", "garg", 1e-3, 80).describe()
    assert (facts["alignment"], facts["factor"], facts["crop"]) == ("stereo", pytest.approx(5.4), "garg")
    assert (facts["min_depth_m"], facts["max_depth_m"], facts["flip_post_processing"]) == (0.001, 80.0, False)
    assert facts["metrics"]["eigen"]["units"]["rmse"] == "m"
    assert facts["metrics"]["eigen"]["higher_is_better"] == ["d1", "d2", "d3"]


def test_sets_stand_beside_each_other_and_share_what_they_agree_on():
    protocol = DepthProtocol(["eigen", "benchmark"], "none", "none")
    assert protocol.keys.count("rmse") == 1
    row = protocol.score_image(np.array([[3.0, 4.0]]), np.array([[2.0, 4.0]]))
    expected = {"pixels": 2, "factor": 1, "abs_rel": 0.25, "abs_rel_pct": 25, "mae": 0.5}
    assert row == pytest.approx(row | expected)
    assert list(row) == ["pixels", "factor", "truth_over_prediction", *protocol.keys]
    assert row["truth_over_prediction"] == pytest.approx(3 / 3.5)


def test_the_benchmark_alone_has_a_headline():
    protocol = DepthProtocol(["benchmark"], "none", "none")
    assert protocol.abs_rel({"abs_rel_pct": 12.5}) == pytest.approx(0.125)


def add_rmse(monkeypatch, unit):
    """Register a metric set 'other' with an rmse of -1 in this unit."""

    class Other(MetricSet):
        version = 1
        metrics = (Metric("rmse", unit),)

        def compute(self, pred, truth):
            return {"rmse": -1.0}

    monkeypatch.setitem(METRICS._entries, "other", Other)


def test_a_key_has_one_unit_and_one_value(monkeypatch):
    add_rmse(monkeypatch, "ft")
    with pytest.raises(UserError, match=r"'other' means another 'rmse' \(ft\)"):
        DepthProtocol(["eigen", "other"], "none", "none")
    add_rmse(monkeypatch, "m")
    with pytest.raises(ValueError, match="two metric sets give 'rmse'"):
        DepthProtocol(["eigen", "other"], "none", "none").score(np.ones(2), np.ones(2))


def test_edges_are_aligned_and_scored_for_themselves():
    truth = np.array([[2.0, 2.0, 2.0, 10.0]])
    pred = np.array([[1.0, 1.0, 1.0, 10.0]])
    edges = np.array([[False, False, False, True]])
    row = DepthProtocol(["eigen"], "median", "none").score_image(pred, truth, edges=edges)
    assert (row["factor"], row["abs_rel"]) == (2, pytest.approx(0.25))
    assert (row["factor_edges"], row["abs_rel_edges"], row["pixels_edges"]) == (1, 0, 1)
    assert not set(DepthProtocol(["eigen"], "median", "none").score_image(pred, truth)) & {"abs_rel_edges"}


def test_zero_in_a_prediction_counts_as_the_least_depth():
    row = DepthProtocol(["eigen"], "lsqr_disp", "none", 0.5).score_image(
        np.array([[0.0, 4.0, 2.0]]), np.array([[1.0, 4, 2]])
    )
    assert np.isfinite(list(row.values())).all()
    assert row["unpredicted"] == 1
    assert "unpredicted" not in DepthProtocol(["eigen"], "median", "none").score_image(
        np.array([[1.0, 4.0]]), np.array([[1.0, 4]])
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alignment": "mediam"}, "Did you mean 'median'"),
        ({"crop": "Garg"}, "Did you mean 'garg'"),
        ({"metrics": ["eigne"]}, "Did you mean 'eigen'.*needs its module: --plugins"),
        ({"metrics": []}, "add eigen"),
        ({"min_depth": 0}, "0 < min_depth < max_depth"),
        ({"min_depth": 80}, "0 < min_depth < max_depth"),
    ],
)
def test_errors_name_the_choices(arguments, message):
    good = {"metrics": ["eigen"], "alignment": "none", "crop": "none", "max_depth": 80}
    with pytest.raises(UserError, match=message):
        DepthProtocol(**{**good, **arguments})
