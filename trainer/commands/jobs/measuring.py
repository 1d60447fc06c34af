"""What the benchmarks share: clocks, rounds in turn, medians with their spread, and the JSON object that is printed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from trainer.runtime.environment import usable_cores, versions

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Times = dict[str, list[float]]  # clock -> seconds of each round
Result = dict[str, Any]  # "unit", "rounds", and the spread by each clock
NOT_SETTINGS = ("what", "json", "serve", "threads")


def waiter(device: str) -> Callable[[], None]:
    """Return a function that waits until the device has done its work."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def take_turns(turns: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, Times]:
    """Call everything once per round, so that other load slows all alike; a first round warms up and does not count."""
    wait = waiter(device)
    times: dict[str, Times] = {name: {clock: [] for clock in CLOCKS} for name in turns}
    for i_round in range(rounds + 1):
        for name, turn in turns.items():
            wait()
            began = {clock: read() for clock, read in CLOCKS.items()}
            turn()
            wait()
            for clock, read in CLOCKS.items():
                if i_round:
                    times[name][clock].append(read() - began[clock])
    return times


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, the lowest and the highest value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def result(times: Times, unit: str = "ms", of: Callable[[float], float] = lambda seconds: 1e3 * seconds) -> Result:
    """Describe seconds in a unit: milliseconds, or what `of` makes of them."""
    rounds = max(map(len, times.values()))
    return {"unit": unit, "rounds": rounds} | {clock: spread([*map(of, s)]) for clock, s in times.items()}


def rate(times: Times, number: int, unit: str) -> Result:
    """Describe how many of `number` things were done per second."""
    return result(times, unit, lambda seconds: number / max(seconds, 1e-9))


def ratio(times: Times, to: Times) -> Result:
    """Describe the ratio of two sides, taken round by round."""
    both = {clock: [a / max(b, 1e-9) for a, b in zip(times[clock], to[clock], strict=True)] for clock in times}
    return result(both, "ratio", lambda value: value)


def peak_memory_mb() -> float:
    """Return the most memory that this process has had, imports and libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def resident_memory_mb() -> float:
    """Return the memory that this process has now."""
    return psutil.Process().memory_info().rss / 1e6


def machine() -> dict[str, Any]:
    """Describe the machine without naming it."""
    described = {
        "cpu": f"{_model()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2),
    }
    return described | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def _model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def document(args: argparse.Namespace, results: Mapping[str, Result], **more: Any) -> dict[str, Any]:
    """Gather what `--json` prints: machine, versions, threads, settings and results."""
    settings = {key: value for key, value in vars(args).items() if key not in NOT_SETTINGS and value is not None}
    return {
        "bench": args.what,
        "command": shlex.join(["monodepth", *sys.argv[1:]]),
        "machine": machine(),
        "versions": versions(),
        "threads": args.threads,
        "settings": {
            key: value if isinstance(value, (bool, int, float)) else _text(value) for key, value in settings.items()
        },
        "results": dict(results),
        "peak_memory_mb": peak_memory_mb(),
        **more,
    }


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def publish(args: argparse.Namespace, described: Mapping[str, Any]) -> None:
    """Print a document: as JSON and nothing else with --json, else as a table."""
    if args.json:
        print(json.dumps(described))
        return
    where = described["machine"]
    print(f"{where['cpu']}, {where['cores']} cores, {args.threads} thread(s), torch {torch.__version__}")
    for row in rows(described["results"]):
        print("".join(f"{cell:>28}" if i else f"{cell:<48}" for i, cell in enumerate(row)))


def rows(results: Mapping[str, Result]) -> list[list[str]]:
    """Return a table of results, its head first."""
    table = [["median (lowest to highest)", "wall clock", "CPU time"]]
    for name, found in results.items():
        table.append([f"{name}, {found['unit']}", *(shown(found[clock]) if clock in found else "" for clock in CLOCKS)])
    return table


def shown(of: Mapping[str, float]) -> str:
    """Write a spread: "12.3 (11.9 to 14.0)"."""
    return f"{_figure(of['median'])} ({_figure(of['low'])} to {_figure(of['high'])})"


def _figure(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
