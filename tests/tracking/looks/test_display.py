"""What every look knows: when training ends, at its pace and within its budget."""

from __future__ import annotations

import io
import re

import pytest

from tests.tracking.displays import Clock, Terminal, make
from trainer.tracking.looks.display import hms


def test_time_left_knows_the_budget(terminal: Terminal) -> None:
    """A second a step: after 11 steps 589 s are left for 989 steps, so it ends in step 600, the last of epoch 6."""
    clock = Clock()
    for stream, kind in ((io.StringIO(), "plain"), (terminal.stream, "rich")):
        clock.now = 0.0
        with make(kind, stream, clock, epochs=10, steps=100, budget=lambda: 600 - clock.now) as progress:
            progress.epoch(0)
            for step in range(1, 12):
                clock.now += 1
                progress.advance({} if step == 11 else None)
        if kind == "plain":
            first, told, line = stream.getvalue().splitlines()
            words = r"trainer\.max_minutes ends training in 9:49, (at|on) .*, at this pace in epoch 6 of 10 or earlier"
            assert re.fullmatch(words, told)
            assert first == "epoch 1/10  step 10/100  1 it/s  9:50 left"
            assert line == "epoch 1/10  step 11/100  1 it/s  9:49 left"
    bars = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text()).splitlines()
    run = [bar for bar in bars if bar.startswith("run ")][-1]
    assert "9:49" in run


@pytest.mark.parametrize(
    ("kind", "seconds", "at"), [("plain", 1, 11), ("tqdm", 1, 11), ("rich", 1, 11), ("plain", 40, 3)]
)
def test_the_end_is_estimated_once_after_the_first_steps(
    terminal: Terminal, kind: str, seconds: float, at: int
) -> None:
    """The very first step, which warms up, does not count."""
    clock, noted = Clock(), []
    progress = make(kind, terminal.stream, clock, epochs=2, steps=100)
    progress.message = lambda text: noted.append((progress._step, text))
    progress.epoch(0)
    clock.now += 50
    for _ in range(30):
        progress.advance()
        clock.now += seconds
    progress.close()
    ((step, text),) = (note for note in noted if note[1].startswith("at this pace"))
    assert step == at
    left = (200 - at) * seconds
    assert text.startswith(f"at this pace training ends in {hms(left)}, ")
