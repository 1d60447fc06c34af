"""The five training metrics, by hand, on images of two to four pixels."""

import math

import pytest
import torch

from trainer.metrics.validation import (
    VALIDATION_METRICS,
    constant_error,
    higher_is_better,
    relative_error,
    validation_metrics,
)

MIN, MAX = 0.1, 100.0


def score(pred, truth, min_depth=MIN, max_depth=MAX):
    """Metrics of one image given as a list of pixels, by name, and whether it is valid."""
    depth, target = (torch.tensor(x, dtype=torch.float32).view(1, 1, 1, -1) for x in (pred, truth))
    values, valid = validation_metrics(depth, target, min_depth, max_depth)
    assert values.shape == (1, 5)
    assert valid.shape == (1,)
    return dict(zip(VALIDATION_METRICS, values[0].tolist(), strict=True)), bool(valid[0])


def test_by_hand():
    # medians (lower middle of 2, 4): 2 and 2, so the ratio is 1; errors 0 and 4 of truths 2 and 4
    metrics, valid = score(pred=[2.0, 8.0], truth=[2.0, 4.0])
    assert valid
    assert metrics["MAE"] == pytest.approx(2.0)
    assert metrics["RMSE"] == pytest.approx(math.sqrt(8))
    assert metrics["AbsRel"] == pytest.approx(0.5)
    assert metrics["Acc"] == pytest.approx(0.5)
    # log errors 0 and ln 2: standard deviation is half their distance
    assert metrics["LogSI"] == pytest.approx(math.log(2) / 2, rel=1e-5)


def test_scale_is_free():
    metrics, _ = score(pred=[6.0, 9.0, 15.0], truth=[2.0, 3.0, 5.0])
    assert metrics == pytest.approx({"MAE": 0, "RMSE": 0, "LogSI": 0, "AbsRel": 0, "Acc": 1}, abs=1e-4)


def test_median_of_an_even_count_is_the_lower_middle():
    # lower middles 2 and 1: ratio 2. The average of the middles would give 3 / 3 = 1.
    metrics, _ = score(pred=[1.0, 5.0], truth=[2.0, 4.0])
    assert metrics["AbsRel"] == pytest.approx((0 + 6 / 4) / 2)


def test_accuracy_counts_pixels_and_is_strict():
    # ratios 1, 1, exactly 1.25, 1.2: three of four; dividing by the sum of the ratios would give 0.67
    metrics, _ = score(pred=[4.0, 4.0, 5.0, 4.8], truth=[4.0, 4.0, 4.0, 4.0])
    assert metrics["Acc"] == pytest.approx(0.75)


def test_pixels_without_truth_do_not_count():
    with_gap, _ = score(pred=[2.0, 77.0, 8.0], truth=[2.0, 0.0, 4.0])
    without, _ = score(pred=[2.0, 8.0], truth=[2.0, 4.0])
    assert with_gap == pytest.approx(without)


def test_without_limits_any_scale_counts_and_a_disparity_of_0_is_80_metres_away():
    for scale in (1e-5, 1.0, 1e5):
        metrics, valid = score([2 * scale, 3 * scale, 8e6], [4.0, 6.0, 40.0], min_depth=0.0, max_depth=math.inf)
        assert valid
        assert metrics["MAE"] == pytest.approx(40 / 3, rel=1e-4)
    near, far = torch.tensor([[[[1.0, 3.0]]]]), torch.full((1, 1, 1, 4), 1.0)
    error = relative_error(near, far, 0.0, math.inf)  # halfway between 1 and 3 as inverse depth
    assert error[0, 3].item() == pytest.approx(3 * (0.75 + 0.25 / 3) - 1)  # 1.2 is the lower middle one


