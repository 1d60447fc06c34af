"""The checks of `monodepth doctor`, run one after the other in a process of their own; each prints lines of JSON.

A check yields facts, (key, value), and a `Problem` for whatever does not work. Those here do without torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from trainer import __version__
from trainer.commands.jobs import trials
from trainer.commands.jobs.doctor import GB, LIMITS, REPORT, Findings, Problem
from trainer.runtime.errors import UserError

DISTRIBUTION = "monodepth-trainer"
LEAST_FREE = 1.0  # GB on the disk of the working directory: a run keeps some 0.5
LEAST_SHARED = 0.25  # GB of /dev/shm: a batch of 8 items of 640x192 takes 0.04, and many containers have 0.06
LEAST_FILES = 1024  # open files: each worker needs some
SHOWN_VARIABLES = ("ACCELERATE_", "CUDA_", "GLOO_", "MONODEPTH_", "NCCL_", "OMP_", "PYTORCH_", "TORCH_")


def main(names: list[str]) -> None:
    """Run checks and print what they find. Everything else that is printed goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**finding: str) -> None:
        out.write(json.dumps(finding) + "\n")
        out.flush()

    for name in names:
        try:
            for found in CHECKS[name]():
                if isinstance(found, Problem):
                    say(**asdict(found))
                else:
                    say(key=found[0], value=found[1])
        except UserError as error:
            say(what=str(error), fix="as it says")
        except Exception as error:  # a check that fails must not end the others
            say(what=f"{type(error).__name__}: {error}"[:500], fix=REPORT)
        say()
    out.close()
    os._exit(0)  # nobody waits for a thread that hangs


def software() -> Findings:
    """Versions of Python and of what the package requires, and whether these are the required ones."""
    yield "monodepth", __version__
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "system", platform.platform()
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield Problem(f"{DISTRIBUTION} is not installed for {sys.executable}", "pip install -e . in the checkout")
        return
    yield from _packages([text for text in requirements if "extra ==" not in text])


def extras() -> Findings:
    """Optional parts, by the metadata of the package: what each of them installs, and whether it is there."""
    try:
        metadata = importlib.metadata.metadata(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return  # `software` has said so
    from packaging.requirements import Requirement

    for extra in metadata.get_all("Provides-Extra") or []:
        parts: list[str] = []
        for text in metadata.get_all("Requires-Dist") or []:
            requirement = Requirement(text)
            is_own = requirement.marker is not None and requirement.marker.evaluate({"extra": extra})
            if not is_own or not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                continue
            if requirement.name == DISTRIBUTION:
                parts.append(f"[{','.join(sorted(requirement.extras))}]")
                continue
            for found in _packages([text]):
                if isinstance(found, Problem) and "is missing" in found.what:
                    parts.append(f"{requirement.name} missing")
                elif isinstance(found, Problem):
                    yield found
                else:
                    parts.append(" ".join(found))
        yield extra, ", ".join(parts)


def _packages(requirements: list[str]) -> Findings:
    """Look for the packages of some requirements ("torch<3,>=2.4")."""
    from packaging.requirements import Requirement

    for text in requirements:
        requirement = Requirement(text)
        wanted = f'pip install "{requirement.name}{requirement.specifier}"'
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Problem(f"{requirement.name} is missing", wanted)
            continue
        yield requirement.name, version
        if not requirement.specifier.contains(version, prereleases=True):
            yield Problem(f"{requirement.name} {version} is not {requirement.specifier}", wanted)


def machine() -> Findings:
    """Cores, memory, load, limits, and variables that change how training runs."""
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield "cores", f"{usable} usable of {os.cpu_count()}{_of_group('cpu.max')}"
    memory = psutil.virtual_memory()
    yield "memory", f"{memory.available / GB:.1f} GB available of {memory.total / GB:.1f}{_of_group('memory.max')}"
    yield "load", " ".join(f"{load:.2f}" for load in os.getloadavg())
    try:
        import resource

        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield "open files", f"at most {files}, can be raised to {most}"
        if 0 <= files < LEAST_FILES:
            yield Problem(f"this shell allows {files} open files, and loader.num_workers need more", "ulimit -n 4096")
    except ImportError:  # not on this system
        pass
    for name in sorted(os.environ):
        if name.startswith(SHOWN_VARIABLES):
            yield name, os.environ[name]


def _of_group(name: str) -> str:
    """Return what the control group of a container allows, " (limited to ...)"."""
    path = Path("/sys/fs/cgroup", name)
    words = path.read_text().split() if path.is_file() else ["max"]
    if words[0] == "max":
        return ""
    value = f"{int(words[0]) / GB:.1f} GB" if len(words) == 1 else f"{int(words[0]) / int(words[1]):g}"
    return f" (limited to {value})"


def disks() -> Findings:
    """Room in the working directory, for temporary files, and in the memory that loader workers share."""
    for what, path in (("working directory", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(path).free / GB
        yield what, f"{path}: {free:.1f} GB free"
        if free < LEAST_FREE:
            yield Problem(f"{path} has {free:.2f} GB free", "make room, or choose another folder (--ckpt-dir, TMPDIR)")
        if not os.access(path, os.W_OK):
            yield Problem(f"{path} cannot be written to", "work in another folder, or name one with --ckpt-dir")
    shared = Path("/dev/shm")
    if shared.is_dir():
        usage = shutil.disk_usage(shared)
        yield str(shared), f"{usage.free / GB:.2f} GB free of {usage.total / GB:.2f}"
        if usage.free < LEAST_SHARED * GB:
            fix = "docker run --shm-size=8g, or loader.num_workers: 0"
            yield Problem(f"{shared} has {usage.free / GB:.2f} GB free, where workers put their batches", fix)


CHECKS = dict(
    zip(
        LIMITS,
        (
            software,
            extras,
            machine,
            disks,
            trials.devices,
            trials.compiler,
            trials.processes,
            trials.training_step,
            trials.checkpoint,
        ),
        strict=True,
    )
)
