"""What a depth that never looks at the image can reach."""

import numpy as np
import pytest

from trainer.metrics.baselines import MOST_PIXELS, Baselines, MaskedTruth, RowMeanDepth, best_constant_depth
from trainer.metrics.protocol import DepthProtocol


def abs_rel(constant, truths):
    whole = [t.astype(np.float64) for t in truths]
    return np.mean([np.mean(np.abs(constant - t) / t) for t in whole])


def test_best_constant_by_hand():
    # at c = 1: (0 + 1/2 + 9/10) / 3; at 2: (1 + 0 + 8/10) / 3: near pixels weigh more, so not the median
    assert best_constant_depth([np.array([1.0, 2.0, 10.0])]) == 1.0


def test_best_constant_against_brute_force():
    rng = np.random.default_rng(0)
    truths = [rng.uniform(1, 80, n).astype(np.float32) for n in (3, 50, 400, 7)]
    found = best_constant_depth(truths)
    grid = np.concatenate([np.linspace(1, 80, 2000), *truths])
    assert abs_rel(found, truths) <= min(abs_rel(c, truths) for c in grid) + 1e-12


def test_best_constant_among_many_that_are_nearly_the_same():
    """Depths whose upper bits agree are told apart by the others; against sorting all of them."""
    truths = [np.linspace(10, 10 + width, 999, dtype=np.float32) for width in (1e-3, 0.5, 40)]
    depth, weight = (np.concatenate(truths), np.concatenate([1 / (t.astype(np.float64) * len(t)) for t in truths]))
    order = np.argsort(depth)
    below = np.cumsum(weight[order])
    assert best_constant_depth(truths) == depth[order[np.searchsorted(below, below[-1] / 2)]]


def test_annotated_depth_is_kept_whole():
    dense = np.full((375, 1242), 5, np.float32)
    assert not MaskedTruth.of(dense, np.arange(dense.size).reshape(dense.shape) < 100_000).is_part


def test_every_image_weighs_the_same():
    # one image of 1 pixel against one of 1000: pooled pixels would choose 10
    assert best_constant_depth([np.array([5.0]), np.full(1000, 10.0)]) == 5.0


def masked(depth):
    depth = np.array(depth, dtype=np.float32)
    return MaskedTruth.of(depth, depth > 0)


def test_row_means_by_hand():
    truths = [masked([[2, 4], [0, 10]]), masked([[6, 0], [20, 30]])]
    row_mean = RowMeanDepth(truths)
    assert row_mean.predict(truths[0]).tolist() == [4, 4, 20]  # row 0: 2, 4, 6; row 1: 10, 20, 30
    assert row_mean.predict(truths[1]).tolist() == [4, 20, 20]


def test_rows_of_different_heights_meet_at_the_same_fraction():
    low, high = masked([[1], [3]]), masked([[5], [5], [9], [9]])
    # centres of the low image at 1/4 and 3/4 of its height: rows 1 and 3 of the high one
    assert RowMeanDepth([low, high]).predict(low).tolist() == [3, 6]


def test_a_ground_plane_is_known_from_its_rows():
    plane = np.repeat([[40.0], [20.0], [10.0]], 5, axis=1)
    scores = Baselines([masked(plane)]).score(DepthProtocol(["eigen"], "none", "none"))
    assert scores["row_mean_depth"]["abs_rel"] == 0
    assert scores["constant_depth"]["abs_rel"] > 0.3


def test_constant_becomes_the_median_of_each_image_when_that_is_what_alignment_gives():
    truths = [masked([[1, 2, 9]]), masked([[10, 20, 90]])]
    scores = Baselines(truths).score(DepthProtocol(["eigen"], "median", "none", max_depth=100))
    assert scores["constant_depth"]["abs_rel"] == pytest.approx(np.mean([1, 0, 7 / 9]))
    assert "per image" in scores["constant_depth"]["depth_m"]


def test_baselines_are_metres_and_not_scaled_by_the_stereo_factor():
    scores = Baselines([masked([[7, 7, 7]])]).score(DepthProtocol(["eigen"], "stereo", "none"))
    assert scores["constant_depth"]["depth_m"] == 7
    assert scores["constant_depth"]["abs_rel"] == 0


def test_of_a_dense_map_enough_pixels_are_kept():
    rows, columns = np.mgrid[:300, :500]
    truth = (80 - 70 * rows / 300 + 5 * np.sin(columns / 20)).astype(np.float32)
    kept = MaskedTruth.of(truth, truth > 0)
    assert len(kept.depth) == len(kept.row) == MOST_PIXELS < truth.size
    assert (kept.row[0], kept.row[-1]) == (0, 299)
    every = MaskedTruth(truth.reshape(-1), rows.reshape(-1).astype(np.int16), truth.shape)
    few, all_of_them = (Baselines([t]).score(DepthProtocol(["eigen"], "none", "none")) for t in (kept, every))
    for name in few:
        assert few[name]["abs_rel"] == pytest.approx(all_of_them[name]["abs_rel"], rel=2e-3)
    assert "at most 131072 pixels of each" in few["row_mean_depth"]["fitted_to"]
    assert all_of_them["row_mean_depth"]["fitted_to"] == "the truth of the evaluated items"


def test_places_of_kept_pixels_by_hand():
    truth = np.array([[0, 2, 3], [4, 0, 6]], np.float32)
    kept = MaskedTruth.of(truth, truth > 0)
    assert (kept.depth.tolist(), kept.row.tolist(), kept.size) == ([2, 3, 4, 6], [0, 0, 1, 1], (2, 3))
    assert not kept.is_part
