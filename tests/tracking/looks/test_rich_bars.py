"""Live bars show speed, time and numbers, leave prints above them, and give the terminal back."""

from __future__ import annotations

import re
import sys

from tests.tracking.displays import Clock, Terminal, make, train


def test_rich_draws_bars_speed_time_and_words(terminal: Terminal) -> None:
    train("rich", terminal.stream)
    raw = terminal.text()
    assert "\x1b[?25h" in raw[raw.rindex("\x1b[?25l") :], "the cursor comes back"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)
    assert re.search(r"run +━+ epoch 2/2 ", text)
    assert re.search(r"epoch +━+ 4/4 .*it/s .*loss 0\.1235  data 3 %", text)
    assert text.count("epoch 1/2  done in 0:34  AbsRel 11.5") == 1
    assert text.count("[1/2] a note") == 1
    assert re.search(r"best AbsRel +│ 11\.5 % \(epoch 1\)", text)


def test_rich_puts_prints_above_the_bars_and_gives_stdout_back(terminal: Terminal) -> None:
    stdout = sys.stdout
    with make("rich", terminal.stream, Clock()) as progress:
        progress.epoch(0)
        assert sys.stdout is not stdout
        print("from a library")
    assert sys.stdout is stdout
    assert "from a library" in terminal.text()
