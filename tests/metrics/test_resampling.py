"""How sure a mean is: intervals that cover as often as they say, signs that are flipped as scipy flips them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from trainer.metrics.resampling import LEAST, bootstrap, intervals, scene_numbers, sign_flips


def test_intervals_of_images_cover_the_true_mean() -> None:
    """The true mean of 200 made sets of 60 skewed errors (log-normal, as AbsRel is) lies in 90 to 98 % of intervals."""
    rng = np.random.default_rng(1)
    sets = rng.lognormal(mean=0.0, sigma=0.5, size=(60, 200))
    ends = bootstrap(sets)  # a column is a set; the columns share the draws of rows, which are independent of them
    covered = ((ends[:, 0] <= np.exp(0.125)) & (np.exp(0.125) <= ends[:, 1])).mean()
    assert 0.90 <= covered <= 0.98


@pytest.mark.parametrize(("over_scenes", "least", "most"), [(True, 0.90, 0.98), (False, 0.0, 0.70)])
def test_only_intervals_over_scenes_cover_where_frames_are_alike(over_scenes: bool, least: float, most: float) -> None:
    """12 scenes of 20 frames, most of the spread between scenes: an interval over frames alone is far too narrow."""
    rng = np.random.default_rng(2)
    sets = np.repeat(rng.normal(10, 1, (12, 200)), 20, axis=0) + rng.normal(0, 0.5, (240, 200))
    ends = bootstrap(sets, np.repeat(np.arange(12), 20) if over_scenes else None)
    assert least <= ((ends[:, 0] <= 10) & (ends[:, 1] >= 10)).mean() <= most


def test_the_width_is_that_of_the_t_interval() -> None:
    """For many normal numbers: mean +- 1.96 s / sqrt(n); for 8 that of Student's t, wider by sqrt(n / (n - 1))."""
    values = np.random.default_rng(3).normal(5, 2, (1000, 1))
    low, high = bootstrap(values)[0]
    assert high - low == pytest.approx(2 * 1.96 * values.std(ddof=1) / np.sqrt(1000), rel=0.06)
    few = np.random.default_rng(4).normal(5, 2, (8, 200))
    ends = bootstrap(few)
    widths = (ends[:, 1] - ends[:, 0]) / (few.std(axis=0, ddof=1) / np.sqrt(8))
    assert np.median(widths) == pytest.approx(2 * 2.365, rel=0.08)


def test_groups_of_one_are_rows_and_sizes_weigh() -> None:
    values = np.random.default_rng(5).normal(size=(30, 2))
    assert bootstrap(values, np.arange(30)).tolist() == bootstrap(values).tolist()
    equal = np.repeat(np.arange(10.0), 3)[:, None]  # the same number within each group
    assert bootstrap(equal, np.repeat(np.arange(10), 3)) == pytest.approx(bootstrap(np.arange(10.0)[:, None]))


def test_constant_absent_and_few() -> None:
    constant = bootstrap(np.full((20, 1), 3.0))
    assert constant.tolist() == [[3.0, 3.0]]
    values = np.full((20, 2), np.nan)
    values[: LEAST - 1, 0] = values[:LEAST, 1] = 7.0
    ends = bootstrap(values)
    assert np.isnan(ends[0]).all()
    assert ends[1].tolist() == [7.0, 7.0]


def test_what_result_files_hold() -> None:
    items = [{"scene": f"drive {i // 4}", "abs_rel": 0.1 + 0.001 * i, "name": str(i)} for i in range(28)]
    items[3]["edge"] = 1.0
    found = intervals(items, ["abs_rel", "edge", "no such"])
    assert list(found) == ["rule", "images", "scenes"]
    assert (found["images"]["count"], found["scenes"]["count"]) == (28, 7)
    assert "edge" not in found["images"]  # one image has it
    (low, high), (low_s, high_s) = found["images"]["abs_rel"], found["scenes"]["abs_rel"]
    assert low_s < low < 0.1135 < high < high_s
    assert intervals(items, ["abs_rel"])["images"]["abs_rel"] == [low, high]  # drawn alike each time
    assert intervals(items[:8], ["abs_rel"])["scenes"] == {"count": 2}  # too few
    assert "scenes" not in intervals([{**item, "scene": str(i)} for i, item in enumerate(items)], ["abs_rel"])
    assert scene_numbers(["a", None, "a"]) is None
    assert scene_numbers(["b", "a", "b"]).tolist() == [0, 1, 0]


def test_697_images_take_no_time() -> None:
    values = np.random.default_rng(6).normal(size=(697, 12))
    bootstrap(values[:10])  # imports
    start = time.process_time()
    bootstrap(values)
    assert time.process_time() - start < 1.0  # measured: 0.09 s; a busy machine takes longer


@pytest.mark.parametrize("seed", range(5))
def test_few_pairs_are_enumerated_as_scipy_does(seed: int) -> None:
    from scipy.stats import permutation_test  # not above: the import takes a second of every worker

    rng = np.random.default_rng(seed)
    a = rng.normal(0, 1, 9)
    b = a + rng.normal(0.3, 0.5, 9)
    exact = permutation_test((a, b), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=np.inf)
    assert sign_flips(b - a) == pytest.approx(exact.pvalue, abs=1e-12)


def test_by_hand() -> None:
    assert sign_flips(np.array([1.0, 1.0, 1.0])) == 2 / 8  # all alike: + + + and - - - of 8
    assert sign_flips(np.array([3.0, -3.0])) == 1.0
    assert sign_flips(np.zeros(4)) == 1.0
    # two scenes: only their sums, 3 and 1, change signs
    assert sign_flips(np.array([1.0, 2.0, 0.5, 0.5]), np.array([0, 0, 1, 1])) == 2 / 4


@pytest.mark.parametrize("shift", [0.02, 0.06, 0.12])
def test_many_pairs_agree_with_the_paired_t_test(shift: float) -> None:
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(7)
    a = rng.normal(0, 1, 300)
    b = a + rng.normal(shift, 0.5, 300)
    assert sign_flips(b - a) == pytest.approx(ttest_rel(b, a).pvalue, abs=0.015)


def test_chance_alone_is_called_a_difference_in_5_percent() -> None:
    """Of 200 made pairs of equal networks about 5 % have p < 0.05."""
    rng = np.random.default_rng(8)
    ps = [sign_flips(rng.normal(0, 1, 12)) for _ in range(200)]
    assert 0.02 <= np.mean(np.array(ps) < 0.05) <= 0.09
