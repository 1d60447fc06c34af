"""A person sees how far the run is: exact lines in a file, bars on a terminal, a prompt in a debugger."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import pytest

from tests.world import ROOT
from trainer.runtime.errors import UserError
from trainer.tracking.progress import BEAT_SECONDS, STEP_SECONDS, Progress, _hms, counting, make_progress


class Clock:
    """A clock that only moves when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal:
    """A pseudo terminal: `stream` is written to, `text()` closes it and says what arrived."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w")
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 4096):
                self._seen += data
        except OSError:  # EIO: the writing end was closed
            pass

    def text(self) -> str:
        self.stream.close()
        self._reader.join()
        return self._seen.decode()

    def close(self) -> None:
        self.text()
        os.close(self._master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    terminal = Terminal()
    yield terminal
    terminal.close()


def make(
    kind: str, stream: TextIO, clock: Clock, epochs: int = 2, steps: int = 4, is_main: bool = True, **more: object
) -> Progress:
    sizes = {"total_epochs": epochs, "steps_per_epoch": steps}
    return make_progress(kind, is_main=is_main, stream=stream, clock=clock, **sizes, **more)  # type: ignore[arg-type]


def train(kind: str, stream: TextIO, is_main: bool = True) -> None:
    """Two epochs of four steps, one second each; info every two steps; three batches of validation."""
    clock = Clock()
    with (progress := make(kind, stream, clock, is_main=is_main)):
        for epoch in range(2):
            progress.epoch(epoch)
            for step in range(1, 5):
                clock.now += 1
                progress.advance({"loss": 0.123456, "data": "3 %"} if step % 2 == 0 else None)
            progress.validation(total=3)
            for _ in range(3):
                clock.now += 10
                progress.advance()
            progress.end_epoch({"AbsRel": 11.5})
        progress.message("[1/2] a note")
    progress.summary({"best AbsRel": "11.5 % (epoch 1)", "files": "models/a/042"}, title="Finished")


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
            told, line = stream.getvalue().splitlines()
            words = r"trainer\.max_minutes ends training in 9:49, (at|on) .*, at this pace in epoch 6 of 10 or earlier"
            assert re.fullmatch(words, told)
            assert line == "epoch 1/10  step 11/100  1 it/s  9:49 left"
    bars = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text()).splitlines()
    run = [bar for bar in bars if bar.startswith("run ")][-1]
    assert "9:49" in run


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


def test_tqdm_shows_bar_and_words_without_threads(terminal: Terminal) -> None:
    before = threading.active_count()
    progress = make("tqdm", terminal.stream, Clock(), epochs=1)
    progress.epoch(0, done=1)
    progress.advance({"loss": 0.5})
    progress.message("a note")
    assert threading.active_count() == before
    progress.end_epoch({"AbsRel": 11.5})
    progress.close()
    text = terminal.text()
    assert re.search(r"epoch 1/1 2/4 \|.*left .*loss 0\.5", text)
    assert "a note\r\n" in text
    assert text.rstrip().endswith("epoch 1/1  done in 0:00  AbsRel 11.5")


def test_the_bar_of_train_dev_fits_80_columns(terminal: Terminal) -> None:
    fcntl.ioctl(terminal.stream, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    progress = make("tqdm", terminal.stream, Clock(), epochs=5, steps=10)
    progress.epoch(4, done=9)
    progress.advance({"train loss": 0.123456, "grad": 123.456, "waiting for data": "12%"})
    progress._bar.start_t -= 2  # seconds that the step took
    progress._bar.refresh()
    progress.close()
    drawn = [line.rstrip() for line in re.split(r"[\r\n]+", terminal.text()) if "loss" in line]
    assert drawn
    assert all(len(line) <= 80 and line.endswith(", train loss 0.1235 grad 123.5 data 12%") for line in drawn)


@pytest.mark.parametrize(("seconds", "pace"), [(0.5, "2 it/s"), (1.0, "1 it/s"), (4.0, "4 s/it")])
def test_slow_steps_are_seconds_and_fast_ones_a_rate(seconds: float, pace: str) -> None:
    clock, stream = Clock(), io.StringIO()
    progress = make("plain", stream, clock, epochs=1, steps=3)
    progress.epoch(0)
    for info in (None, {}):
        clock.now += seconds
        progress.advance(info)
    assert stream.getvalue() == f"epoch 1/1  step 2/3  {pace}  0:0{seconds:.0f} left\n"


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
    assert text.startswith(f"at this pace training ends in {_hms(left)}, ")


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


DEBUGGED = """
from trainer.tracking.progress import make_progress
with make_progress("tqdm", is_main=True, total_epochs=1, steps_per_epoch=3) as progress:
    progress.epoch(0)
    for step in range(3):
        progress.advance({"loss": 0.5})
        if step == 1:
            breakpoint()
            progress.message("after the prompt")
"""


@pytest.mark.slow
def test_a_breakpoint_under_tqdm_takes_commands(tmp_path: Path) -> None:
    """A debugger on a terminal answers, sees the loop's variables, and `c` lets the loop end."""
    (tmp_path / "debugged.py").write_text(DEBUGGED)
    pid, master = pty.fork()
    if pid == 0:
        os.environ.update(PYTHONPATH=str(ROOT), TERM="xterm", PYTHONBREAKPOINT="pdb.set_trace")
        os.execv(sys.executable, [sys.executable, str(tmp_path / "debugged.py")])
    seen = b""
    try:
        while b"(Pdb)" not in seen:
            seen += os.read(master, 4096)
        os.write(master, b"p 'step', step * 21\nc\n")
        while data := os.read(master, 4096):
            seen += data
    except OSError:  # EIO: the program ended
        pass
    _, status = os.waitpid(pid, 0)
    os.close(master)
    assert os.waitstatus_to_exitcode(status) == 0, seen.decode()
    assert b"('step', 21)" in seen
    assert b"after the prompt" in seen
    assert b"2/3" in seen, "the bar is drawn again below the message"


def test_an_unknown_kind_names_the_choices() -> None:
    with pytest.raises(UserError, match=r"'ritch' is not a kind\. Did you mean 'rich'\?.*plain.*tqdm"):
        make("ritch", io.StringIO(), Clock())
