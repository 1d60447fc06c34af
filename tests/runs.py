"""Training runs of tests: start one in a process of its own, wait for a step, look at what it left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.launch.forks import Forked
from tests.world import ROOT, environment, fork, train_args
from trainer.checkpoint.safefile import read_metadata
from trainer.runtime.errors import UserError

NOTED = ("trainer.save_every_n_steps=1", "trainer.log_every_n_steps=1")


def folder(out: Path) -> Path:
    return out / "run" / "1"


def ckpt(out: Path, kind: str) -> Path:
    return folder(out) / "ckpts" / f"{kind}.safetensors"


def state(out: Path) -> dict:
    return json.loads((folder(out) / "state.json").read_text())


def last_step(out: Path) -> int:
    return int(read_metadata(ckpt(out, "last"))["step"])


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """All scalars of a run as TensorBoard would show them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_same_run(ours: Path, theirs: Path) -> None:
    """`best` and `last` of two runs are the same, byte for byte."""
    for kind in ("best", "last"):
        assert ckpt(ours, kind).read_bytes() == ckpt(theirs, kind).read_bytes(), kind


def start(out: Path, *overrides: str, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, *train_args(out, *overrides)],
        cwd=ROOT,
        env=environment(HF_HOME=str(out)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def wait_for_step(process: subprocess.Popen[str] | Forked, out: Path, step: int) -> None:
    """Return when `last` holds at least `step` optimizer steps."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if last_step(out) >= step:
                return
        except UserError:  # not there yet
            pass
        time.sleep(0.005)
    process.kill()
    pytest.fail(f"never reached step {step}: {process.communicate()[0][-2000:]}")


# `train` that is killed after an optimizer step, before anything of it is saved.
KILLED = """
import os, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from trainer.commands.train import main
left = [int(os.environ["STEPS"])]
def count(*_):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
register_optimizer_step_post_hook(count)
sys.exit(main())
"""


def kill_after(steps: int, out: Path, *overrides: str) -> None:
    """Train, saving every step, and be killed in the step after `steps`."""
    args = train_args(out, "trainer.save_every_n_steps=1", *overrides)
    done = fork("-c", KILLED, *args[1:], STEPS=str(steps))
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert last_step(out) in (steps - 1, steps)  # the save beside the training may be under way


def launch_two(out: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return fork(*train_args(out, *overrides), processes=2, HF_HOME=str(out))
