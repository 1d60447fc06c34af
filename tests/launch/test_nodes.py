"""Launchers as they are used: several machines, a machine that dies, and requests to stop that reach a launcher."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from tests.launch.forks import Forked
from tests.runs import NOTED, assert_same_run, folder, last_step, scalars, state
from tests.world import ACCELERATE, ROOT, call, environment, train_args

pytestmark = pytest.mark.slow

PATIENCE = 240  # seconds after which something hangs
STEPS, PAUSE = 8, 3  # of the whole run; before the next one `PAUSED` processes wait

# `train` that waits in the step after PAUSE: until it is asked to stop, or for ever.
PAUSING = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from trainer.commands.train import main
from trainer.objective import Objective
from trainer.runtime.signals import StopSignals
forward, enter, steps, signals = Objective.forward, StopSignals.__enter__, [], []
mark, paused = Path(os.environ["MARKS"], os.environ.get("RANK", "0")), os.environ["PAUSED"].split()
def enter_noted(self):
    signals.append(self)
    return enter(self)
def forward_later(self, batch):
    in_step = self.training and signals  # a dry step comes before
    steps.extend([batch] if in_step else [])
    if in_step and len(steps) == {PAUSE + 1} and mark.name in paused and not mark.exists():
        mark.write_text(str(os.getpid()))
        while all(each.received is None for each in signals):
            time.sleep(0.01)
    return forward(self, batch)
Objective.forward, StopSignals.__enter__ = forward_later, enter_noted
sys.exit(main())
"""


def launch(config: str, *options: str) -> list[str]:
    """`accelerate launch` with one of the files of the project."""
    return [sys.executable, *ACCELERATE, f"launch/accelerate/{config}.yaml", *options]


Process = subprocess.Popen[bytes] | Forked


