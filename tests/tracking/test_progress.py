"""A person sees how far a run or a job is: bars on a terminal, exact lines elsewhere, nothing of other processes."""

from __future__ import annotations

import io
import re

import pytest

from tests.tracking.displays import Clock, Terminal, make, train
from trainer.runtime.errors import UserError
from trainer.tracking.progress import counting


@pytest.mark.parametrize("kind", ["plain", "auto", "rich", "tqdm"])
def test_without_a_terminal_every_kind_prints_exact_lines(kind: str) -> None:
    stream = io.StringIO()
    train(kind, stream)
    assert stream.getvalue().splitlines() == [
        "epoch 1/2  step 2/4  loss 0.1235  data 3 %  1 it/s  0:06 left",
        "epoch 1/2  validating on 3 batches",
        "epoch 1/2  done in 0:34  AbsRel 11.5",
        "epoch 2/2  step 1/4  loss 0.1235  data 3 %  1 it/s  0:03 left",
        "epoch 2/2  validating on 3 batches",
        "epoch 2/2  done in 0:34  AbsRel 11.5",
        "[1/2] a note",
        "Finished",
        "best AbsRel  11.5 % (epoch 1)",
        "files        models/a/042",
    ]
    assert not {"\r", "\x1b"} & set(stream.getvalue())


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    train("auto", terminal.stream)
    assert "\x1b" not in terminal.text()


def test_other_ranks_are_silent(terminal: Terminal, capfd: pytest.CaptureFixture[str]) -> None:
    for kind in ("auto", "rich", "tqdm", "plain"):
        train(kind, terminal.stream, is_main=False)
    with counting("depth", 3, is_main=False, stream=terminal.stream) as count:
        count()
    assert terminal.text() == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("total", "of"), [(5, " of 5"), (None, "")])
def test_a_job_without_a_terminal_prints_a_line_a_minute(total: int | None, of: str) -> None:
    clock, stream = Clock(), io.StringIO()
    with counting("depth", total, done=1, unit="frame", stream=stream, clock=clock) as count:
        for _ in range(2):
            clock.now += 59
            count(2)  # two processes: the last item is counted once
        clock.now += 60
        count(0 if total is None else 2)
    assert stream.getvalue() == f"depth: 5{of} frames\n" * 2


def test_a_job_on_a_terminal_draws_a_bar_and_removes_it(terminal: Terminal) -> None:
    with counting("depth", 4, done=1, stream=terminal.stream) as count:
        count(3)
    text = terminal.text()
    assert re.search(r"depth:  25%\|.*1/4", text)
    assert text.endswith("\r")


def test_an_unknown_kind_names_the_choices() -> None:
    with pytest.raises(UserError, match=r"'ritch' is not a kind\. Did you mean 'rich'\?.*plain.*tqdm"):
        make("ritch", io.StringIO(), Clock())