def test_both_depths_are_clamped():
    # truth 200 counts as 100; prediction 50 scaled by 200 / 50 counts as 100 too. The other pixel is right by itself.
    metrics, _ = score(pred=[50.0, 75.0, 50.0], truth=[200.0, 50.0, 200.0])
    assert metrics["MAE"] == pytest.approx(50 / 3)
    assert metrics["Acc"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("nothing", [math.inf, math.nan, 3e38, 1e-30, -5.0])
def test_what_is_no_measurement_is_no_truth(nothing):
    assert score(pred=[2.0, 8.0], truth=[nothing, nothing]) == (dict.fromkeys(VALIDATION_METRICS, 0.0), False)
    with_gaps, valid = score(pred=[2.0, 77.0, 8.0, 5.0], truth=[2.0, nothing, 4.0, nothing])
    assert valid
    assert with_gaps == score(pred=[2.0, 8.0], truth=[2.0, 4.0])[0]


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_a_truth_in_the_wrong_unit_does_not_make_every_prediction_perfect(scale):
    # all of it would be clamped to one number
    assert not score(pred=[2.0, 8.0], truth=[3.0 * scale, 5.0 * scale], min_depth=0.1, max_depth=100)[1]


def test_prediction_is_clamped_before_it_is_scaled():
    # 1000 is first cut to 100, like the other pixel: no error is left
    metrics, _ = score(pred=[100.0, 1000.0], truth=[5.0, 5.0])
    assert metrics["MAE"] == 0


def test_perfect_prediction_has_no_log_error_that_is_nan():
    pred = torch.linspace(0.3, 90, 10_000).tolist()
    metrics, _ = score(pred=[3 * p for p in pred], truth=pred, max_depth=1e4)
    assert metrics["LogSI"] == pytest.approx(0, abs=1e-3)


def test_items_are_scored_one_by_one():
    depth = torch.rand(3, 1, 4, 6) + 1
    target = torch.rand(3, 1, 8, 12) + 1
    target[1] = 0
    values, valid = validation_metrics(depth, target, MIN, MAX)
    assert valid.tolist() == [True, False, True]
    assert values[1].tolist() == [0] * 5
    for i in (0, 2):
        alone, _ = validation_metrics(depth[i : i + 1], target[i : i + 1], MIN, MAX)
        torch.testing.assert_close(values[i], alone[0])


def test_the_error_map_has_abs_rel_as_its_mean_and_no_number_without_truth():
    depth, target = torch.rand(1, 1, 4, 6) + 1, torch.rand(1, 1, 8, 12) + 1
    target[..., :3] = 0
    error = relative_error(depth, target, MIN, MAX)
    assert torch.equal(error.isnan(), target[0, 0] == 0)
    values, _ = validation_metrics(depth, target, MIN, MAX)
    assert error.nanmean().item() == pytest.approx(values[0, VALIDATION_METRICS.index("AbsRel")].item(), rel=1e-6)


def test_the_constant_is_the_median_of_each_truth():
    truths = torch.tensor([[1.0, 2.0, 4.0], [4.0, 2.0, 200.0], [3.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    errors = constant_error(truths.view(4, 1, 1, 3), MIN, MAX)
    # medians 2, 4, 3; errors 1 0 2 of truths 1 2 4; 0 2 96 of 4 2 100, clamped; none; and no truth
    assert errors.tolist() == pytest.approx([(1 + 0.5) / 3, (1 + 0.96) / 3, 0, 0])
    metrics, _ = score(pred=[7.0, 7.0, 7.0], truth=[1.0, 2.0, 4.0])
    assert metrics["AbsRel"] == pytest.approx(0.5)
    assert constant_error(truths[:1].view(1, 1, 1, 3), 0.0, math.inf).item() == pytest.approx(0.5)


def test_empty_batch():
    values, valid = validation_metrics(torch.ones(0, 1, 4, 6), torch.ones(0, 1, 8, 12), MIN, MAX)
    assert values.shape == (0, 5)
    assert valid.shape == (0,)


def test_prediction_is_resized_with_half_pixel_centres():
    # 1 3 -> 1, 1.5, 2.5, 3: the rule of align_corners=False
    metrics, _ = score(pred=[1.0, 3.0], truth=[1.0, 1.5, 2.5, 3.0])
    assert metrics["MAE"] == pytest.approx(0, abs=1e-6)


def test_nan_in_a_prediction_shows():
    metrics, valid = score(pred=[float("nan"), 2.0], truth=[2.0, 2.0])
    assert valid
    assert math.isnan(metrics["AbsRel"])
    assert math.isnan(metrics["RMSE"])
    assert metrics["Acc"] == 0


def test_half_precision_and_gradients_are_welcome():
    depth = torch.full((1, 1, 2, 2), 3.0, dtype=torch.bfloat16, requires_grad=True)
    values, _ = validation_metrics(depth, torch.full((1, 1, 2, 2), 6.0), MIN, MAX)
    assert values.dtype == torch.float32
    assert not values.requires_grad
    assert values[0, 3] == 0


def test_only_accuracies_are_better_when_higher():
    assert [name for name in VALIDATION_METRICS if higher_is_better(name)] == ["Acc"]
    assert not higher_is_better("loss")