class Stage:
    """Starts launchers, some of whose trainers pause; what still runs at the end is killed."""

    def __init__(self, folder: Path, forks: bool = False):
        self.folder, self.forks, self.started = folder, forks, list[Process]()
        self.script, self.marks = folder / "pausing.py", folder / "marks"
        self.marks.mkdir(parents=True)
        self.script.write_text(PAUSING)
        self.out = folder / "out"

    def start(self, launcher: list[str], paused: str = "", overrides: Sequence[str] = (), **env: str) -> Process:
        """Start one launcher; the trainers whose ranks `paused` names will wait."""
        train = list(train_args(self.out, *NOTED, *overrides))
        changes = {"HF_HOME": str(self.folder), "PAUSED": paused, "MARKS": str(self.marks), **env}
        args = [*launcher, str(self.script) if paused else train[0], *train[1:]]
        path, env = self.folder / f"log{len(self.started)}", environment(**changes)
        path.write_text("")
        if self.forks:
            self.started.append(Forked(args[1:], env, path))
        else:
            with open(path, "wb") as log:
                streams = {"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL}
                self.started.append(subprocess.Popen(args, cwd=ROOT, env=env, start_new_session=True, **streams))
        return self.started[-1]

    def nodes(self, rendezvous: str, paused: str = "") -> list[Process]:
        """Start two launchers of one process each, as two machines would; the second when the first one listens."""
        port = free_port()
        options = ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
        options += ["--rdzv_backend", rendezvous, "--main_process_port", str(port), "--machine_rank"]
        env = {"GLOO_SOCKET_IFNAME": "lo"}
        first = self.start(launch("multi_node", *options, "0"), paused, **env)
        self.wait(lambda: listens(port))
        return [first, self.start(launch("multi_node", *options, "1"), paused, **env)]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Return when it holds; fail with all logs when a launcher ends before."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline or any(p.poll() is not None for p in self.started):
                pytest.fail("\n".join(self.log(i) for i in range(len(self.started))))
            time.sleep(0.05)

    def wait_for_pause(self, *ranks: int) -> None:
        """Return when these trainers wait and `last`, which is written beside the training, holds step PAUSE."""
        self.wait(lambda: all(len(read(self.marks / str(rank))) > 0 for rank in ranks))
        self.wait(lambda: last_step(self.out) == PAUSE)

    def log(self, number: int) -> str:
        return (self.folder / f"log{number}").read_text(errors="replace")

    def end(self, process: Process) -> int:
        """Wait for a launcher's exit code."""
        return process.wait(PATIENCE)

    def kill_everything(self) -> None:
        for process in self.started:
            if process.poll() is None:
                kill(process)
        for mark in self.marks.iterdir():  # whom a launcher that died may have left
            if psutil.pid_exists(int(mark.read_text())):
                os.kill(int(mark.read_text()), signal.SIGKILL)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run without any launcher."""
    out = tmp_path_factory.mktemp("one")
    done = call(*train_args(out, *NOTED))
    assert done.returncode == 0, done.stderr
    return out


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def family(process: Process) -> list[psutil.Process]:
    """A launcher's trainers and their loaders: they do not share its process group."""
    return psutil.Process(process.pid).children(recursive=True)


def kill(process: Process) -> None:
    """Everything at once, as when a machine loses its power."""
    for victim in [psutil.Process(process.pid), *family(process)]:
        victim.kill()
    process.wait()


@pytest.mark.parametrize(
    ("rendezvous", "rank", "said"),
    [
        pytest.param("static", 1, "failed", marks=pytest.mark.long),
        pytest.param("c10d", 1, "failed", marks=pytest.mark.long),
        pytest.param("static", 0, "running", marks=pytest.mark.long),  # process 0 alone can say more
    ],
)
def test_a_machine_dies_the_other_ends_and_both_continue(
    stage: Stage, two_processes: Path, rendezvous: str, rank: int, said: str
) -> None:
    nodes = stage.nodes(rendezvous, paused=str(rank))
    stage.wait_for_pause(rank)
    owner = int(read(stage.marks / str(rank)))  # with c10d any machine may have become any rank
    (dead,) = [node for node in nodes if owner in [p.pid for p in family(node)]]
    (alive,) = [node for node in nodes if node is not dead]
    assert state(stage.out)["state"] == "running"
    kill(dead)
    assert stage.end(alive) == 1
    told = stage.log(nodes.index(alive))
    assert f"another process died or fell silent after step {PAUSE}" in told
    assert not re.search(r"^\[rank\d\]: Traceback", told, re.MULTILINE)
    assert (state(stage.out)["state"], last_step(stage.out)) == (said, PAUSE)
    stage.started.clear()
    assert [stage.end(node) for node in stage.nodes(rendezvous)] == [0, 0], stage.log(0) + stage.log(1)
    assert state(stage.out)["state"] == "finished"
    assert_same_run(stage.out, two_processes)


PASSED_ON = {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("launcher", "ranks", "signum", "env"),
    [
        (launch("cpu_x2"), (0, 1), signal.SIGUSR1, PASSED_ON),
        (launch("cpu_x2"), (0, 1), signal.SIGHUP, {}),
        (launch("multi_gpu", "--num_processes", "1"), (0,), signal.SIGTERM, {}),
    ],
    ids=["two-usr1", "two-hup", "one-by-the-launcher-of-several"],
)
def test_a_launcher_that_is_asked_to_stop_leaves_after_the_step_and_nobody_behind(
    stage: Stage, request: pytest.FixtureRequest, launcher: list[str], ranks: tuple[int, ...], signum: int, env
) -> None:
    process = stage.start(launcher, " ".join(map(str, ranks)), **env)
    stage.wait_for_pause(*ranks)
    trainers = family(process)
    process.send_signal(signum)
    assert stage.end(process) == 1  # whatever happened
    assert psutil.wait_procs(trainers, timeout=PATIENCE)[1] == []
    assert (state(stage.out)["state"], state(stage.out)["step"]) == ("preempted", PAUSE + 1)
    assert last_step(stage.out) == PAUSE + 1
    assert stage.end(stage.start(launcher)) == 0, stage.log(1)
    assert state(stage.out)["state"] == "finished"
    steps = [step for step, _ in scalars(folder(stage.out))["train_losses/loss"]]
    assert steps == list(range(1, STEPS + 1))
    assert_same_run(stage.out, request.getfixturevalue("two_processes" if len(ranks) == 2 else "one_process"))


@pytest.mark.long
def test_a_launcher_of_one_process_passes_nothing_on_but_the_trainer_can_be_told(
    stage: Stage, one_process: Path
) -> None:
    """It dies and leaves the trainer at work; `state.json` names whom to ask."""
    process = stage.start(launch("cpu"), "0")
    stage.wait_for_pause(0)
    (trainer,) = family(process)
    process.send_signal(signal.SIGTERM)
    assert stage.end(process) == -signal.SIGTERM
    now = state(stage.out)
    assert (now["state"], now["pid"], trainer.is_running()) == ("running", trainer.pid, True)
    os.kill(now["pid"], signal.SIGTERM)
    assert psutil.wait_procs([trainer], timeout=PATIENCE)[1] == []
    assert (state(stage.out)["state"], last_step(stage.out)) == ("preempted", PAUSE + 1)
    assert stage.end(stage.start(launch("cpu"))) == 0, stage.log(1)
    assert_same_run(stage.out, one_process)
