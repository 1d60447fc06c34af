"""Processes come and go, killed in mid-epoch, and the run is that of one process: same batches, losses and weights."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.launch.test_nodes import free_port, kill, listens
from tests.runs import ckpt, folder, last_step, scalars, state
from tests.world import ROOT, environment, fork, train_args
from trainer.runtime.errors import UserError

pytestmark = pytest.mark.slow

# Notes the items of every step; ends a process with SIGKILL before a step, where it is told to.
PLUGIN = """
import os, signal, time
from pathlib import Path
from trainer.training.loop import Loop

rank, (at, who) = int(os.environ.get("RANK", "0")), map(int, os.environ.get("KILL", "-1 -1").split())
step = Loop.step

def noting(self, batches):
    number = self.state.position.step
    with open(Path(os.environ["SEEN"]), "a") as file:  # short lines of several processes do not mix
        file.write(f"{number} {rank} {self.accelerator.num_processes} "
                   f"{[int(i) for batch in batches for i in batch['index']]}\\n")
    if self.accelerator.num_processes == int(os.environ.get("SLOW", "0")):
        time.sleep(1)
    if (number, rank) == (at, who):
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, batches)

Loop.step = noting
"""
EXACT = (  # sums come in another order, which SGD does not magnify
    "trainer={frozen_batchnorm: true, save_every_n_steps: 1, log_every_n_steps: 1, log_images: false}",
    "optimizer={type: sgd, lr: 0.05, group_lr: null, fused: false}",
)
Overrides = Sequence[str]


class Trial:
    """A run that is started again and again with the same command, on other numbers of processes."""

    def __init__(self, out: Path, overrides: Overrides):
        out.mkdir()
        self.out, self.seen, self.plugin = out, out / "seen", out / "plugin.py"
        self.plugin.write_text(PLUGIN)
        script, *rest = train_args(out, *EXACT, *overrides)
        self.args = [script, "--plugins", str(self.plugin), *rest]
        self.env = {"SEEN": str(self.seen), "HF_HOME": str(out)}

    def start(self, processes: int, killed: str = "-1 -1") -> None:
        """Train to the end, or until a process (step, rank) is killed."""
        done = fork(*self.args, processes=processes, KILL=killed, **self.env)
        assert (done.returncode == 0) == (killed == "-1 -1"), done.stderr[-3000:]

    def items(self) -> list[list[int]]:
        """The items of every step, of all processes; those of a step that was taken again must be the same."""
        shares: dict[tuple[int, int, int], list[int]] = {}
        for line in self.seen.read_text().splitlines():
            step, rank, world, items = line.split(maxsplit=3)
            place = int(step), int(world), int(rank)
            assert shares.setdefault(place, json.loads(items)) == json.loads(items)
        batches: dict[tuple[int, int], list[int]] = {}
        for (step, world, _), share in sorted(shares.items()):
            batches.setdefault((step, world), []).extend(share)
        steps: dict[int, list[int]] = {}
        for (step, _), batch in batches.items():
            if len(batch) == max(map(len, batches.values())):  # else some were killed before they noted it
                assert steps.setdefault(step, batch) == batch
        return [steps[step] for step in sorted(steps)]

    def worlds(self) -> list[int]:
        """The numbers of processes, as they changed."""
        found = [int(line.split()[2]) for line in self.seen.read_text().splitlines()]
        return [world for number, world in enumerate(found) if number == 0 or found[number - 1] != world]


def assert_same(moved: Trial, one: Trial, steps: int) -> None:
    """All that one process does, in the same order, to rounding."""
    assert state(moved.out)["state"] == "finished"
    assert last_step(moved.out) == last_step(one.out) == steps
    assert moved.items() == one.items()
    ours, theirs = scalars(folder(moved.out)), scalars(folder(one.out))
    for tag in ("train_losses/loss", "lr/depth", "epoch", "val/AbsRel", "val_losses/loss"):
        assert [step for step, _ in ours[tag]] == [step for step, _ in theirs[tag]], tag
        assert [v for _, v in ours[tag]] == pytest.approx([v for _, v in theirs[tag]], rel=1e-4), tag
    assert [step for step, _ in ours["train_losses/loss"]] == [*range(1, steps + 1)]
    weights = load_file(ckpt(one.out, "last"))
    for name, weight in load_file(ckpt(moved.out, "last")).items():
        if name.startswith("networks.") and weight.is_floating_point():
            difference = torch.linalg.vector_norm(weight - weights[name])
            assert difference <= 1e-4 * torch.linalg.vector_norm(weights[name]), name


def straight(out: Path, overrides: Overrides) -> Trial:
    """An undisturbed run of one process, whose batches are computed whole."""
    one = Trial(out, [text for text in overrides if "micro_batch_size" not in text])
    one.start(1)
    return one


def test_two_processes_are_killed_and_one_goes_on(tmp_path: Path) -> None:
    options = (
        "dataset.train.num_items=16",
        "loader.batch_size=4",
        "trainer.micro_batch_size=1",
        "trainer.max_epochs=1",
    )
    moved = Trial(tmp_path / "moved", options)
    moved.start(2, killed="1 1")
    moved.start(1)
    assert moved.worlds() == [2, 1]
    assert_same(moved, straight(tmp_path / "one", options), steps=4)


TWELVE = ("dataset.train.num_items=48", "loader.batch_size=12", "trainer.micro_batch_size=2")


@pytest.mark.long
def test_three_then_two_then_four_processes_are_killed(tmp_path: Path) -> None:
    """Their shares are 4, 6 and 3 items of 12, in 2, 3 and 3 parts."""
    options = (*TWELVE, "trainer.max_epochs=4", "scheduler={type: cos, by: step}")
    moved = Trial(tmp_path / "moved", options)
    moved.start(3, killed="3 2")
    moved.start(2, killed="9 0")
    moved.start(4)
    assert moved.worlds() == [3, 2, 4]
    assert_same(moved, straight(tmp_path / "one", options), steps=16)


class Agents:
    """Launchers of torch, as of several machines, that come and go; what is left is killed."""

    def __init__(self, trial: Trial):
        self.trial, self.port, self.started = trial, free_port(), list[subprocess.Popen[bytes]]()

    def start(self, processes: int) -> subprocess.Popen[bytes]:
        meeting = ["--nnodes=1:3", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self.port}", "--rdzv-id=elastic"]
        quick = "last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=3"
        logs = ["--log-dir", str(self.trial.out / "logs"), "--tee=3"]
        options = [*meeting, f"--rdzv-conf={quick}", f"--nproc-per-node={processes}", "--max-restarts=3", *logs]
        env = {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "SLOW": "2", **self.trial.env}
        env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else torch 2.13 tells those that join nothing
        with open(self.trial.out / f"agent{len(self.started)}", "wb") as log:
            self.started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "torch.distributed.run", *options, *self.trial.args],
                    cwd=ROOT,
                    env=environment(**env),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        return self.started[-1]

    def wait_for(self, world: int, more_steps: int) -> None:
        """Return when so many processes have saved so many steps."""
        deadline, first = time.monotonic() + 180, None
        while first is None or self.step() < first + more_steps:
            assert time.monotonic() < deadline, self.logs()
            worlds = self.trial.worlds() if self.trial.seen.exists() else []
            if first is None and worlds[-1:] == [world]:
                first = self.step()
            time.sleep(0.05)

    def step(self) -> int:
        try:
            return last_step(self.trial.out)
        except UserError:  # none yet
            return 0

    def logs(self) -> str:
        return "\n".join(
            f"=== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.trial.out.glob("agent*")
        )

    def end(self) -> None:
        for agent in self.started:
            if agent.poll() is None:
                kill(agent)
        for process in psutil.process_iter(["cmdline"]):  # whom a killed launcher left
            if str(self.trial.plugin) in (process.info["cmdline"] or ()):
                process.kill()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_launchers_leave_and_join_a_run_that_goes_on(tmp_path: Path) -> None:
    """torchrun --nnodes 1:3: three launchers of one process; one is killed; one of two processes joins."""
    options = (*TWELVE, "trainer.max_epochs=7")
    trial = Trial(tmp_path / "moved", options)
    agents = Agents(trial)
    try:
        first = agents.start(1)
        while not listens(agents.port):
            time.sleep(0.05)
        others = [agents.start(1), agents.start(1)]
        agents.wait_for(3, 3)
        kill(others.pop())
        agents.wait_for(2, 3)
        others.append(agents.start(2))
        assert [agent.wait(240) for agent in (first, *others)] == [0, 0, 0], agents.logs()
    finally:
        agents.end()
    assert trial.worlds()[-3:] == [3, 2, 4]  # the first launcher may have begun alone
    assert_same(trial, straight(tmp_path / "one", options), steps=28)
    said = [path.read_text() for path in (trial.out / "logs").rglob("stdout.log")]
    assert sum("finished" in text for text in said) == 1
