"""Depth boundaries: by hand on steps, and against loops over pixels, written a second time."""

import numpy as np
import pytest

from trainer.metrics import METRICS, DepthMaps
from trainer.metrics.boundary_recall import steepest
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import UserError

THRESHOLDS = [1.05 + k * 0.2 / 9 for k in range(10)]
STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # from a pixel to its neighbour, rows first


def score(name, pred, truth, valid=None, **maps):
    pred, truth = np.asarray(pred, float), np.asarray(truth, float)
    valid = np.ones(truth.shape, bool) if valid is None else valid
    return METRICS.create(name).compute(DepthMaps(pred, truth, valid, valid, **maps))


def noisy(seed=0, size=(9, 11)):
    """Boxes in truth and a prediction with noise, holes in what is valid, and a foreground."""
    rng = np.random.default_rng(seed)
    truth = 10 * 1.07 ** rng.integers(0, 8, size)
    return truth * 1.04 ** rng.normal(0, 1, size), truth, rng.random(size) < 0.8, rng.random(size)


def boundaries(depth, valid, threshold):
    """For each direction the pixels whose neighbour there is nearer, by loops."""
    found = []
    for dy, dx in STEPS:
        places = set()
        for y in range(depth.shape[0]):
            for x in range(depth.shape[1]):
                v, u = y + dy, x + dx
                inside = 0 <= v < depth.shape[0] and 0 <= u < depth.shape[1]
                if inside and valid[y, x] and valid[v, u] and (1 / depth[v, u]) / (1 / depth[y, x]) > threshold:
                    places.add((y, x))
        found.append(places)
    return found


def f1_by_loops(pred, truth, valid):
    total = 0.0
    for threshold in THRESHOLDS:
        recalls, precisions = [], []
        for ours, theirs in zip(
            boundaries(pred, valid, threshold), boundaries(truth, valid, threshold), strict=True
        ):  # fmt: skip
            recalls.append(len(ours & theirs) / max(len(theirs), 1))
            precisions.append(len(ours & theirs) / max(len(ours), 1))
        r, p = sum(recalls) / 4, sum(precisions) / 4
        total += threshold * (2 * p * r / (p + r) if p + r else 0)
    return total / sum(THRESHOLDS)


def moge_by_loops(pred, truth, valid):
    total = weights = 0.0
    for threshold in THRESHOLDS:
        both = [set().union(*({(i, *place) for place in s} for i, s in enumerate(boundaries(d, valid, threshold))))
                for d in (pred, truth)]  # fmt: skip
        hits = len(both[0] & both[1])
        p, r = hits / max(len(both[0]), 1), hits / max(len(both[1]), 1)
        total += (threshold - 1) * (2 * p * r / (p + r) if p + r else 0)
        weights += threshold - 1
    return total / weights


def recall_by_loops(pred, foreground, valid):
    everywhere = np.ones(pred.shape, bool)
    total = 0.0
    for threshold in THRESHOLDS:
        shares = []
        for (dy, dx), found in zip(STEPS, boundaries(pred, everywhere, threshold), strict=True):
            thin = set()
            for line in range(pred.shape[0] if dx else pred.shape[1]):
                run = []
                for at in range((pred.shape[1] if dx else pred.shape[0]) + 1):
                    place = (line, at) if dx else (at, line)
                    if place in found:
                        run.append(place)
                    elif run:
                        thin.add(max(run, key=lambda p: (pred[p] / pred[p[0] + dy, p[1] + dx], [-c for c in p])))
                        run = []
            true = set()
            for y in range(pred.shape[0]):
                for x in range(pred.shape[1]):
                    v, u = y + dy, x + dx
                    kept = 0 <= v < pred.shape[0] and 0 <= u < pred.shape[1] and valid[y, x] and valid[v, u]
                    if kept and foreground[v, u] > 0.1 and not foreground[y, x] > 0.1:
                        true.add((y, x))
            shares.append(len(true & thin) / max(len(true), 1))
        total += threshold * sum(shares) / 4
    return total / sum(THRESHOLDS)


@pytest.mark.parametrize("seed", range(3))
def test_against_loops_over_pixels(seed):
    pred, truth, valid, foreground = noisy(seed)
    found = score("boundary", pred, truth, valid)["boundary_f1"]
    assert 0.3 < found < 0.99
    assert found == pytest.approx(f1_by_loops(pred, truth, valid), rel=1e-12)
    found = score("boundary_f1_moge", pred, truth, valid)["boundary_f1_moge"]
    assert found == pytest.approx(moge_by_loops(pred, truth, valid), rel=1e-12)
    found = score("boundary_recall", pred, truth, valid, foreground=foreground**3)["boundary_recall"]
    assert 0.05 < found < 0.9
    assert found == pytest.approx(recall_by_loops(pred, foreground**3, valid), rel=1e-12)


# Depth 10 beside 8, a ratio of 1.25, which is not above the last threshold; 10 beside 9 is above three of ten.
def test_a_step_by_hand():
    truth = [[10.0, 8.0, 8.0]]
    nine = sum(THRESHOLDS[:9]) / sum(THRESHOLDS)
    # one boundary in one direction of four: recall and precision are 1/4, whose F1 is 1/4
    assert score("boundary", truth, truth)["boundary_f1"] == pytest.approx(nine / 4)
    below = [t for t in THRESHOLDS if t < 10 / 9]
    assert len(below) == 3
    weaker = score("boundary", [[10.0, 9.0, 9.0]], truth)["boundary_f1"]
    assert weaker == pytest.approx(sum(below) / sum(THRESHOLDS) / 4)
    # MoGe counts all directions together, so a perfect prediction scores 1 where there is a boundary
    weights = [t - 1 for t in THRESHOLDS]
    perfect = score("boundary_f1_moge", truth, truth)["boundary_f1_moge"]
    assert perfect == pytest.approx(sum(weights[:9]) / sum(weights))
    # the step one pixel to the right is another boundary
    assert score("boundary", [[10.0, 10.0, 8.0]], truth)["boundary_f1"] == 0
    # with a second boundary that is none: precision (1 + 0) / 4 of left and right, recall 1 / 4
    double = score("boundary", [[10.0, 8.0, 9.9]], truth)["boundary_f1"]
    assert double == pytest.approx(sum(THRESHOLDS[:9]) / sum(THRESHOLDS) / 4)


