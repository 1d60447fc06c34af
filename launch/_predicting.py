"""What commands that only predict share: processes and device, the network on it, a progress bar."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from trainer.distributed import check_world
from trainer.evaluation import ALONE, Processes
from trainer.objective import Objective


@dataclass(frozen=True)
class Machine:
    """Where this process computes, and with whom."""

    device: torch.device
    processes: Processes = ALONE


@contextmanager
def start() -> Iterator[Machine]:
    """Meet the other processes, if a launcher started several; part from them when the work is done.

    Raises UserError when the launcher started more processes than Accelerate knows of.
    """
    has_gpu = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Machine(torch.device("cuda" if has_gpu else "cpu"))
        return
    from accelerate import PartialState

    state = PartialState(cpu=not has_gpu)
    check_world(state)
    yield Machine(state.device, Processes(state.process_index, state.num_processes))
    torch.distributed.barrier()  # the first one writes: nobody leaves before
    torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Network:
    """A trained network on its device."""

    objective: Objective
    device: torch.device

    def predict_depth(self, images: torch.Tensor) -> torch.Tensor:
        """Predict depth (b 1 h w) of images (b 3 h w), in the unit of the training."""
        return self.objective.predict_depth(images.to(self.device))

    def predict_pose(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Predict the motions (b n 4 4) to the supports of a batch."""
        moved: Any = {key: value.to(self.device) for key, value in batch.items()}
        return self.objective.predict(moved)["Ts"]


@contextmanager
def progress(what: str, total: int, machine: Machine) -> Iterator[Any]:
    """Show a bar on a terminal; gives the function to call after each item of this process."""
    console = Console(stderr=True)
    processes = machine.processes
    hidden = not (console.is_terminal and processes.is_first)
    with Progress(console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=-(-total // processes.world))
        yield lambda: bar.advance(task)
