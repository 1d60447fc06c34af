"""Processes and device of a command that predicts, the network on it, a progress bar."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint import load_objective
from trainer.geometry import disp_to_depth
from trainer.metrics.calibration import PowerLaw
from trainer.objective import Objective
from trainer.runtime.processes import ALONE, FoundByAll, Processes, check_launcher, check_world, leaving_with_launcher
from trainer.tracking.progress import counting

PATIENCE = timedelta(hours=2)  # for a slower process; NCCL alone would give up after 10 minutes


@dataclass(frozen=True)
class Machine:
    """Device of this process, and the processes that share the work."""

    device: torch.device
    processes: Processes = ALONE


@contextmanager
def start() -> Iterator[Machine]:
    """Join the other processes, if a launcher started several, and leave them when the work is done.

    Raises UserError when the launcher started more processes than Accelerate knows of. The first process reports what
    all find; Ctrl-C ends with 130.
    """
    machine = _meet()
    try:
        yield machine
    except FoundByAll:
        if not machine.processes.is_first:
            raise SystemExit(2) from None
        raise
    except KeyboardInterrupt:
        if machine.processes.is_first:
            print("interrupted: nothing more is written", file=sys.stderr)
        raise SystemExit(130) from None
    if machine.processes.world > 1:
        machine.processes.wait()  # while the first one writes
        torch.distributed.destroy_process_group()


def _meet() -> Machine:
    check_launcher()
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower()  # `accelerate launch --cpu`
    has_gpu = torch.cuda.is_available() and use_cpu not in ("true", "1", "yes", "y", "on", "t")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Machine(torch.device("cuda" if has_gpu else "cpu"))
    from accelerate import PartialState

    with leaving_with_launcher():
        state = PartialState(cpu=not has_gpu, timeout=PATIENCE)
    check_world(state)
    return Machine(state.device, Processes(state.process_index, state.num_processes))


@dataclass(frozen=True)
class Network:
    """A trained network on its device."""

    objective: Objective
    device: torch.device
    metres: PowerLaw | None = None  # makes depth metres; None = depth stays in the unit of the training

    @classmethod
    def load(cls, path: Path, hparams: Path | None, device: torch.device, metres: PowerLaw | None = None) -> Network:
        """Load a checkpoint, with the settings in the file `hparams` if given."""
        return cls(load_objective(path, hparams).to(device), device, metres)

    def predict_depth(self, images: torch.Tensor) -> torch.Tensor:
        """Predict depth (b 1 h w) of images (b 3 h w), in the unit of the training or in `metres`."""
        depth = self.objective.predict_depth(images.to(self.device))
        return depth if self.metres is None else self.metres.apply(depth)

    def predict_pose(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Predict the motions (b n 4 4) to the supports of a batch."""
        return self.objective.predict(self._moved(batch))["Ts"]

    def predict_mask(self, images: torch.Tensor) -> torch.Tensor:
        """Predict the masks (b n h w) of images (b 3 h w), one per support of the training."""
        masks = self.objective.predict(self._moved({"target": images}))["mask"]
        return masks[min(masks)]

    def predict_scene(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predict depth (b 1 h w), motions (b n 4 4) to the supports, both in the unit of the training, and K (b 3 3).

        K is that of the batch unless the network has learned one.
        """
        predictions = self.objective.predict(self._moved(batch))
        depth = disp_to_depth(predictions["disp"][0], self.objective.min_depth, self.objective.max_depth)
        return depth, predictions["Ts"], predictions.get("K", batch["K"])

    def _moved(self, batch: dict[str, torch.Tensor]) -> Any:
        return {key: value.to(self.device) for key, value in batch.items()}


@contextmanager
def progress(what: str, total: int, machine: Machine, done: int = 0) -> Iterator[Callable[[], None]]:
    """Show how many of `total` items all processes have done, `done` of them before this command.

    Yields the function to call after each item.
    """
    with counting(what, total, done=done, is_main=machine.processes.is_first) as count:
        yield lambda: count(machine.processes.world)  # the others are about as far