def test_a_plus_is_found_in_all_directions():
    truth = np.full((3, 3), 10.0)
    truth[1, 1] = 5
    assert score("boundary", truth, truth)["boundary_f1"] == pytest.approx(1)
    assert score("boundary_f1_moge", truth, truth)["boundary_f1_moge"] == pytest.approx(1)
    foreground = (truth == 5).astype(float)
    assert score("boundary_recall", truth, truth, foreground=foreground)["boundary_recall"] == pytest.approx(1)
    assert score("boundary_recall", 50 / truth, truth, foreground=foreground)["boundary_recall"] == 0  # farther


def test_without_a_boundary_the_score_is_0_as_published():
    flat = np.full((3, 4), 7.0)
    assert score("boundary", flat, flat) == {"boundary_f1": 0}
    assert score("boundary_f1_moge", flat, flat) == {"boundary_f1_moge": 0}


def test_pairs_with_a_pixel_that_is_not_valid_do_not_exist():
    truth = np.array([[10.0, 0.0, 5.0, 5.0]])  # the hole would be a boundary if it were filled
    pred = np.array([[10.0, 1.0, 5.0, 5.0]])
    valid = truth > 0
    assert score("boundary", pred, truth, valid) == {"boundary_f1": 0}
    for name in ("boundary", "boundary_f1_moge"):
        assert score(name, pred, truth, np.array([[True, False, True, False]])) == {}
    outline = np.array([[0, 1, 1, 1]])
    assert score("boundary_recall", pred, truth, valid, foreground=outline) == {}
    assert score("boundary_recall", pred, truth, foreground=outline)["boundary_recall"] == pytest.approx(1 / 4)


def test_of_a_run_the_steepest_stays_and_of_equals_the_first():
    ratio = np.array([[1.2, 1.3, 1.1, 1.0, 1.3, 1.3], [1.3, 1.0, 1.2, 1.2, 1.2, 1.4], [1.0] * 6])
    assert steepest(ratio, 1.05).astype(int).tolist() == [[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1], [0] * 6]
    assert not steepest(ratio, 1.5).any()
    assert steepest(np.full((2, 3), 2.0), 1.0).astype(int).tolist() == [[1, 0, 0], [1, 0, 0]]  # rows do not join


def test_a_blurred_outline_counts_once():
    foreground = np.array([[0, 0, 1, 1]])
    # ratios 1.2, 1.5, 1.0: only the second is at the outline, and it is the steepest
    assert score("boundary_recall", [[18.0, 15, 10, 10]], np.ones((1, 4)), foreground=foreground)[
        "boundary_recall"
    ] == pytest.approx(1 / 4)
    # ratios 1.5, 1.2, 1.0: the run's steepest is beside it
    blurred = [[18.0, 12, 10, 10]]
    assert score("boundary_recall", blurred, np.ones((1, 4)), foreground=foreground) == {"boundary_recall": 0}


def test_a_pixel_belongs_to_the_foreground_above_a_tenth():
    for alpha, found in ((0.1, {}), (0.11, {"boundary_recall": pytest.approx(1 / 4)})):
        foreground = np.array([[0.0, alpha]])
        assert score("boundary_recall", [[10.0, 5.0]], np.ones((1, 2)), foreground=foreground) == found


def test_without_a_foreground_it_says_so():
    with pytest.raises(UserError, match=r"needs masks of near objects .* which the items lack: leave it out"):
        score("boundary_recall", np.ones((2, 2)), np.ones((2, 2)))


def scored(pred, truth, alignment, **limits):
    sets = ["eigen", "boundary", "boundary_f1_moge"]
    return DepthProtocol(sets, alignment, "none", **limits).score_image(pred, truth)


@pytest.mark.parametrize("alignment", ["none", "stereo", "median"])
def test_a_factor_and_the_cap_change_nothing(alignment):
    pred, truth, _, _ = noisy()
    expected = score("boundary", pred, truth)["boundary_f1"]
    for factor in (1, 0.01, 30):  # most of what is predicted is beyond the cap, or below the least depth
        row = scored(factor * pred, truth, alignment, min_depth=1, max_depth=25)
        assert row["boundary_f1"] == pytest.approx(expected, rel=1e-12)


def test_a_shift_changes_it():
    pred, truth, _, _ = noisy()
    rows = [scored(1 / (shift + 1 / pred), truth, alignment="median") for shift in (0, 1)]
    assert rows[0]["boundary_f1"] > 2 * rows[1]["boundary_f1"]
    aligned = scored(1 / (1 + 1 / truth), truth, alignment="lsqr_disp")
    assert aligned["boundary_f1"] == pytest.approx(score("boundary", truth, truth)["boundary_f1"])


def test_edges_are_not_scored_again():
    pred, truth, _, _ = noisy()
    protocol = DepthProtocol(["eigen", "boundary"], "median", "none")
    row = protocol.score_image(pred, truth, edges=truth > 14)
    assert "abs_rel_edges" in row
    assert not [key for key in row if key.startswith("boundary") and key.endswith("_edges")]
    assert "boundary_f1_edges" not in protocol.edge_keys
