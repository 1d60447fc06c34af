"""Metres from labelled images: laws by hand, and drives that are never in both parts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer.metrics.calibration import (
    GAP,
    MOST_PIXELS,
    Calibration,
    PowerLaw,
    Sample,
    cross_validate,
    fit,
    folds,
)

LIMITS = (1e-3, 80.0)


def sample(index, depth, truth, drive=""):
    arrays = (np.asarray(values, np.float32) for values in (depth, truth))
    return Sample(index, drive, *arrays)


def images(law=lambda d: 5 * d, count=24, per_drive=4, noise=0.0, pixels=50):
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        depth = rng.uniform(0.5, 8, pixels)
        made.append(sample(i, depth, law(depth) * np.exp(noise * rng.standard_normal(pixels)), f"d{i // per_drive}"))
    return made


def test_a_power_law_by_hand():
    law = PowerLaw(2.0, math.log(3))
    assert law.apply(np.array([1.0, 2.0])).tolist() == pytest.approx([3, 12])
    assert law.apply(torch.tensor([2.0])).tolist() == pytest.approx([12])
    assert (law.factor, str(law)) == (pytest.approx(3), "3 x depth ^ 2")
    assert (PowerLaw.scale(5.4).a, str(PowerLaw.scale(5.4))) == (1, "5.4 x depth")


def test_an_exact_law_is_found():
    law = fit(images(lambda d: 4.2 * d**1.3))
    assert (law.a, law.factor) == (pytest.approx(1.3, rel=1e-5), pytest.approx(4.2, rel=1e-5))
    alone = fit(images(lambda d: 4.2 * d), scale_only=True)
    assert (alone.a, alone.factor) == (1, pytest.approx(4.2, rel=1e-5))


def test_outliers_are_doubted():
    made = images(lambda d: 4.2 * d**1.3, noise=0.01)
    for one in made:
        one.truth[:8] = 70.0  # a sixth of the pixels
    law = fit(made)
    assert (law.a, law.factor) == (pytest.approx(1.3, rel=0.01), pytest.approx(4.2, rel=0.02))
    x, y = (np.log(np.concatenate([getattr(s, key) for s in made])) for key in ("depth", "truth"))
    assert abs(np.polyfit(x, y, 1)[0] - 1.3) > 0.2  # ordinary least squares do not


def test_every_image_counts_the_same():
    """Two images that disagree, one with a hundred times the pixels: the middle of both."""
    few, many = sample(0, [1, 2, 4], [2, 4, 8]), sample(1, [1, 2, 4] * 100, np.array([8, 16, 32] * 100))
    assert fit([few, many], scale_only=True).factor == pytest.approx(4, rel=1e-3)


def test_a_constant_depth_has_a_scale_alone():
    assert fit([sample(0, [2, 2, 2], [4, 6, 9])]).a == 1


def test_whole_drives_are_left_out_each_image_once():
    made = images(count=28)
    pairs = folds(made)
    assert len(pairs) == 5
    for fitted, scored in pairs:
        assert not {s.drive for s in fitted} & {s.drive for s in scored}
        assert len(fitted) + len(scored) == 28
    assert sorted(s.index for _, scored in pairs for s in scored) == list(range(28))


def test_one_drive_is_cut_into_blocks_with_a_gap():
    pairs = folds(images(count=100, per_drive=100))
    assert sorted(s.index for _, scored in pairs for s in scored) == list(range(100))
    for fitted, scored in pairs:
        assert min(abs(a.index - b.index) for a in fitted for b in scored) == GAP + 1


def test_images_of_no_known_drive_are_of_one_together():
    """They may be frames of one film: none of its blocks is left out without the images beside it."""
    unknown = [replace(one, drive="") for one in images(count=100)]
    assert [len(scored) for _, scored in folds(unknown)] == [20] * 5
    assert all(len(fitted) <= 100 - 20 - GAP for fitted, _ in folds(unknown))


def test_too_few_images_cannot_be_checked():
    assert cross_validate(images(count=10, per_drive=10), PowerLaw.scale(1), LIMITS) is None


def test_what_the_laws_are_worth():
    score = cross_validate(images(lambda d: 4.2 * d**1.3), PowerLaw.scale(2.1), LIMITS)
    assert score.folds == 5
    assert score.mean("after") == pytest.approx(0, abs=1e-4)
    assert 0.05 < score.mean("scale") < score.mean("before")
    gain, error = score.gain("scale", "after")
    assert gain == pytest.approx(score.mean("scale"), abs=1e-4)
    assert 0 < error < gain / 10
    useless = cross_validate(images(noise=0.3), PowerLaw.scale(5), LIMITS)
    gain, error = useless.gain("scale", "after")
    assert gain < 2 * error


def test_abs_rel_is_that_of_clipped_metres():
    assert sample(0, [1.0, 100.0], [5.0, 40.0]).abs_rel(PowerLaw.scale(5), LIMITS) == pytest.approx((0 + 1) / 2)


def test_a_large_image_keeps_evenly_spaced_pixels():
    depth = np.arange(1, 3 * MOST_PIXELS + 1, dtype=np.float32)
    kept = Sample.of(0, "a", depth, depth)
    assert (len(kept.depth), kept.depth[0], kept.depth[-1]) == (MOST_PIXELS, 1, 3 * MOST_PIXELS)


def test_a_calibration_survives_as_plain_data():
    about = {"type": "kitti", "mode": "val", "split": "eigen"}
    made = Calibration(0.9, 1.7, about, 40, 5, 5, {"before": 0.9, "scale": 0.12, "after": 0.1})
    assert Calibration.from_dict(made.to_dict()) == made
    assert made.words == "calibrated on 40 images of kitti eigen (val): 5.474 x depth ^ 0.9"
