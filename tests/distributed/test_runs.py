"""Whole runs on two processes: they end with what one process ends with, agree to the last bit, and one of them writes.

The runs are built and trained as `train` does it, several in one group of processes, for a group takes long to start.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.world import ROOT, SMALL, run_world
from trainer.checkpoint.encoding import to_json
from trainer.config import load_config
from trainer.runtime.rundir import RunDir
from trainer.training.loop import Loop
from trainer.training.run import build_run

pytestmark = pytest.mark.long

# 7 items in batches of 4: on two processes 2 + 2 and 2 + 1. 5 items: the second process has none of the last batch.
QUIET = ("dataset={train: {num_items: 16}, val: {num_items: 7}}", "loader.batch_size=4", "trainer.trackers=[]")
SGD = "optimizer={type: sgd, lr: 0.01, group_lr: null, fused: false}"  # Adam magnifies what is left of sums that cancel
EXACT = (SGD, "trainer.frozen_batchnorm=true")
LEFT_OUT = "moving average, a step left out"
EACH_ITS_OWN = "batch norm of each process, mean of epochs"
CASES: dict[str, tuple[str, ...]] = {
    "moving average, accumulation, clipping": (
        *EXACT,
        "trainer={ema: {decay: 0.5}, accumulate_grad_batches: 2, gradient_clip_val: 0.5}",
    ),
    "mean of epochs, accumulation with a tail": (
        *EXACT,
        "trainer={swa: {start: 0, lr: 0.005, anneal_epochs: 1}, accumulate_grad_batches: 3}",
        "dataset.val.num_items=5",
    ),
    "no improvement is large enough": (*EXACT, "trainer={early_stopping: {patience: 1, min_delta: 99}, max_epochs: 4}"),
    LEFT_OUT: (*EXACT, "trainer={nonfinite: skip, ema: {decay: 0.5}}"),
    "batch norm, moving average": (SGD, "trainer.ema.decay=0.9"),
    "batch norm, mean of epochs": (SGD, "trainer.swa={start: 0}"),
    EACH_ITS_OWN: (SGD, "trainer.swa={start: 0}", "trainer.sync_batchnorm=false"),
}


def build(out: Path, rank: int, *overrides: str) -> tuple[Loop, RunDir]:
    """Build a run as `train` does."""
    pages = ROOT / "cfg/synthetic/monodepth2_MS.yaml", ROOT / "cfg/synthetic/default.yaml"
    cfg = load_config(*pages, overrides=[*SMALL, *QUIET, *overrides])
    run = RunDir(out, "run", "1", is_main=rank == 0)
    job = build_run(cfg, run, seed=42, hparams={"config": cfg.to_dict()}, progress="plain")
    return job.loop, run


def join(rank: int, world: int) -> None:
    """Say what a launcher says."""
    os.environ |= {"ACCELERATE_USE_CPU": "true", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}


def break_loss(loss: nn.Module, call: int, is_culprit: bool) -> None:
    """Make a loss infinite in one of its calls, on one process."""
    forward, calls = loss.forward, []

    def broken(scene: Any) -> Any:
        value, pictures = forward(scene)
        calls.append(scene)
        return (value * torch.inf if is_culprit and len(calls) == call else value), pictures

    loss.forward = broken  # type: ignore[method-assign]


def digest(loop: Loop) -> dict[str, str]:
    """Checksums of all that the run would continue from, by part."""
    parts = loop.parts.stateful() | {"weights": loop.objective, "optimizer": loop.parts.optimizer}
    state = loop.state
    texts = {"state": repr((state.position, state.best, state.best_epoch, state.metrics))}
    for name, part in parts.items():
        tensors: dict[str, Tensor] = {}
        text = to_json(part.state_dict(), tensors, name)
        known = [text.encode(), *(tensor.contiguous().numpy().tobytes() for tensor in tensors.values())]
        texts[name] = hashlib.sha256(b"".join(known)).hexdigest()
    return texts


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _train(rank: int, world: int, folder: Path) -> None:
    """Train all cases; save what each was before and after, and fail where the processes do not agree."""
    join(rank, world)
    for name, overrides in CASES.items():
        loop, run = build(folder / name, rank, *overrides)
        if name == LEFT_OUT:
            break_loss(loop.objective.losses["disp_smooth"], 3, rank == world - 1)
        with closing(run):
            before = loop.validate()
            loop.fit()
        told: list[Any] = [None] * world
        dist.all_gather_object(told, digest(loop))
        if name == EACH_ITS_OWN:  # whose running statistics are its own; the mean's are common
            told = [{key: value for key, value in one.items() if key != "weights"} for one in told]
        assert all(one == told[0] for one in told), f"{name}: {told}"
        outcome = {
            "before": {**before.metrics, **before.losses},
            "after": dict(loop.state.metrics),
            "best": (loop.state.best_epoch, loop.state.best),
            "position": (loop.state.position.epoch, loop.state.position.step, loop.guard.skipped),
            "weights": weights(loop.objective),
            "validated": weights(loop.validated),
        }
        if rank == 0:
            torch.save(outcome, folder / f"{name}.pt")
        dist.barrier()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], dict[str, Any]]:
    """What the runs of one process and of two came to: `outcomes(processes, case)`."""
    folders = {world: tmp_path_factory.mktemp(f"of_{world}") for world in (1, 2)}
    for world, folder in folders.items():
        run_world(_train, world, folder, folder)
    return lambda world, name: torch.load(folders[world] / f"{name}.pt", weights_only=True)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_validate_and_decide_as_one(name: str, outcomes: Any) -> None:
    one, two = outcomes(1, name), outcomes(2, name)
    assert two["before"] == pytest.approx(one["before"], rel=1e-6)
    assert two["position"] == one["position"]
    if name != EACH_ITS_OWN:  # which is another experiment
        assert two["best"] == pytest.approx(one["best"], rel=1e-5)
        assert two["after"] == pytest.approx(one["after"], rel=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if name != EACH_ITS_OWN])
def test_two_processes_end_with_the_weights_of_one(name: str, outcomes: Any) -> None:
    one, two = outcomes(1, name), outcomes(2, name)
    for kind in ("weights", "validated"):
        assert two[kind].keys() == one[kind].keys()
        for key, value in one[kind].items():
            torch.testing.assert_close(two[kind][key], value, rtol=1e-3, atol=1e-5, msg=f"{kind}: {key}")
