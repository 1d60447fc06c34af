"""The environment of a run: versions and devices, for people who compare numbers later; cores and memory."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import suppress
from importlib import metadata
from typing import Any

_QUOTA = "/sys/fs/cgroup/cpu.max"  # "<microseconds of CPU time> <per microseconds>", or "max ..."
# Of glibc's malloc.h: M_TRIM_THRESHOLD, freed bytes that it keeps; M_MMAP_THRESHOLD, from which on it maps blocks.
_MALLOC = ((-1, 1 << 30), (-3, 1 << 25))
PACKAGES = ("torch", "accelerate", "timm", "torchvision", "numpy", "safetensors")


def environment(accelerator: Any) -> dict[str, Any]:
    """Describe this machine, the device of this process and the number of processes as plain data."""
    import torch

    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "system": platform.platform(),
        **versions(),
    }


def usable_cores() -> int:
    """Count the CPU cores that this process may use: those it is bound to, no more than its container is granted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError), open(_QUOTA) as file:
        granted, period = map(int, file.read().split())
        cores = min(cores, max(1, granted // period))
    return cores


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees for the next batch, which needs as much.

    glibc otherwise gives it back, and the kernel clears each page anew. Elsewhere this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _MALLOC:
            mallopt(option, value)


def spin_briefly() -> None:
    """Let threads that wait for others spin briefly before they sleep; to be called before torch is loaded.

    libgomp, the OpenMP of torch, spins for 300,000 turns by default, on cores that the late threads need where other
    processes run. Steps per second of `synthetic/monodepth2_M` with two threads on two cores: by default 3.5 alone, 0.1
    beside one busy process; with 1000 turns 3.0 and 1.2; on another day the gap was smaller, see docs/tasks/gpus.md.
    What the user has set stays, and keeps this from doing anything; OMP_NUM_THREADS under a launcher is set by that.
    """
    is_launched = "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", *(() if is_launched else ["OMP_NUM_THREADS"])}
    if not chosen & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def emulates_bf16(device_type: str) -> bool:
    """Whether bf16 is computed without instructions for it: on a CPU that has none, many times slower than 32 bit."""
    import torch

    return device_type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {package: _version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **{package: version for package, version in found.items() if version}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
