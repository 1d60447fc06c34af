"""The temporal alignment error of two frames of six pixels by hand, by loops, and its four rules of ours."""

import numpy as np
import pytest

from trainer.metrics.align import ALIGNMENTS
from trainer.metrics.temporal import Frame, apply_to_clip, beyond, fit_clip, moved_depth, one_way_error, score_clip

K = np.array([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]])


def frame(depth, scored=None, K=K):
    depth = np.broadcast_to(np.asarray(depth, float), (2, 3))
    return Frame(depth, np.ones(depth.shape, bool) if scored is None else scored, K)


def motion(x=0.0, y=0.0, z=0.0):
    T = np.eye(4)
    T[:3, 3] = x, y, z
    return T


def test_two_frames_by_hand():
    """One metre ahead, points at 2 m come to 1 m: of six pixels only that of the optical axis stays in the picture.

    It is predicted at 1.25 m: 0.25 / 1.25. Back, all pixels at 1.25 m come to 2.25 m and stay: 0.25 / 2.
    """
    ahead = motion(z=-1)
    assert moved_depth(frame(2), ahead, K, (2, 3)).tolist() == [[0, 1, 0], [0, 0, 0]]
    assert one_way_error(frame(2), frame(1.25), ahead) == pytest.approx(0.2)
    assert one_way_error(frame(1.25), frame(2), np.linalg.inv(ahead)) == pytest.approx(0.125)
    row = score_clip([frame(2), frame(1.25)], [ahead])
    assert row["tae_pct"] == pytest.approx(100 * (0.2 + 0.125) / 2)
    assert (row["forward_pct"], row["backward_pct"]) == (pytest.approx(20), pytest.approx(12.5))
    assert (row["pairs"], row["empty"]) == (1, 0)


def test_a_camera_that_stands_still():
    steady = np.arange(1.0, 7).reshape(2, 3)
    assert score_clip([frame(steady)] * 3, [np.eye(4)] * 2)["tae_pct"] == 0
    flicker = score_clip([frame(steady), frame(1.1 * steady), frame(steady)], [np.eye(4)] * 2)
    assert flicker["tae_pct"] == pytest.approx(100 * (0.1 / 1.1 + 0.1) / 2)


def test_the_nearest_point_wins():
    """Far and near points on one line of sight: whichever comes last."""
    depth = np.array([[4.0, 2, 4], [4, 4, 4]])
    left = motion(x=2)  # by 2 m: one pixel at 2 m, half a pixel at 4 m, which rounds to the even column
    seen = moved_depth(frame(depth), left, K, (2, 3))
    assert seen[0].tolist() == [4, 0, 2]  # columns 0, 2 and 2: the one at 4 m is hidden
    mirrored = moved_depth(frame(depth[:, ::-1]), motion(x=-2), K, (2, 3))
    assert mirrored[0].tolist() == [2, 0, 4]


def test_points_behind_the_camera_are_dropped():
    turned = np.diag([-1.0, 1, -1, 1])
    assert not moved_depth(frame(2), turned, K, (2, 3)).any()
    assert not moved_depth(frame(2), motion(z=-3), K, (2, 3)).any()
    assert one_way_error(frame(2), frame(2), turned) is None


def test_each_frame_has_its_own_camera():
    wide, narrow = K, np.diag([2.0, 1, 1]) @ K  # x of the second: 2 x + 2
    seen = moved_depth(frame([3.0, 4, 5], K=wide), np.eye(4), narrow, (2, 6))
    assert seen[0].tolist() == [3, 0, 4, 0, 5, 0]
    assert moved_depth(frame(2, K=narrow), np.eye(4), narrow, (2, 3)).tolist() == [[2] * 3] * 2


def test_pairs_without_common_pixel_are_left_out():
    away = motion(x=100)
    row = score_clip([frame(1), frame(1), frame(2)], [away, np.eye(4)])
    assert row["tae_pct"] == pytest.approx(100 * (0.5 + 1) / 2)  # not a mean with two zeros
    assert (row["pairs"], row["empty"]) == (2, 2)
    nothing = score_clip([frame(1), frame(1)], [away])
    assert (nothing["tae_pct"], nothing["empty"]) == (None, 2)


