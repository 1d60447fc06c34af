"""One bar within 80 columns, without threads, beside a debugger that takes commands."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from pathlib import Path

import pytest

from tests.tracking.displays import Clock, Terminal, make
from tests.world import ROOT


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
