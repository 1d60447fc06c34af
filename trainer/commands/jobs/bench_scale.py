"""What a training step costs on many GPUs: a model on paper, and the real trainer as one process among thousands.

On paper: the sum of the gradients by a ring (Patarasu & Yuan, *Bandwidth optimal all-reduce algorithms for clusters of
workstations*, JPDC 2009) moves 2 (n - 1) / n of their bytes and takes 2 (n - 1) messages; by a tree it takes
2 log2(n). Libraries take the faster one, and so does the model. What the backward pass hides is not waited for.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer.commands.jobs import fake_world
from trainer.runtime.errors import UserError

BACKWARD = 2 / 3  # of a step: two convolutions for the one of the forward pass
BUCKETS_MB = 25  # of DistributedDataParallel: the last one has nothing to hide behind


@dataclass(frozen=True)
class Cluster:
    """What the model assumes of machines and data."""

    step_ms: float  # a step of one process, alone
    gbps: float  # bandwidth of a process to the others, 1e9 bit/s
    latency_us: float  # of a message
    item_kb: float  # the files of an item
    items: int  # of a process and step
    gradient_mb: float
    norms: float  # collectives of a step that wait for each other: BatchNorm over all processes, and others


def sum_ms(megabytes: float, n: int, gbps: float, latency_us: float) -> float:
    """Return the milliseconds of a sum over n processes."""
    moved = 8 * megabytes * 1e6 * 2 * (n - 1) / n / (gbps * 1e9)
    messages = min(2 * (n - 1), 2 * math.ceil(math.log2(n))) if n > 1 else 0
    return 1e3 * (moved + messages * latency_us * 1e-6)


def on_paper(of: Cluster, n: int) -> dict[str, float]:
    """Return what a step of n processes costs: milliseconds by cause, efficiency, bytes read per second."""
    gradients = sum_ms(of.gradient_mb, n, of.gbps, of.latency_us)
    last = sum_ms(min(of.gradient_mb, BUCKETS_MB), n, of.gbps, of.latency_us)
    shown = max(gradients - BACKWARD * of.step_ms, last)
    norms = of.norms * sum_ms(0, n, of.gbps, of.latency_us)
    step = of.step_ms + shown + norms
    return {
        "processes": n,
        "gradients_ms": gradients,
        "not_hidden_ms": shown,
        "waits_ms": norms,
        "step_ms": step,
        "efficiency": of.step_ms / step,
        "read_gb_per_s": n * of.items * of.item_kb / step / 1e3,
    }


def run(args: argparse.Namespace) -> int:
    """Simulate, compute and print. Raises UserError when a simulated process fails."""
    simulated = [simulate(args, n) for n in args.processes]
    step = simulated[-1]["sent"]["step"]
    norms = sum(of["calls"] for purpose, of in step.items() if purpose != "gradients")
    networks = simulated[-1]["gradient_mb"]
    cluster = Cluster(args.step_ms, args.gbps, args.latency_us, args.item_kb, args.items, sum(networks.values()), norms)
    paper = [on_paper(cluster, n) for n in args.processes]
    tables = {
        ON_PAPER: [[*PAPER], *([_figure(row[key]) for key in PAPER.values()] for row in paper)],
        SIMULATED: [[*COUNTED], *([_figure(find(of)) for find in COUNTED.values()] for of in simulated)],
    }
    if args.json:
        found = {"assumed": vars(cluster), "paper": paper, "simulated": simulated, "tables": tables}
        print(json.dumps({"bench": "scale", **found}))
        return 0
    print(
        f"{ON_PAPER}: a step of {args.step_ms:g} ms alone, {args.items} items of {args.item_kb:g} kB;"
        f" {' + '.join(f'{mb:.0f} MB ({name})' for name, mb in networks.items())} of gradients,"
        f" {norms:g} more collective(s) that wait for each other;"
        f" {args.gbps:g} Gbit/s and {args.latency_us:g} us to the others"
    )
    show(tables[ON_PAPER])
    print(f"\n{SIMULATED}")
    show(tables[SIMULATED])
    print(f"sampler: of {fake_world.MANY_ITEMS:,} items, {fake_world.PER_PROCESS} for each process and step")
    return 0


def calls(of: dict[str, Any], part: str) -> float:
    """Return the number of collectives of a part of a simulated run."""
    return float(sum(sent["calls"] for sent in of["sent"][part].values()))


ON_PAPER = "on paper"
SIMULATED = "process 0 of so many on torch's fake process group, which sends nothing: the real trainer at 64x64"
PAPER = {
    "processes": "processes",
    "gradients ms": "gradients_ms",
    "not hidden ms": "not_hidden_ms",
    "other waits ms": "waits_ms",
    "step ms": "step_ms",
    "efficiency": "efficiency",
    "read GB/s": "read_gb_per_s",
}
COUNTED: dict[str, Callable[[dict[str, Any]], float]] = {
    "processes": lambda of: of["world"],
    "start CPU s": lambda of: of["start_cpu_s"],
    "peak MB": lambda of: of["peak_memory_mb"],
    "collectives: start": lambda of: calls(of, "start"),
    "step": lambda of: calls(of, "step"),
    "of BatchNorm": lambda of: of["sent"]["step"].get("BatchNorm", {"calls": 0})["calls"],
    "validation": lambda of: calls(of, "validation"),
    "save": lambda of: calls(of, "save"),
    "sampler MB": lambda of: of["sampler_mb"],
    "its first batch s": lambda of: of["sampler_s"],
}


def show(table: list[list[str]]) -> None:
    """Print a table in columns."""
    for row in table:
        print("  ".join(cell.rjust(max(len(other[i]) for other in table)) for i, cell in enumerate(row)))


def _figure(value: float) -> str:
    """Write a number with three figures."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def simulate(args: argparse.Namespace, world: int) -> dict[str, Any]:
    """Run `fake_world` in a process of its own and return what it prints."""
    words = {
        "world": world,
        "seed": args.seed,
        "cfg_file": [*map(str, args.cfg_file)],
        "cfg_default": [*map(str, args.cfg_default)],
        "set": [*args.set, f"trainer.num_threads={args.threads}"],
    }
    done = subprocess.run(
        [sys.executable, "-m", fake_world.__name__, json.dumps(words)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"process 0 of {world} ended with {done.returncode}: {last}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