def test_only_pixels_with_a_truth_and_a_prediction_count():
    some = np.zeros((2, 3), bool)
    some[0, 0] = True
    assert one_way_error(frame(1), frame([2.0, 9, 9], some), np.eye(4)) == pytest.approx(0.5)
    assert one_way_error(frame(1), frame([[0.0, 2, 0], [0, 0, 0]]), np.eye(4)) == pytest.approx(0.5)
    assert one_way_error(frame([0.0, 1, 0]), frame([9.0, 2, 9]), np.eye(4)) == pytest.approx(0.5)


def by_loops(depths, masks, Ks, motions):
    errors = []
    for i, T in enumerate(motions):
        for a, b, M in ((i, i + 1, T), (i + 1, i, np.linalg.inv(T))):
            h, w = depths[a].shape
            drawn = {}
            for v in range(h):
                for u in range(w):
                    point = M[:3, :3] @ (depths[a][v, u] * np.linalg.inv(Ks[a]) @ [u, v, 1]) + M[:3, 3]
                    if point[2] <= 0:
                        continue
                    x, y, _ = Ks[b] @ point / point[2]
                    place = round(y), round(x)
                    drawn[place] = min(point[2], drawn.get(place, np.inf))
            D, mask = depths[b], masks[b]
            hits = [abs(D[p] - z) / D[p] for p, z in drawn.items() if 0 <= p[0] < h and 0 <= p[1] < w and mask[p]]
            if hits:
                errors.append(np.mean(hits))
    return 100 * np.mean(errors)


def test_against_loops():
    rng = np.random.default_rng(0)
    depths = [rng.uniform(1, 20, (12, 16)) for _ in range(4)]
    masks = [rng.random((12, 16)) > 0.3 for _ in range(4)]
    Ks = [np.array([[f, 0, 7.6], [0, f + 1, 5.4], [0, 0, 1]]) for f in (12, 13, 14, 15)]
    motions = []
    for _ in range(3):
        turn, _ = np.linalg.qr(np.eye(3) + 0.1 * rng.normal(size=(3, 3)))
        turn *= np.sign(np.diag(turn))  # near the identity
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = turn, rng.normal(0, 1, 3)
        motions.append(T)
    frames = [Frame(*parts) for parts in zip(depths, masks, Ks, strict=True)]
    assert score_clip(frames, motions)["tae_pct"] == pytest.approx(by_loops(depths, masks, Ks, motions), rel=1e-9)


def test_a_clip_is_aligned_once():
    """Frames at half and double scale: one factor for both, where each image would get its own."""
    truth = np.array([4.0, 4, 8, 8])
    fit = fit_clip(ALIGNMENTS["median"], np.array([1.0, 1, 8, 8]), truth)
    assert fit.scale == pytest.approx(6 / 4.5)
    exact = fit_clip(ALIGNMENTS["lsqr_disp"], 1 / (2 / truth + 0.25), truth)
    assert (exact.scale, exact.shift) == (pytest.approx(0.5), pytest.approx(-0.125))
    assert apply_to_clip(exact, 1 / (2 / truth + 0.25)) == pytest.approx(truth)


def test_beyond_infinity_is_far():
    """Inverse depth 0.1 is aligned to -0.075: far, not near; what a file has no disparity for is the least one."""
    fit = fit_clip(ALIGNMENTS["lsqr_disp"], 1 / np.array([1.0, 2]), 1 / np.array([0.375, 0.875]))
    assert (fit.scale, fit.shift) == (pytest.approx(0.5), pytest.approx(-0.125))
    assert apply_to_clip(fit, np.array([10.0, 0])) == pytest.approx([1000, 1000])
    assert beyond(np.array([10.0, 0, 999, 1001])) == 2
