"""The times of a start: every part is booked once, and the parts make up the total."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tests.world import call, command, train_args
from trainer.commands.jobs.profiling import WARM_UP, profiled
from trainer.commands.jobs.timings import BATCH, CONFIGURATION, IMPORTS, STEP, Stopwatch
from trainer.runtime import streams
from trainer.runtime.silence import Silence

HEADING = "time to the first step"
PARTS = (
    *(IMPORTS, CONFIGURATION, "data checked", "networks built", "Accelerator and process group"),
    *("optimizer, networks in place", "restored", "trackers", BATCH, STEP),
)


class Loop:
    """Reads the same groups of batches in each epoch."""

    def __init__(self, *groups: list[int]) -> None:
        self.told: list[str] = []
        self.recorder = SimpleNamespace(progress=SimpleNamespace(message=self.told.append))
        self.read = groups

    def groups(self) -> Iterator[list[int]]:
        return iter(self.read)


def test_parts_count_from_the_birth_of_the_process():
    clock, cpu = iter([100, 100, 107, 108]), iter([2.5, 3, 3.25])
    watch = Stopwatch(age=4.0, clock=lambda: next(clock), cpu_clock=lambda: next(cpu))
    watch.lap("imports")  # at 100 s, 4 s after the birth
    watch.lap("networks")
    watch.lap("imports")  # a part in two pieces is one part
    assert watch.laps == {"imports": (5, 2.75), "networks": (7, 0.5)}
    assert [line.split() for line in watch.table().splitlines()[1:]] == [
        ["imports", "5.00", "2.75"],
        ["networks", "7.00", "0.50"],
        ["total", "12.00", "3.25"],
    ]


def test_the_table_is_shown_once_after_the_first_step():
    loop, watch = Loop([1], [2]), Stopwatch(age=0.0)
    watch.watch_first_step(loop, show=True)
    groups = loop.groups()
    assert next(groups) == [1]
    assert (list(watch.laps), loop.told) == ([BATCH], [])
    assert next(groups) == [2]
    assert (list(watch.laps), loop.told) == ([BATCH, STEP], [watch.table()])
    assert (list(loop.groups()), len(loop.told)) == ([[1], [2]], 1)


def test_a_part_that_takes_long_is_named_once_it_does(monkeypatch, capsys):
    now = [0.0]
    silence = Silence(streams._announce, 3.0, clock=lambda: now[0])
    silence._arm = lambda seconds: None  # the timer, whose part this test plays
    monkeypatch.setattr(streams, "_silence", silence)
    monkeypatch.setattr(streams, "busy_machine", lambda: "")
    with Stopwatch(age=0.0) as watch:
        watch.lap(CONFIGURATION)
        now[0] = 2.0
        watch.lap("data checked")
        now[0] = 3.0
        silence.look()  # silent for 3 s, though no part has lasted so long
        assert capsys.readouterr().err == "building the networks ...\n"
        watch.lap("networks built")
        silence.look()
        assert capsys.readouterr().err == "", "said a moment ago"
        now[0] = 6.0
        silence.look()
        assert capsys.readouterr().err == "meeting the other processes, starting the device ...\n"
        watch.lap("networks built")
    now[0] = 9.0
    silence.look()
    assert capsys.readouterr().err == "", "nothing is said after the end"


def test_an_epoch_without_steps_does_not_count_as_the_first():
    loop, watch = Loop(), Stopwatch(age=0.0)
    watch.watch_first_step(loop, show=True)
    assert (list(loop.groups()), watch.laps, loop.told) == ([], {}, [])


def test_a_process_knows_its_age():
    """It is older than what it slept, and younger than the time that its parent waited for it."""
    code = "import time; from trainer.commands.jobs.timings import process_age; time.sleep(0.3); print(process_age())"
    began = time.perf_counter()
    done = command("-c", code)
    waited = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    tick = 0.01  # in which Linux counts when a process began
    assert 0.3 < float(done.stdout) < waited + tick


class Steps:
    """A loop of steps that do nothing but name their part."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.recorder = SimpleNamespace(part=self.part, progress=SimpleNamespace(message=self.said.append))
        self.accelerator = SimpleNamespace(process_index=0)
        self.state = SimpleNamespace(position=SimpleNamespace(step=0))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        yield

    def step(self, batches: list[int]) -> None:
        with self.recorder.part("Forward"):
            self.state.position.step += 1


@pytest.mark.parametrize(
    ("taken", "last"), [(WARM_UP + 4, WARM_UP + 2), (WARM_UP + 1, WARM_UP + 1), (WARM_UP - 1, None)]
)
def test_a_profile_holds_the_steps_after_the_warm_up(tmp_path, taken, last):
    loop = Steps()
    with profiled(loop, 2, tmp_path):
        for _ in range(taken):
            loop.step([])
    files = sorted((tmp_path / "profile").glob("*")) if last else []
    assert [file.name for file in files] == [f"process_0_step_{last}.pt.trace.json"] * bool(last)
    assert len(loop.said) == 1
    if not last:
        assert loop.said[0].startswith("no profile: the run ended")
        return
    assert str(files[0]) in loop.said[0]
    assert "https://ui.perfetto.dev" in loop.said[0]
    names = [event.get("name") for event in json.loads(files[0].read_text())["traceEvents"]]
    assert names.count("Forward") == last - WARM_UP
    loop.step([])  # as before


def test_without_the_option_nothing_is_traced(tmp_path):
    loop = Steps()
    with profiled(loop, None, tmp_path):
        loop.step([])
    assert (loop.said, list(tmp_path.iterdir())) == ([], [])


def test_a_trace_that_cannot_be_written_ends_nothing(tmp_path):
    loop = Steps()
    (tmp_path / "profile").touch()
    with profiled(loop, 1, tmp_path):
        for _ in range(WARM_UP + 1):
            loop.step([])
    assert loop.said[0].startswith("warning: no profile:")


@pytest.mark.slow
def test_timings_show_each_part_once(tmp_path, trained_run):
    small = ("trainer={max_epochs: 1, limit_train_batches: 1, limit_val_batches: 0}",)
    done = call(*train_args(tmp_path, *small), "--timings", "--profile", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith(HEADING)]
    rows = [line.rsplit(maxsplit=2) for line in lines[start + 1 : start + 2 + len(PARTS)]]
    assert [name.strip() for name, *_ in rows] == [*PARTS, "total"]
    for column in (1, 2):
        *parts, total = (float(row[column]) for row in rows)
        assert sum(parts) == pytest.approx(total, abs=0.01 * len(PARTS))
    assert "no profile: the run ended" in done.stdout
    assert HEADING not in (trained_run / "output.txt").read_text()  # without the flag
