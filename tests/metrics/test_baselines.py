"""What a depth that never looks at the image can reach."""

import numpy as np
import pytest

from trainer.metrics.baselines import MaskedTruth, RowMeanDepth, best_constant_depth, score_baselines
from trainer.metrics.protocol import DepthProtocol


def abs_rel(constant, truths):
    return np.mean([np.mean(np.abs(constant - t) / t) for t in truths])


def test_best_constant_by_hand():
    # at c = 1: (0 + 1/2 + 9/10) / 3; at 2: (1 + 0 + 8/10) / 3: near pixels weigh more, so not the median
    assert best_constant_depth([np.array([1.0, 2.0, 10.0])]) == 1.0


def test_best_constant_against_brute_force():
    rng = np.random.default_rng(0)
    truths = [rng.uniform(1, 80, n) for n in (3, 50, 400, 7)]
    found = best_constant_depth(truths)
    grid = np.concatenate([np.linspace(1, 80, 2000), *truths])
    assert abs_rel(found, truths) <= min(abs_rel(c, truths) for c in grid) + 1e-12


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
    told = score_baselines([masked(plane)], DepthProtocol(["eigen"], "none", "none"))
    assert told["row_mean_depth"]["abs_rel"] == 0
    assert told["constant_depth"]["abs_rel"] > 0.3


def test_constant_becomes_the_median_of_each_image_when_that_is_what_alignment_gives():
    truths = [masked([[1, 2, 9]]), masked([[10, 20, 90]])]
    told = score_baselines(truths, DepthProtocol(["eigen"], "median", "none", max_depth=100))
    assert told["constant_depth"]["abs_rel"] == pytest.approx(np.mean([1, 0, 7 / 9]))
    assert "per image" in told["constant_depth"]["depth_m"]


def test_baselines_are_metres_and_not_scaled_by_the_stereo_factor():
    told = score_baselines([masked([[7, 7, 7]])], DepthProtocol(["eigen"], "stereo", "none"))
    assert told["constant_depth"]["depth_m"] == 7
    assert told["constant_depth"]["abs_rel"] == 0
