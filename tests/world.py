"""Run functions in several processes over gloo, and commands: in this process, in a fork, or as users do.

A new process takes seconds to import torch and what stands on it, more than most tests need for their work. Forks come
from a server of `multiprocessing` that has imported all of it and done nothing else, so each is as good as new.
"""

from __future__ import annotations

import importlib
import io
import logging
import math
import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.state import AcceleratorState

ROOT = Path(__file__).resolve().parents[1]
ACCELERATE = ("-m", "accelerate.commands.accelerate_cli", "launch", "--config_file")
LAUNCHER = (*ACCELERATE, "launch/accelerate/cpu_x2.yaml")  # two processes on a CPU

LAST_WORDS = 2.0  # seconds that the others of a failed process have to say why
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch.utils.tensorboard", "timm", "trainer.commands.jobs.train", "trainer.evaluation"])


def _enter(rank: int, fn: Callable[..., None], world: int, store: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        fn(rank, world, *args)
    finally:
        dist.destroy_process_group()


def run_world(fn: Callable[..., None], world: int, folder: Path, *args: Any) -> None:
    """Call fn(rank, world, *args) in `world` forks that are one gloo group; fails when one of them fails."""
    mp.start_processes(_enter, (fn, world, str(folder / "store"), args), nprocs=world, start_method="forkserver")


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command: one thread, the project importable."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **changes}


def command(*args: str | Path, timeout: float = 300, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `python args...` and return its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
    )
    done.stderr = in_time(done.stderr)
    return done


def in_time(text: str) -> str:
    """What a command prints on a machine that is fast enough: without the parts of a slow start."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.endswith(" ...\n"))


def enter_script(args: tuple[str, ...], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """Become `python args...`, as far as a fork can."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, flags), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    torch.set_num_threads(1)
    multiprocessing.current_process()._config["daemon"] = False  # DataLoader's workers are its children
    multiprocessing.process._parent_process = None  # nobody to wait for
    if args[0] == "-c":
        sys.argv = ["-c", *args[2:]]
        exec(compile(args[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(args)
        runpy.run_path(args[0], run_name="__main__")


def fork(
    *args: str | Path, processes: int = 1, timeout: float = 120, cwd: Path = ROOT, **env: str
) -> subprocess.CompletedProcess[str]:
    """What `command(*args)` does, in a fork; or in several as `accelerate launch` would start them."""
    with TemporaryDirectory() as folder:
        files = [(f"{folder}/{rank}.out", f"{folder}/{rank}.err") for rank in range(processes)]
        started = [
            FORKS.Process(
                target=enter_script, args=(tuple(map(str, args)), str(cwd), {**environment(**env), **ranks}, *paths)
            )
            for ranks, paths in zip(_launched(processes), files, strict=True)
        ]
        for process in started:
            process.start()
        _until_all_have_ended(started, timeout)
        codes = [process.exitcode for process in started]
        texts = ["".join(Path(path).read_text() for path in paths) for paths in zip(*files, strict=True)]
    code = codes[0] if processes == 1 else int(any(codes))
    return subprocess.CompletedProcess([*args], code, texts[0], in_time(texts[1]))


def _launched(processes: int) -> list[dict[str, str]]:
    """What a launcher adds to the environment of each of its processes."""
    if processes == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true"}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _until_all_have_ended(started: Sequence[BaseProcess], timeout: float) -> None:
    """Return then; like a launcher, end the others when one fails, a moment later."""
    deadline, failed = time.monotonic() + timeout, math.inf
    while any(process.exitcode is None for process in started):
        now = time.monotonic()
        if any(process.exitcode for process in started):
            failed = min(failed, now)
        for process in started:
            if now > failed + LAST_WORDS:
                process.terminate()
            if now > deadline:
                process.kill()
        if now > deadline:
            raise TimeoutError(f"forks ran longer than {timeout:g} s")
        time.sleep(0.005)


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
    return subprocess.CompletedProcess([script, *args], code, out.getvalue(), in_time(err.getvalue()))


def refused(done: subprocess.CompletedProcess[str], *told: str) -> None:
    """Assert that a command refused its input with exit code 2 and a message that holds all of `told`."""
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert done.stderr.startswith("error")
    assert "Traceback" not in done.stderr
    for text in told:
        assert text in done.stderr


def train_args(out: Path, *overrides: str, name: str = "run", version: str = "1", seed: int = 42) -> Sequence[str]:
    """Arguments of a training run small enough for a test: 8 items of 64x64, small encoders, 2 epochs of 4 steps."""
    return [
        "launch/train.py",
        *("-c", "cfg/synthetic/monodepth2_MS.yaml", "-d", "cfg/synthetic/default.yaml"),
        *("-o", str(out), "-n", name, "-v", version, "-s", str(seed), "--progress", "plain", "--set"),
        *SMALL,
        *overrides,
    ]


SMALL = (
    "dataset={size: [64, 64], items_per_scene: 2, train: {num_items: 8}, val: {num_items: 4}}",
    "net={depth: {enc_name: test_resnet, out_scales: [0, 1]}, pose: {enc_name: test_resnet}}",
    "loader={batch_size: 2, train: {num_workers: 0}, val: {num_workers: 0}}",
    "trainer={max_epochs: 2, log_every_n_steps: 2, log_images: false}",
)


def copied_run(out: Path, to: Path) -> Path:
    """Copy runs below `out` to a folder where they may be continued. Checkpoints, only ever replaced, are linked."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".safetensors") else shutil.copy)(source, target)

    return Path(shutil.copytree(out, to, copy_function=copy))
