"""What a mean does not show is said: pixels that count as something else, fits that are none, units that are others."""

import numpy as np
import pytest
import yaml

from tests.evaluation.test_evaluation import Truths, evaluate_depth, flat, index_as_depth, metres
from trainer.evaluation import StoredDepth, save_result
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import UserError

FAR_FIRST = np.array([[50.0, 40, 30, 2]])  # truth whose least squares in inverse depth pass below 0 at the first
DISP = np.array([[1.0, 2, 3, 12]])
FITTING = 1 / (2 * DISP + 1)


def stored(tmp_path, values, kind="disp"):
    """Predictions as they are after a way through a file."""
    np.savez(tmp_path / "p.npz", pred=np.asarray(values, np.float32), kind=kind)
    return StoredDepth.read(tmp_path / "p.npz")


def evaluate(tmp_path, values, truths, protocol, kind="disp"):
    return evaluate_depth(stored(tmp_path, values, kind), Truths(truths), protocol)


def test_what_is_beyond_infinity_is_counted_and_named(tmp_path):
    result = evaluate(tmp_path, [DISP, DISP], [FAR_FIRST, FITTING], metres("lsqr_disp"))
    assert [item["nonpositive"] for item in result.items] == [1, 0]
    assert "an aligned inverse depth <= 0 counts as min_depth" in result.protocol["factor"]
    assert result.remarks == [
        "lsqr_disp: 1 of 8 scored pixels (12.5 %), in 1 of 2 items, have an aligned inverse depth <= 0 and count as"
        " min_depth, 0.001 m"
    ]
    save_result(result, tmp_path / "r.yaml")
    assert yaml.safe_load((tmp_path / "r.yaml").read_text())["remarks"] == result.remarks


