"""What the starts of a run did, and what they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Start:
    """What one start of the command did."""

    code: int
    output: str
    moments: list[str]
    phase: str  # what it was doing when it ended
    orphans: int  # processes that its command left alive

    @property
    def began(self) -> int | None:
        """Step that it continued at; None when it did not come so far."""
        said = [m for m in self.moments if m.startswith("state:running ")]
        return int(said[0].split()[1]) if said else None

    @property
    def trained(self) -> int:
        """Optimizer steps taken."""
        return self.moments.count("step")


def phase(moments: Sequence[str], output: str) -> str:
    """Name what a start was doing last, from its moments and its output."""
    names = [m for m in moments if not m.startswith("state:running ")]
    if "plugin" not in names:
        return "importing"
    if "locked" not in names:
        return "building"
    if "state:renamed" not in names:
        return "restoring"
    kind, _, part = names[-1].partition(":")
    if kind in ("last", "best") and part != "renamed":
        return f"writing {kind}"
    if "state:finished" in names or "finished" in output:
        return "ending"
    lines = output.strip().splitlines() or [""]
    return "validating" if "validating" in lines[-1] else "training"


def show(starts: Sequence[Start], needed: int, seconds: float, **more: object) -> None:
    """Print what a disturbed run went through (`pytest -rP`). needed: optimizer steps of an undisturbed run."""
    kills = starts[:-1]
    exact = [start.moments[-1] for start in kills if start.moments and start.phase.startswith("writing")]
    trained = sum(start.trained for start in starts)
    print(f"{len(starts)} starts in {seconds:.0f} s; {needed} steps needed, {trained - needed} repeated")
    print("ended while:", dict(Counter(start.phase for start in kills)))
    print("last moment in a save:", dict(Counter(exact)))
    print(more)
