"""Two GPUs train what one trains, and end as two processes on a CPU do when one of them dies, hangs or is stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from tests.gpu.conftest import Row
from tests.launch.test_nodes import PATIENCE, PAUSE, STEPS, Stage, family, launch, read
from tests.runs import ckpt, folder, last_step, scalars, state
from tests.world import ACCELERATE, command, train_args
from trainer.checkpoint.safefile import read as read_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch finds fewer than two GPUs"),
    pytest.mark.filterwarnings("default"),
]
TWO = launch("multi_gpu", "--num_processes", "2")
# Adam magnifies what is left of sums that cancel; 64 pixels have few numbers to average in the deepest layers.
SETTINGS = ("optimizer={type: sgd, lr: 0.01, group_lr: null, fused: false}", "loader.batch_size=4")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.kill_everything()


@pytest.mark.parametrize("synchronised", ["true", "false"])
def test_two_gpus_train_what_one_trains(synchronised: str, tmp_path: Path, row: Row) -> None:
    overrides = (*SETTINGS, f"trainer.sync_batchnorm={synchronised}")
    one = command(*train_args(tmp_path / "one", *overrides), CUDA_VISIBLE_DEVICES="0")
    two = command(
        *ACCELERATE,
        "launch/accelerate/multi_gpu.yaml",
        "--num_processes",
        "2",
        *train_args(tmp_path / "two", *overrides),
    )
    assert (one.returncode, two.returncode) == (0, 0), one.stderr[-2000:] + two.stderr[-2000:]
    ours, theirs = (read_checkpoint(ckpt(tmp_path / name, "best"))[0] for name in ("two", "one"))
    floats = [name for name in ours if ours[name].is_floating_point()]
    worst = max(float((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-6)) for name in floats)
    row(f"two GPUs and one, sync_batchnorm {synchronised}", f"tensors of `best` differ by at most {worst:.1e}")
    if synchronised == "true":  # else it is another experiment
        assert worst <= 1e-2


def continues(stage: Stage) -> None:
    """The same command ends the run, with each step once."""
    stage.started.clear()
    assert stage.end(stage.start(TWO)) == 0, stage.log(0)
    assert state(stage.out)["state"] == "finished"
    assert [step for step, _ in scalars(folder(stage.out))["train_losses/loss"]] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("dead", [1, 0])
def test_a_killed_process_ends_the_other_and_the_run_continues(stage: Stage, dead: int) -> None:
    process = stage.start(TWO, paused=str(dead))
    stage.wait_for_pause(dead)
    trainers = family(process)
    os.kill(int(read(stage.marks / str(dead))), signal.SIGKILL)
    assert stage.end(process) == 1
    assert psutil.wait_procs(trainers, timeout=PATIENCE)[1] == []
    assert last_step(stage.out) == PAUSE
    continues(stage)


def test_a_silent_process_is_waited_for_no_longer_than_the_time_out(stage: Stage) -> None:
    process = stage.start(TWO, "1", ["trainer.timeout_minutes=0.5"])
    stage.wait_for_pause(1)
    trainers = family(process)
    os.kill(int(read(stage.marks / "1")), signal.SIGSTOP)
    assert stage.end(process) == 1
    assert psutil.wait_procs(trainers, timeout=PATIENCE)[1] == []
    assert last_step(stage.out) == PAUSE
    continues(stage)


def test_a_request_to_stop_is_answered_after_the_step(stage: Stage) -> None:
    process = stage.start(TWO, "0 1")
    stage.wait_for_pause(0, 1)
    trainers = family(process)
    process.send_signal(signal.SIGTERM)
    assert stage.end(process) == 1  # whatever happened
    assert psutil.wait_procs(trainers, timeout=PATIENCE)[1] == []
    assert (state(stage.out)["state"], last_step(stage.out)) == ("preempted", PAUSE + 1)
    continues(stage)
