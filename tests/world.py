"""Run a function in several processes over gloo, and command lines as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = (  # two processes on a CPU
    "-m",
    "accelerate.commands.accelerate_cli",
    "launch",
    "--config_file",
    "launch/accelerate/cpu_x2.yaml",
)


def _enter(rank: int, fn: Callable[..., None], world: int, store: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        fn(rank, world, *args)
    finally:
        dist.destroy_process_group()


def run_world(
    fn: Callable[..., None], world: int, folder: Path, *args: Any, start_method: str = "spawn"
) -> None:
    """Call fn(rank, world, *args) in `world` processes of one gloo group; fails when one of them fails.

    "fork" spares the imports of each process, a minute on a busy machine, but allows no backward pass.
    """
    store = str(folder / "store")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads
        mp.start_processes(_enter, (fn, world, store, args), nprocs=world, start_method=start_method)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command: one thread, the project importable."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **changes}


def command(
    *args: str | Path, timeout: float = 300, cwd: Path = ROOT, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `python args...` and return its exit code and what it printed."""
    return subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
    )


def train_args(
    out: Path, *overrides: str, name: str = "run", version: str = "1", seed: int = 42
) -> Sequence[str]:
    """Arguments of a training run small enough for a test: 16 items of 96x64, a small encoder, 2 epochs."""
    return [
        "launch/train.py",
        *("-c", "cfg/synthetic/monodepth2_MS.yaml", "-d", "cfg/synthetic/default.yaml"),
        *("-o", str(out), "-n", name, "-v", version, "-s", str(seed), "--progress", "plain", "--set"),
        *SMALL,
        *overrides,
    ]


SMALL = (
    "dataset.size=[96,64]",
    "dataset.train.num_items=16",
    "dataset.val.num_items=6",
    "dataset.items_per_scene=4",
    "net.depth.enc_name=resnet10t",
    "net.pose.enc_name=resnet10t",
    "loader.batch_size=4",
    "loader.train.num_workers=0",
    "loader.val.num_workers=0",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=2",
)
