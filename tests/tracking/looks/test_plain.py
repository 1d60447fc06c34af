"""A log has regular lines with the pace of its steps, and says what goes on where none ends."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest

from tests.tracking.displays import Clock, make
from trainer.tracking.looks.plain import BEAT_SECONDS, STEP_SECONDS


def test_steps_of_an_earlier_start_are_not_speed() -> None:
    """Resumed at step 1000 of 2000: 10 steps in 5 s are 2 it/s, and 990 steps are left, 8:15."""
    clock, stream = Clock(), io.StringIO()
    progress = make("plain", stream, clock, epochs=1, steps=2000)
    progress.epoch(0, done=1000)
    clock.now += 5
    for step in range(1, 11):
        progress.advance({} if step == 10 else None)
    assert stream.getvalue() == "epoch 1/1  step 1010/2000  2 it/s  8:15 left\n"


@pytest.mark.parametrize(("seconds", "between"), [(0.5, STEP_SECONDS), (4, 12), (25, 25)])
@pytest.mark.parametrize("logged", [1, 7, 10**9])
def test_lines_of_a_log_are_regular_in_time(seconds: float, between: float, logged: int) -> None:
    """However often numbers come, and however fast steps are."""
    clock, stream, told = Clock(), io.StringIO(), []
    progress = make("plain", stream, clock, epochs=1, steps=10**6)
    progress.message = lambda text: told.append(clock.now) if text.startswith("epoch") else None
    progress.epoch(0)
    for step in range(1, 1 + int(500 / seconds)):
        clock.now += seconds
        progress.advance({"loss": 1.0} if step % logged == 0 else None)
    progress.close()
    assert {b - a for a, b in pairwise(told[2:])} == {between}  # the first numbers come at once


def test_a_log_says_what_goes_on_when_no_step_ends() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = make("plain", stream, clock)
    progress._silence._arm = lambda seconds: None  # type: ignore[attr-defined]  # the timer, played here

    def wait(seconds: float) -> None:
        clock.now += seconds
        progress._silence.look()  # type: ignore[attr-defined]

    progress.epoch(0)
    wait(BEAT_SECONDS - 1)
    assert stream.getvalue() == ""
    wait(1)
    wait(BEAT_SECONDS)
    progress.advance({"loss": 1.0})  # the first step: its pace means nothing
    wait(BEAT_SECONDS)
    progress.validation(total=3)
    progress.advance()
    wait(BEAT_SECONDS)
    progress.end_epoch()
    progress.close()
    wait(BEAT_SECONDS)
    assert stream.getvalue().splitlines() == [
        "epoch 1/2  step 1/4, for 1:00 so far",
        "epoch 1/2  step 1/4, for 2:00 so far",
        "epoch 1/2  step 1/4  loss 1",
        "epoch 1/2  step 2/4, for 1:00 so far",
        "epoch 1/2  validating on 3 batches",
        "epoch 1/2  validation, 1 of 3 batches done",
        "epoch 1/2  done in 4:00",
    ]


@pytest.mark.parametrize(("seconds", "pace"), [(0.5, "2 it/s"), (1.0, "1 it/s"), (4.0, "4 s/it")])
def test_slow_steps_are_seconds_and_fast_ones_a_rate(seconds: float, pace: str) -> None:
    clock, stream = Clock(), io.StringIO()
    progress = make("plain", stream, clock, epochs=1, steps=3)
    progress.epoch(0)
    for info in (None, {}):
        clock.now += seconds
        progress.advance(info)
    assert stream.getvalue() == f"epoch 1/1  step 2/3  {pace}  0:0{seconds:.0f} left\n"
