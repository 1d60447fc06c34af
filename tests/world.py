"""Run functions in several processes over gloo, and commands: in this process, or in their own as users do."""

from __future__ import annotations

import importlib
import io
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.state import AcceleratorState

ROOT = Path(__file__).resolve().parents[1]
ACCELERATE = ("-m", "accelerate.commands.accelerate_cli", "launch", "--config_file")
LAUNCHER = (*ACCELERATE, "launch/accelerate/cpu_x2.yaml")  # two processes on a CPU


def _enter(rank: int, fn: Callable[..., None], world: int, store: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        fn(rank, world, *args)
    finally:
        dist.destroy_process_group()


def run_world(fn: Callable[..., None], world: int, folder: Path, *args: Any, start_method: str = "spawn") -> None:
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


def command(*args: str | Path, timeout: float = 300, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
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


def call(script: str, *args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Do what `command("launch/train.py", ...)` does, in this process: a new one takes seconds to import torch."""
    main = importlib.import_module(f"trainer.commands.{Path(script).stem}").main
    out, err = io.StringIO(), io.StringIO()
    warned = logging.StreamHandler(err)  # what a process of its own would print
    warned.setLevel(logging.WARNING)
    logging.getLogger().addHandler(warned)
    AcceleratorState._reset_state(reset_partial_state=True)  # the precision of an earlier run
    with patch.dict(os.environ, env), redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        try:
            code = main([str(arg) for arg in args])
        except SystemExit as end:
            code = end.code
        finally:
            logging.getLogger().removeHandler(warned)
    return subprocess.CompletedProcess([script, *args], code, out.getvalue(), err.getvalue())


def refused(done: subprocess.CompletedProcess[str], *told: str) -> None:
    """Assert that a command refused its input with exit code 2 and a message that holds all of `told`."""
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert done.stderr.startswith("error")
    assert "Traceback" not in done.stderr
    for text in told:
        assert text in done.stderr


def train_args(out: Path, *overrides: str, name: str = "run", version: str = "1", seed: int = 42) -> Sequence[str]:
    """Arguments of a training run small enough for a test: 16 items of 96x64, small encoders, 2 epochs of 4 steps."""
    return [
        "launch/train.py",
        *("-c", "cfg/synthetic/monodepth2_MS.yaml", "-d", "cfg/synthetic/default.yaml"),
        *("-o", str(out), "-n", name, "-v", version, "-s", str(seed), "--progress", "plain", "--set"),
        *SMALL,
        *overrides,
    ]


SMALL = (
    "dataset={size: [96, 64], items_per_scene: 4, train: {num_items: 16}, val: {num_items: 6}}",
    "net={depth: {enc_name: test_resnet}, pose: {enc_name: test_resnet}}",
    "loader={batch_size: 4, train: {num_workers: 0}, val: {num_workers: 0}}",
    "trainer={max_epochs: 2, log_every_n_steps: 2}",
)


def copied_run(out: Path, to: Path) -> Path:
    """Copy runs below `out` to a folder where they may be continued. Checkpoints, only ever replaced, are linked."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".safetensors") else shutil.copy)(source, target)

    return Path(shutil.copytree(out, to, copy_function=copy))
