"""Nobody reads what a run prints any more: it goes on, or saves and leaves when its terminal was closed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest

from tests.launch.forks import Forked
from tests.runs import NOTED, ckpt, last_step, start, state, wait_for_step
from tests.world import ROOT, environment, train_args
from trainer.runtime.streams import Outliving
from trainer.tracking.progress import make_progress


@pytest.fixture
def closed_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Closing]:
    """A terminal whose other end is gone when the test says so; then writing raises EIO."""
    monkeypatch.setenv("TERM", "xterm-256color")
    master, slave = pty.openpty()
    stream = os.fdopen(slave, "w", buffering=1)
    yield _Closing(stream, master)
    with suppress(OSError):  # what could not be written is flushed once more
        stream.close()


class _Closing(Outliving):
    """Closes the other end when `hang_up` is called; else like the stream that a run prints to."""

    def __init__(self, stream: TextIO, master: int):
        super().__init__(stream)
        self._master = master

    def hang_up(self) -> None:
        os.close(self._master)
        with pytest.raises(OSError, match="Input/output error"):
            self._stream.write("is anybody there?\n")


@pytest.mark.parametrize("kind", ["rich", "tqdm", "plain"])
def test_every_look_outlives_its_terminal(kind: str, closed_terminal: _Closing) -> None:
    with make_progress(kind, is_main=True, total_epochs=2, steps_per_epoch=2, stream=closed_terminal) as bar:
        bar.epoch(0)
        bar.advance({"loss": 0.5})
        closed_terminal.hang_up()
        bar.advance({"loss": 0.5})
        bar.validation(total=1)
        bar.advance()
        bar.end_epoch({"AbsRel": 11.5})
        bar.message("a note")
        bar.epoch(1)
        bar.advance({"loss": 0.5})
    bar.summary({"files": "models/a/042"}, title="Finished")


PRINTING = """
import sys
from trainer.commands.cli import guarded
@guarded
def main():
    for i in range(20000): print("line", i)
sys.exit(main())
"""


def test_a_disk_that_refuses_the_output_of_a_command_is_an_error() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    arguments = [sys.executable, "-c", PRINTING]
    done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, env=environment(), timeout=60)
    told = b"error: the output could not be written: No space left on device. Everything else is done\n"
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&- <&-", "| head -1"])
def test_streams_may_be_closed_from_the_start_or_after_a_line(redirection: str, tmp_path: Path) -> None:
    """Python has None for a stream that was closed; and the next file to be opened gets its number."""
    code = "from trainer.commands.__main__ import main; import os; r = main(['cfg', 'list']);"
    code += f" open({str(tmp_path / 'file')!r}, 'w').write(str(r)); os.write(2, b'')"
    line = f'"{sys.executable}" -c "$0" {redirection}; exit "${{PIPESTATUS[0]:-0}}"'
    done = subprocess.run(["bash", "-c", line, code], capture_output=True, cwd=ROOT, env=environment(), timeout=60)
    assert (done.returncode, done.stderr, (tmp_path / "file").read_text()) == (0, b"", "0")


@pytest.mark.slow
def test_without_a_reader_a_run_goes_on_and_leaves_with_129_when_its_terminal_closes(tmp_path: Path) -> None:
    """As in `train ... | head -1`; then nobody is there to be told of the hangup."""
    os.mkfifo(tmp_path / "pipe")
    process = Forked(train_args(tmp_path, *NOTED, "trainer.max_epochs=50"), environment(), tmp_path / "pipe")
    with open(tmp_path / "pipe") as reader:
        reader.readline()
    while not ckpt(tmp_path, "last").exists() or last_step(tmp_path) < 5:  # past the first validation
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    assert process.wait(120) == 129
    assert (state(tmp_path)["state"], state(tmp_path)["step"]) == ("preempted", last_step(tmp_path))


@pytest.mark.long
def test_a_run_without_a_reader_finishes(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(120) == 0
    assert (state(tmp_path)["state"], state(tmp_path)["step"]) == ("finished", 8)


@pytest.mark.long
def test_under_nohup_a_closed_terminal_is_nothing(tmp_path: Path) -> None:
    nohup = ["nohup", sys.executable, *train_args(tmp_path, "trainer.save_every_n_steps=1")]
    process = subprocess.Popen(
        nohup, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_step(process, tmp_path, 1)
    process.send_signal(signal.SIGHUP)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert state(tmp_path)["state"] == "finished"
