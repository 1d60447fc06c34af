"""The spelling of earlier result files."""

import numpy as np
import pytest

from trainer.metrics.legacy import legacy_rows
from trainer.metrics.protocol import DepthProtocol

K = np.array([[100.0, 0, 15.5], [0, 100.0, 11.5], [0, 0, 1]])
EIGEN = ["AbsRel", "SqRel", "RMSE", "LogRMSE", r"$\delta < 1.25$", r"$\delta < 1.25^2$", r"$\delta < 1.25^3$"]
BENCHMARK = ["MAE", "RMSE", "InvMAE", "InvRMSE", "LogMAE", "LogRMSE", "LogSI", "AbsRel", "SqRel"]
POINTS = ["Chamfer", "F-Score", "IoU", "F-Score-20", "IoU-20"]


def items(sets, edges=None, alignment="median"):
    protocol = DepthProtocol(sets, alignment, "none", max_depth=100)
    rng = np.random.default_rng(0)
    truth = rng.uniform(2, 50, (24, 32))
    return [protocol.score_image(truth * rng.uniform(0.9, 1.1, truth.shape), truth, K, edges)], protocol


@pytest.mark.parametrize(("sets", "names"), [(["eigen"], EIGEN), (["benchmark"], BENCHMARK)])
def test_columns_in_the_order_of_the_reference(sets, names):
    assert list(legacy_rows(*items([*sets, "pointcloud"]))) == ["Ratio", *names, *POINTS]


def test_later_sets_take_the_place_of_earlier_ones():
    rows, protocol = items(["eigen", "benchmark"])
    renamed = legacy_rows(rows, protocol)
    assert list(renamed)[:5] == ["Ratio", *EIGEN[:4]]
    assert renamed["AbsRel"] == pytest.approx(100 * rows[0]["abs_rel"])


def test_categories_keep_the_items_apart():
    edges = np.zeros((24, 32), bool)
    edges[:, 16] = True
    rows, protocol = items(["benchmark", "ibims"], edges)
    renamed = legacy_rows([{"index": 0, "name": "x", "cat": "Indoor", "subcat": "Room", **rows[0]}], protocol)
    assert isinstance(renamed, list)
    (row,) = renamed
    assert list(row)[:4] == ["Ratio", "Cat", "SubCat", "MAE"]
    assert row["Cat"] == "Indoor"
    assert [key for key in row if key.endswith("-Edges")] == [
        *("Ratio-Edges", "Cat-Edges", "SubCat-Edges"),
        *(f"{key}-Edges" for key in BENCHMARK),
        *("DirAcc-Edges", "Dir (-)-Edges", "Dir (+)-Edges", "EdgeAcc-Edges", "EdgeComp-Edges"),
    ]
    assert row["DirAcc-Edges"] == rows[0]["dir_acc"]
    assert (row["Cat-Edges"], row["SubCat-Edges"]) == ("Indoor", "Room")


def test_least_squares_have_scale_and_shift():
    assert list(legacy_rows(*items(["eigen"], alignment="lsqr_disp")))[:3] == ["Scale", "Shift", "AbsRel"]


def test_means_hold_edges_that_the_first_item_lacks():
    edges = np.zeros((24, 32), bool)
    edges[:, 16] = True
    without, protocol = items(["benchmark"])
    rows = [*without, *items(["benchmark"], edges)[0]]
    renamed = legacy_rows(rows, protocol)
    assert renamed["MAE-Edges"] == rows[1]["mae_edges"]
    assert renamed["MAE"] == pytest.approx((rows[0]["mae"] + rows[1]["mae"]) / 2)
    assert list(renamed)[: 1 + len(BENCHMARK)] == ["Ratio", *BENCHMARK]