class OnEdges(Truths):
    """Items whose first row is an edge."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        edges = item["depth"].clone().zero_()
        edges[:, 0] = 1
        return {**item, "edges": edges}


def test_on_edges_it_is_counted_for_itself(tmp_path):
    data = OnEdges([np.concatenate([FAR_FIRST, FITTING])])
    result = evaluate_depth(stored(tmp_path, [np.concatenate([DISP, DISP])]), data, metres("lsqr_disp"))
    assert result.items[0]["nonpositive_edges"] == 1
    assert result.remarks[-1] == (
        "lsqr_disp: 1 of 4 scored pixels (25 %), in 1 of 1 items, have an aligned inverse depth <= 0 and count as"
        " min_depth, 0.001 m on depth edges"
    )
    assert result.protocol["edges"]["alignment"] == "fitted to these pixels alone, for ibims too"
    assert "edges" not in evaluate(tmp_path, [DISP], [FAR_FIRST], metres("lsqr_disp")).protocol


@pytest.mark.parametrize(("name", "best"), [("lsqr_disp", 1 / np.mean([1, 1 / 2, 1 / 6])), ("lsqr_depth", 3)])
def test_a_constant_is_as_good_as_the_best_one(tmp_path, name, best):
    """A float32 that is no float64, at another size: resizing leaves rounding noise."""
    truth = np.repeat([[1.0, 2, 6]], 5, axis=0)
    result = evaluate(tmp_path, np.full((1, 4, 7), 0.1), [truth], metres(name))
    assert result.mean["abs_rel"] == pytest.approx(np.mean(np.abs(best - truth) / truth))
    assert result.ratio_to_constant == pytest.approx(1)
    shift = 1 / best if name == "lsqr_disp" else best
    assert result.factor == {"median": 0, "median_shift": pytest.approx(shift)}  # no spread: it would be 0 / 0
    (remark,) = result.remarks
    assert "the prediction of 1 of 1 items (image 0) is constant and counts as its best constant" in remark


def test_many_are_named_by_the_first(tmp_path):
    truths = [np.array([[1.0, 2, 6]])] * 5
    (remark,) = evaluate(tmp_path, np.full((5, 1, 3), 0.1), truths, metres("lsqr_depth")).remarks
    assert "5 of 5 items (image 0, image 1, image 2, ...) is constant" in remark


def test_a_factor_that_turns_near_and_far_around(tmp_path):
    truth = np.array([[2.0, 4, 10]])
    (remark,) = evaluate(tmp_path, [1 - 1 / truth], [truth], metres("lsqr_disp")).remarks
    assert remark.startswith("lsqr_disp: the factor of 1 of 1 items (image 0) is negative")
    assert evaluate(tmp_path, [1 / truth], [truth], metres("lsqr_disp")).remarks == []


@pytest.mark.parametrize(
    ("alignment", "meaning"),
    [
        ("none", "count as min_depth, 0.5 m"),
        ("lsqr_disp", "count as inverse depth 0, which takes part in the fit"),
        ("lsqr_depth", "count as depth 0, which takes part in the fit"),
    ],
)
@pytest.mark.parametrize("value", [0, -3])
def test_pixels_without_prediction_are_counted_where_they_are_scored(tmp_path, alignment, meaning, value):
    truth = np.array([[2.0, 4, 5, 0]])
    pred = np.array([[1 / 2, value, 1 / 5, value]])  # the last has no truth
    result = evaluate(tmp_path, [pred], [truth], metres(alignment, min_depth=0.5))
    assert result.items[0]["unpredicted"] == 1
    start = f"{alignment}: 1 of 3 scored pixels (33.3 %), in 1 of 1 items, hold no prediction (0 or less) and "
    assert start + meaning in result.remarks


@pytest.mark.parametrize("kind", ["disp", "depth"])
def test_negative_numbers_do_not_bleed_when_resized(tmp_path, kind):
    pred = np.array([[0.5, -40.0, 0.5]])
    expected, found = (stored(tmp_path, [values], kind).depth(0, (1, 12)) for values in (np.maximum(pred, 0), pred))
    assert (found == expected).all()
    assert (found[0, :2] == (2.0 if kind == "disp" else 0.5)).all()


@pytest.mark.parametrize("alignment", ["none", "median", "lsqr_disp"])
@pytest.mark.parametrize("columns", [3, 12])
def test_infinite_depth_is_farthest(tmp_path, alignment, columns):
    pred = np.array([[2.0, 4, np.inf]])
    truth = np.repeat([[2.0, 4, 79]], columns // 3, axis=1)
    result = evaluate(tmp_path, [pred], [truth], metres(alignment), kind="depth")
    alone = {3: 1, 12: 2}[columns]  # of 12 columns, 2 have no finite neighbour
    assert result.items[0]["infinite"] == alone
    assert "hold an infinite depth and count as farthest" in " ".join(result.remarks)
    if columns == 3:
        assert result.mean["abs_rel"] < 0.02


@pytest.mark.parametrize(
    ("alignment", "depths", "told"),
    [
        ("none", (1, 2, 3), None),
        ("none", (1.9, 3.8, 5.7), None),
        ("none", (5.4, 10.8, 16.2), "none: the truth is 5.4 times the prediction"),
        ("none", (0.1, 0.2, 0.3), "none: the truth is 0.1 times the prediction"),
        ("stereo", (5.4, 10.8, 16.2), None),
        ("stereo", (1, 2, 3), "stereo: the truth is 1 times the prediction"),
        ("median", (20, 40, 60), None),
    ],
)
def test_a_unit_that_is_another_one(alignment, depths, told):
    remarks = evaluate_depth(index_as_depth, flat(*depths), metres(alignment)).remarks
    remarks = [line for line in remarks if "over all pixels" not in line]
    assert [line.startswith(told or "") for line in remarks] == ([True] if told else [])


def test_a_crop_of_another_size():
    data = Truths([np.full((48, 64), 1.0), np.full((480, 640), 2.0)])
    remark, _ = evaluate_depth(index_as_depth, data, metres(crop="nyu")).remarks
    assert remark == "none: the crop nyu is of 640x480, and was scaled to 64x48"
    assert evaluate_depth(index_as_depth, Truths([np.full((480, 640), 1.0)]), metres(crop="nyu")).remarks == []
    assert evaluate_depth(index_as_depth, flat(1), metres(crop="garg")).remarks == []


def test_a_window_larger_than_the_images():
    (remark,) = evaluate_depth(index_as_depth, flat(1, size=(48, 64)), metres(crop="marigold")).remarks
    assert "marigold is of a window of 1216x352, and truths of 64x48 are smaller: it was taken of what" in remark
    assert evaluate_depth(index_as_depth, flat(1, size=(352, 1216)), metres(crop="marigold")).remarks == []


def test_a_trimmed_fit_that_is_another_one(tmp_path):
    truths, preds = [np.array([[1.0, 2, 6, 7]])] * 3, [[[3, 3, 3, 3]], [[1, 2, 2, 3]], [[1, 2, 3, 4]]]
    result = evaluate(tmp_path, np.array(preds), truths, metres("lsqr_depth_trim"), kind="depth")
    assert [item.get("fallback") for item in result.items] == ["median", "untrimmed", None]
    assert [line for line in result.remarks if "the prediction of" in line] == [
        "lsqr_depth_trim: the prediction of 1 of 3 items (image 1) is constant, or one pixel, without its extremes: it"
        " is fitted with them",
        "lsqr_depth_trim: the prediction of 1 of 3 items (image 0) is constant, or one pixel: it is scaled by the ratio"
        " of medians",
    ]


def test_metrics_that_some_items_lack(tmp_path):
    lone = np.zeros((2, 3))
    lone[0, 0] = 5
    protocol = DepthProtocol(["eigen", "boundary"], "none", "none")
    result = evaluate(tmp_path, np.ones((2, 2, 3)), [lone, np.full((2, 3), 1.0)], protocol, kind="depth")
    assert [item.get("boundary_f1") for item in result.items] == [None, 0]
    assert result.mean["boundary_f1"] == 0
    assert "none: boundary_f1 leaves out 1 of 2 items (image 0), which have none" in result.remarks
    with pytest.raises(UserError, match="no item has anything to score by boundary_f1: leave out the metric set"):
        evaluate(tmp_path, np.ones((1, 2, 3)), [lone], protocol, kind="depth")
