"""The environment of a run: versions and devices, for people who compare numbers later."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

PACKAGES = ("torch", "accelerate", "timm", "torchvision", "numpy", "safetensors")


def environment(device: Any, num_processes: int = 1) -> dict[str, Any]:
    """Describe this machine and the `device` (torch.device) of the main process as plain data."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "processes": num_processes,
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: found for package in PACKAGES if (found := _version(package))},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
