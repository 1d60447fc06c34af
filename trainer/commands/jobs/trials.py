"""The checks of `monodepth doctor` that need torch: devices, compiler, processes that meet, a step, a checkpoint."""

from __future__ import annotations

import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from trainer.commands.jobs.doctor import GB, Findings, Problem
from trainer.runtime.environment import emulates_bf16
from trainer.runtime.errors import UserError

MEETING_SECONDS = 60.0


def devices() -> Findings:
    """What torch can compute on, and how processes on it can exchange data."""
    import torch

    built = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    yield "torch built for", ", ".join(f"{name} {version}" for name, version in built.items() if version) or "CPU"
    bf16 = "no bf16 (train in 32 bit)" if emulates_bf16("cpu") else "bf16"
    yield "CPU", f"{torch.backends.cpu.get_cpu_capability()}, {bf16}, {torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        known = torch.cuda.get_device_properties(i)
        free, total = torch.cuda.mem_get_info(i)
        size = f"{free / GB:.1f} GB free of {total / GB:.1f}"
        yield f"cuda:{i}", f"{known.name}, compute capability {known.major}.{known.minor}, {size}"
    if torch.cuda.is_available():
        yield "bf16 on CUDA", "yes" if torch.cuda.is_bf16_supported() else "no: use precision 16 or 32"
        yield "cuDNN", str(torch.backends.cudnn.version())
        if torch.distributed.is_nccl_available():
            yield "NCCL", ".".join(map(str, torch.cuda.nccl.version()))
    elif Path("/proc/driver/nvidia/version").exists():
        how = "without CUDA" if not torch.version.cuda else f"for CUDA {torch.version.cuda}, which finds no device"
        fix = "install the build of torch for your driver (pytorch.org/get-started), check CUDA_VISIBLE_DEVICES"
        yield Problem(f"there is an NVIDIA driver, but torch was built {how}", fix)
    for name in ("mps", "xpu"):
        if (backend := getattr(torch, name, None)) is not None and backend.is_available():
            yield name, f"{backend.device_count()} device(s)"
    yield (
        "exchange",
        ", ".join(name for name in ("gloo", "nccl", "mpi") if getattr(torch.distributed, f"is_{name}_available")()),
    )
    yield "training runs on", device_type()


def device_type() -> str:
    """Return the type of the device that a training would take."""
    import torch

    for name in ("cuda", "mps", "xpu"):
        if (backend := getattr(torch, name, None)) is not None and backend.is_available():
            return name
    return "cpu"


def compiler() -> Findings:
    """Whether torch.compile can be used; training does not need it."""
    from trainer.objective.compiling import check_options

    try:
        check_options({}, device_type())
        yield "torch.compile", "can be used"
    except UserError as error:
        yield "torch.compile", f"cannot be used: {str(error).removeprefix('trainer.compile: ')}"


def processes() -> Findings:
    """Let two processes meet as under a launcher and add two numbers; if they do not, try without the network."""
    fault = _meeting()
    if not fault:
        yield "two processes", "meet over gloo and add"
        return
    network = "lo0" if sys.platform == "darwin" else "lo"
    fix = "docs/tasks/cluster.md, section `Without a scheduler`; one process works without it"
    if not _meeting(GLOO_SOCKET_IFNAME=network):
        fix = f"export GLOO_SOCKET_IFNAME={network} on one machine; on several, their network (docs/tasks/cluster.md)"
    yield Problem(f"two processes do not meet over gloo: {fault}", fix)


MEET = """
import os, sys
from datetime import timedelta
sys.path[:] = {path!r}
import torch
try:
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds={seconds}))
    x = torch.tensor([1.0 + int(os.environ["RANK"])])
    torch.distributed.all_reduce(x)
except Exception as error:
    print(" ".join(str(error).split())[:300], file=sys.stderr, flush=True)
    os._exit(1)
os._exit(0 if x.item() == 3.0 else 3)
"""


def _meeting(**changes: str) -> str:
    """Start two processes that meet; return why they did not, "" when they did."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = MEET.format(path=sys.path, seconds=MEETING_SECONDS / 2)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **group, "RANK": str(rank), **changes},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    deadline = time.monotonic() + MEETING_SECONDS
    faults = [_fault(process, max(deadline - time.monotonic(), 0.1)) for process in started]
    return next(filter(None, faults), "")


def _fault(process: subprocess.Popen[str], seconds: float) -> str:
    """Wait for the end of a process; return the last line of its errors."""
    try:
        said = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"no answer within {MEETING_SECONDS:g} s"
    last = (said.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
    return re.sub(r"^\[[^\]]*/[^\]]*\] *", "", last) if process.returncode else ""  # without gloo's source file


def _small_objective() -> Any:
    import torch

    from trainer.commands.jobs.bench_step import make_objective

    torch.manual_seed(0)
    return make_objective(Namespace(encoder="test_resnet", channels_last=False, naive=False, device=device_type()))


def training_step() -> Findings:
    """Train a tiny network for three steps: all of its numbers must stay finite."""
    import torch

    from trainer.commands.jobs.bench_step import make_batch

    torch.set_num_threads(1)  # on a busy machine more of them wait for each other
    objective, batch = _small_objective(), make_batch(2, 64, 64, device_type())
    optimizer = torch.optim.Adam(objective.parameters(), 1e-4)
    losses, start = [], time.perf_counter()
    for _ in range(3):
        loss = objective(batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    yield "three steps", f"loss {losses[0]:.4f} to {losses[-1]:.4f} in {time.perf_counter() - start:.2f} s"
    weights = all(torch.isfinite(weight).all() for weight in objective.parameters())
    if not (weights and all(map(math.isfinite, losses))):
        yield Problem(
            f"training on {device_type()} gives numbers that are not finite: {losses}", "try CUDA_VISIBLE_DEVICES="
        )


def checkpoint() -> Findings:
    """Write a checkpoint to the temporary folder, and read it back."""
    import torch

    from trainer.checkpoint import Checkpointer
    from trainer.checkpoint.state import TrainState

    objective = _small_objective()
    with tempfile.TemporaryDirectory() as folder:
        checkpointer, start = Checkpointer(folder, {"config": {}}, "loss"), time.perf_counter()
        checkpointer.write_last(*checkpointer.pack_last(objective, None, None, None, TrainState()))
        saved = checkpointer.load_last()
        size, took = Path(folder, "last.safetensors").stat().st_size, time.perf_counter() - start
    yield "written and read", f"{size / 1e6:.1f} MB in {took:.2f} s"
    state = objective.state_dict()
    if saved is None or not all(torch.equal(t, state[f"networks.{n}"].cpu()) for n, t in saved.weights.items()):
        yield Problem("a checkpoint that was read back differs", "choose another disk with TMPDIR and --ckpt-dir")
