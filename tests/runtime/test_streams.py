"""What cannot be written is dropped, a message is one piece, and long silence is explained."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.world import ROOT, environment
from trainer.runtime import streams
from trainer.runtime.silence import busy_machine
from trainer.runtime.streams import Outliving, say


class Full(io.StringIO):
    """A file on a disk with room for `room` characters."""

    room = 10

    def write(self, text: str) -> int:
        if self.tell() + len(text) > self.room:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_what_a_full_disk_refuses_is_dropped_and_what_fits_is_kept() -> None:
    full = Full()
    stream = Outliving(full)
    for text in ("one\n", "long words\n", "two\n"):
        assert stream.write(text) == len(text)
    assert full.getvalue() == "one\ntwo\n"


PRINTING = """
import sys
from trainer.runtime.streams import outliving, say
with outliving():
    for i in range(20000): print("line", i)
    say("error: said")
sys.exit(3)
"""


@pytest.mark.parametrize("broken", ["pipe", "disk"])
def test_the_exit_code_is_that_of_the_command(broken: str, tmp_path: Path) -> None:
    """Python itself would raise in `print`, or flush at its end and leave with 120."""
    reading, writing = os.pipe()
    os.close(reading)
    target: int = writing if broken == "pipe" else os.open("/dev/full", os.O_WRONLY)
    arguments = [sys.executable, "-c", PRINTING]
    done = subprocess.run(arguments, stdout=target, stderr=target, cwd=ROOT, env=environment(), timeout=60)
    assert done.returncode == 3


def test_the_message_of_a_mistake_is_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that fail together share a terminal: a message and its end must not be two writes."""
    writes: list[str] = []

    class Recorded(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Recorded())
    say("error: one\ntwo")
    assert writes == ["error: one\ntwo\n"]


def test_a_command_that_is_timed_names_other_processes_once_where_they_want_more_than_all_cores(monkeypatch, capsys):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (2.0, 9.0, 9.0))
    assert busy_machine() == ""
    monkeypatch.setattr("os.getloadavg", lambda: (5.5, 0.0, 0.0))
    with streams.breaking_silence():
        streams._announce("reading ...")
        streams.explain_slowness()
    for text in ("loading ...", "taking the first step ...", "loading ..."):
        streams._announce(text)
    assert capsys.readouterr().err.splitlines() == [
        "reading ...",
        "loading; other processes keep this machine busy: load 5.5 on 2 cores ...",
        "taking the first step ...",
    ]
    monkeypatch.delattr("os.getloadavg")  # a system without it
    assert busy_machine() == ""
