"""Early stopping waits for its patience, gives a reason, and keeps its history over a resume; so does a budget."""

from __future__ import annotations

import math

import pytest

from trainer.checkpoint.encoding import from_json, to_json
from trainer.runtime.errors import UserError
from trainer.training.stopping import Budget, EarlyStopping


def seen(values: list[float], monitor: str = "AbsRel", patience: int = 2, min_delta: float = 0.0) -> EarlyStopping:
    stopping = EarlyStopping(monitor, patience, min_delta)
    for epoch, value in enumerate(values):
        stopping.update(value, epoch)
    return stopping


@pytest.mark.parametrize(
    ("monitor", "values", "stop"),
    [
        ("AbsRel", [], False),
        ("AbsRel", [9.0], False),
        ("AbsRel", [9.0, 9.0], False),
        ("AbsRel", [9.0, 9.0, 9.0], True),  # the same is not better
        ("AbsRel", [9.0, 9.5, 8.0, 8.5], False),  # the improvement starts the count anew
        ("AbsRel", [9.0, 9.5, 8.0, 8.5, 8.1], True),
        ("AbsRel", [7.0, 8.0, 9.0], True),
        ("loss", [7.0, 8.0, 9.0], True),
        ("Acc", [7.0, 8.0, 9.0], False),  # an accuracy should rise
        ("Acc", [9.0, 8.0, 8.5], True),
        ("Acc", [9.0, math.inf, math.inf], True),  # no accuracy is infinite
        ("AbsRel", [9.0, math.nan, -math.inf], True),
        ("AbsRel", [math.nan, math.nan], True),  # two epochs without anything
        ("AbsRel", [math.nan, 9.0, 9.0], False),
    ],
)
def test_stops_after_two_epochs_without_improvement(monitor: str, values: list[float], stop: bool) -> None:
    assert seen(values, monitor).stop is stop


def test_small_improvements_count_once_they_add_up() -> None:
    assert seen([9.0, 8.75, 8.5], min_delta=0.5).stop  # 0.5 is not more than 0.5
    stopping = seen([9.0, 8.75, 8.25], min_delta=0.5)
    stopping.update(8.25, 2)  # the same epoch again, after a resume
    assert not stopping.stop


@pytest.mark.parametrize(
    ("values", "min_delta", "reason"),
    [
        ([0.2, 0.123, 0.13, 0.125], 0.001, "has not improved by more than 0.001 for 2 epochs (best 0.123 in epoch 2)"),
        # The best is that of the checkpoint, although it was too little to go on.
        ([0.2, 0.1995, 0.21], 0.001, "has not improved by more than 0.001 for 2 epochs (best 0.1995 in epoch 2)"),
        ([3.0, 4.0], 0.0, "has not improved for 1 epoch (best 3 in epoch 1)"),
        ([math.nan, math.inf], 0.0, "has had no finite value for 2 epochs"),
    ],
)  # fmt: skip
def test_says_why(values: list[float], min_delta: float, reason: str) -> None:
    assert seen(values, min_delta=min_delta).reason == f"AbsRel {reason}"


def test_a_run_that_stopped_stays_stopped_unless_it_may_wait_longer() -> None:
    state = from_json(to_json(seen([9.0, 9.5, 9.5]).state_dict()))
    again, longer = EarlyStopping("AbsRel", 2), EarlyStopping("AbsRel", 4)
    again.load_state_dict(state)
    longer.load_state_dict(state)
    assert again.stop
    assert again.reason == "AbsRel has not improved for 2 epochs (best 9 in epoch 1)"
    assert not longer.stop
    longer.update(9.5, 3)
    assert not longer.stop
    longer.update(9.5, 4)
    assert longer.stop


def test_what_was_seen_of_another_number_is_forgotten() -> None:
    stopping = EarlyStopping("Acc", 2)
    stopping.load_state_dict(seen([9.0, 9.5, 9.5]).state_dict())
    assert not stopping.stop
    assert stopping.state_dict() == EarlyStopping("Acc", 2).state_dict()


@pytest.mark.parametrize(
    ("patience", "min_delta", "name"), [(0, 0.0, "patience"), (1, -1.0, "min_delta"), (1, math.nan, "min_delta")]
)
def test_senseless_numbers_are_refused(patience: int, min_delta: float, name: str) -> None:
    with pytest.raises(UserError, match=name):
        EarlyStopping("AbsRel", patience, min_delta)


def test_a_budget_counts_the_training_of_all_starts() -> None:
    """40 s, then a stop of any length, then 30 s: 70 of 60 s."""
    times = iter([100.0, 140.0, 140.0, 9000.0, 9015.0, 9030.0, 9030.0])
    first = Budget(1.0, clock=lambda: next(times))
    assert first.seconds == 0.0
    first.start()
    assert not first.is_due()
    second = Budget(1.0, clock=lambda: next(times))
    second.load_state_dict(from_json(to_json(first.state_dict())))
    second.start()
    assert second.seconds_left == 5.0
    assert second.is_due()
    assert second.seconds == 70.0
    assert second.reason == "trainer.max_minutes: 1 is used up"


def test_a_budget_that_was_used_up_stays_so_unless_it_is_larger() -> None:
    state = {"seconds": 120.0, "validated_at": 7}
    same, larger, follower = Budget(2.0), Budget(2.5), Budget(2.0, reads_clock=False)
    for budget in (same, larger, follower):
        budget.load_state_dict(state)
    assert (same.is_spent, larger.is_spent, follower.is_spent) == (True, False, True)  # one file, one decision
    assert (same.is_due(), larger.is_due(), follower.is_due()) == (True, False, False)
    assert Budget().seconds_left == math.inf


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.inf, math.nan])
def test_a_budget_is_finite_and_above_zero(minutes: float) -> None:
    with pytest.raises(UserError, match=r"the budget of a training is .* must be finite and above 0"):
        Budget(minutes)
