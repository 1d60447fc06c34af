"""The time from the command to the first optimizer step, for `--timings`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer.runtime.streams import doing

IMPORTS, CONFIGURATION = "interpreter and imports", "configuration, with timm"
BATCH, STEP = "first batch", "first step"
HEADING, TOTAL = "time to the first step", "total"
NEXT = {  # a part that is done -> what comes next, said when it takes long
    IMPORTS: "reading the configuration",
    CONFIGURATION: "checking the data",
    "data checked": "building the networks",
    "networks built": "meeting the other processes, starting the device",
    "Accelerator and process group": "placing the networks",
    "optimizer, networks in place": "reading the last checkpoint",
    "restored": "starting the trackers",
    "trackers": "reading the first batch",
    BATCH: "taking the first step",
}


class Stopwatch:
    """Wall-clock and CPU seconds of each part of a start, from the birth of this process.

    CPU time is steadier on a shared machine, but leaves out waiting and loader processes.
    """

    def __init__(
        self,
        age: float | None = None,  # wall-clock seconds since the process began; None = measured
        clock: Callable[[], float] = time.perf_counter,  # seconds, from any origin
        cpu_clock: Callable[[], float] = time.process_time,  # CPU seconds since the process began
    ):
        self._clock, self._cpu_clock = clock, cpu_clock
        self._last = self._clock() - (process_age() if age is None else age)
        self._last_cpu = 0.0
        self._next = dict(NEXT)
        self.laps: dict[str, tuple[float, float]] = {}  # name: wall-clock and CPU seconds, in order

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *error: object) -> None:
        doing(None)

    def lap(self, name: str) -> None:
        """Add the time since the last lap to `name`. If the next part takes long, its name is printed."""
        doing(self._next.get(name), keep=True)
        now, cpu = self._clock(), self._cpu_clock()
        wall_before, cpu_before = self.laps.get(name, (0.0, 0.0))
        self.laps[name] = wall_before + now - self._last, cpu_before + cpu - self._last_cpu
        self._last, self._last_cpu = now, cpu

    def starts_anew(self) -> None:
        """No checkpoint will be read."""
        self._next["optimizer, networks in place"] = "preparing the first epoch"

    def watch_first_step(self, loop: Any, show: bool, extra: str = "") -> None:
        """Time the first batch and the first optimizer step of `loop`; `show` the table then, on the main process.

        extra: what only the first step does.
        """
        groups = loop.groups
        self._next[BATCH] += extra and f": {extra}"

        def watched() -> Iterator[list[Any]]:
            rest = groups()
            for group in rest:
                del loop.groups  # the method of the class again
                self.lap(BATCH)
                yield group
                self.lap(STEP)
                if show:
                    loop.recorder.progress.message(self.table())
                yield from rest

        loop.groups = watched

    def table(self) -> str:
        """Return the parts in order and their sum, one per line."""
        walls, cpus = zip(*self.laps.values(), strict=True)
        rows = [*self.laps.items(), (TOTAL, (sum(walls), sum(cpus)))]
        lines = [f"  {name:<36}{wall:>8.2f}{cpu:>8.2f}" for name, (wall, cpu) in rows]
        return "\n".join([f"{HEADING:<38}{'s':>8}{'CPU s':>8}", *lines])


def read_table(text: str) -> dict[str, tuple[float, float]]:
    """Read a `table` out of what a process printed: wall-clock and CPU seconds by part; {} without one."""
    _, _, rows = text.partition(HEADING)
    found: dict[str, tuple[float, float]] = {}
    for line in rows.splitlines()[1:]:
        name, wall, cpu = line.rsplit(maxsplit=2)
        found[name.strip()] = float(wall), float(cpu)
        if name.strip() == TOTAL:
            break
    return found


def process_age() -> float:
    """Return wall-clock seconds since this process began, to 0.01 s on Linux, else to a second."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        import psutil

        return time.time() - psutil.Process().create_time()
    # psutil counts from the second in which the machine was started, and is off by up to one.
    assert sys.platform == "linux"
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
