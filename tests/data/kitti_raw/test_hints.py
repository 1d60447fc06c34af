"""Depth hints: matching a pair whose depth is known gives that depth; fusion takes what rebuilds the picture."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.data.files.depth import resize_nearest
from trainer.data.kitti import KittiRaw
from trainer.data.kitti_raw import hints as _hints
from trainer.data.kitti_raw.hints import FOCAL, SETTINGS, SIZE, candidates, depth_hints, fuse, moved, to_depth
from trainer.data.synthetic import Synthetic
from trainer.runtime.errors import UserError
from trainer.types import METRES_PER_UNIT


def noise(width: int = 400, height: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_settings_are_those_of_the_paper() -> None:
    assert len(SETTINGS) == 12
    assert SIZE == (1024, 320)
    assert {block for block, _ in SETTINGS} == {1, 2, 3}
    assert {disparities for _, disparities in SETTINGS} == {64, 96, 128, 160}


def test_blocks_of_two_and_three_pixels_are_the_same() -> None:
    """So that eight of the twelve matchings are enough."""
    left, right = noise(), np.roll(noise(), -9, axis=1)
    two, three = (_hints._matcher(block, 64).compute(left, right) for block in (2, 3))
    np.testing.assert_array_equal(two, three)
    assert len(list(candidates(left, right))) == 8


def test_a_shift_is_found_on_both_sides() -> None:
    """A plane seen from 0.1 units to the right moves by focal * 0.1 / depth pixels left; noise bends the peak."""
    shift = 12
    left = noise()
    right = np.roll(left, -shift, axis=1)
    expected = FOCAL * left.shape[1] * 0.1 / shift
    hints = depth_hints(left, right, right=False)
    assert hints.dtype == np.float32
    np.testing.assert_allclose(hints[:, 170:][hints[:, 170:] > 0], expected, rtol=0.03)
    assert (hints[:, 170:] > 0).mean() > 0.95
    hints = depth_hints(right, left, right=True)
    np.testing.assert_allclose(hints[:, :-170][hints[:, :-170] > 0], expected, rtol=0.03)
    assert (hints[:, :-170] > 0).mean() > 0.95


def test_moving_samples_to_the_left_and_repeats_the_border() -> None:
    right = np.arange(6, dtype=np.float32)[None, :, None]
    assert moved(right, np.full((1, 6), 2.0, np.float32))[0, :, 0].tolist() == [0, 0, 0, 1, 2, 3]
    quarter = moved(right, np.full((1, 6), 0.25, np.float32))
    assert quarter[0, :, 0].tolist() == [0, 0.75, 1.75, 2.75, 3.75, 4.75]
    assert moved(right, np.full((1, 6), -1.0, np.float32))[0, :, 0].tolist() == [1, 2, 3, 4, 5, 5]


def test_fusion_takes_the_better_candidate_wherever_there_is_one() -> None:
    left = noise(64, 16)
    right = np.roll(left, -5, axis=1)
    true, wrong = (np.full(left.shape[:2], value, np.float32) for value in (5, 7))
    none = np.full_like(true, -1)
    for order in ([true, wrong], [wrong, none, true]):
        assert (fuse(left, right, iter(order))[:, 8:] == 5).all()
    true[:, 30:] = 0  # no match here: what is left wins, whatever its error
    fused = fuse(left, right, iter([true, wrong]))
    assert (fused[:, 30:] == 7).all()
    assert (fused[:, 8:28] == 5).all()
    assert not fuse(left, right, iter([none])).any()


def test_depth_is_inverse_and_no_match_stays_none() -> None:
    disparity = np.array([[2.0, -1.0, 0.0, 4.0]], np.float32)
    np.testing.assert_allclose(to_depth(disparity), [[FOCAL * 4 * 0.1 / 2, 0, 0, FOCAL * 4 * 0.1 / 4]])


@pytest.mark.parametrize("index", [0, 1])
def test_hints_of_rendered_streets_are_their_depth(index: int) -> None:
    dataset = Synthetic(num_items=2, size=(512, 160), supp_idxs=0, clutter=0.5)
    item = dataset.load(index)
    hints = depth_hints(item.target, item.supports[0], right=index == 1) * METRES_PER_UNIT
    both = (hints > 0) & (item.depth > 0) & (item.depth < 60)
    assert both.mean() > 0.3
    error = np.abs(hints - item.depth)[both] / item.depth[both]
    assert np.median(error) < 0.02


def test_hints_agree_with_the_annotated_depth_of_real_pictures(shared_data: Path) -> None:
    path = shared_data / "splits" / "kitti_raw" / "benchmark_test_files.txt"
    dataset = KittiRaw(
        str(shared_data / "kitti_raw"), split_file=str(path), use_benchmark=True, depth_size=None, mode="test",
        size=SIZE, supp_idxs=0,
    )  # fmt: skip
    item = dataset.load(1)  # frame 5, right
    hints = depth_hints(item.target, item.supports[0], right=True) * METRES_PER_UNIT
    assert (hints > 0).mean() > 0.85
    hints = resize_nearest(hints, item.depth.shape[::-1])
    both = (hints > 0) & (item.depth > 0)
    error = np.abs(hints - item.depth)[both] / item.depth[both]
    assert both.sum() > 0.95 * (item.depth > 0).sum()
    assert error.mean() < 0.07  # seen: 0.058


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r'Depth hints needs the package cv2: pip install -e "\.\[hints\]"'):
        fuse(noise(32, 8), noise(32, 8), iter([]))
