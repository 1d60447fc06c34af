"""Writing and reading `last`, verified and whole, beside `torch.save` and `torch.load` of the same state."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from trainer.checkpoint import Checkpointer
from trainer.checkpoint.state import TrainState
from trainer.commands.jobs.bench_step import make_objective
from trainer.commands.jobs.measuring import Times, document, publish, ratio, result, take_turns
from trainer.runtime.errors import UserError


def run(args: argparse.Namespace) -> int:
    """Measure and print. Raises UserError when --folder is none."""
    if args.folder is not None and not args.folder.is_dir():
        raise UserError(f"--folder {args.folder}: is no folder. Name one on the disk that is to be measured")
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        times, megabytes = measure(Path(folder), args)
    results = {name: result(of) for name, of in times.items()}
    pairs = {"save / torch.save": ("save", "torch.save"), "read / torch.load": ("read", "torch.load")}
    pairs["A/A"] = ("torch.save again", "torch.save")
    results |= {name: ratio(times[a], times[b]) for name, (a, b) in pairs.items()}
    publish(args, document(args, results, state_mb=megabytes))
    return 0


def measure(folder: Path, args: argparse.Namespace) -> tuple[dict[str, Times], float]:
    """Save and read Monodepth2 with Adam's moments in turn. Returns the times, and the size of `last` in MB."""
    objective = make_objective(args)
    optimizer = torch.optim.Adam(objective.parameters(), 1e-4)
    for parameter in objective.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes the moments
    optimizer.zero_grad(set_to_none=True)
    checkpointer, plain = Checkpointer(folder, {"config": {}}, "loss"), folder / "state.pt"

    def save() -> None:
        checkpointer.write_last(*checkpointer.pack_last(objective, optimizer, None, None, TrainState()))

    def save_plainly() -> None:
        torch.save({"objective": objective.state_dict(), "optimizer": optimizer.state_dict()}, plain)

    turns = {
        "save": save,
        "torch.save": save_plainly,
        "torch.save again": save_plainly,
        "read": checkpointer.load_last,
        "torch.load": lambda: torch.load(plain, weights_only=True),
    }
    times = take_turns(turns, args.rounds)
    return times, (folder / "last.safetensors").stat().st_size / 1e6
