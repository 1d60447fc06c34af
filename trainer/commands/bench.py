"""Measure how long things take on this machine.

    python launch/bench.py step                      one training step and its parts, batch 4 of 640x192 and 192x64
    python launch/bench.py step --precision bf16 --threads 2 --size 640 192
    python launch/bench.py loop                      the trainer's loop beside a bare PyTorch loop, on the demo

Times are medians of interleaved rounds. `A/A` is the same thing measured twice in that run: how far it is from 1 tells
how much a ratio of two numbers can be trusted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.commands.cli import add_shared, guarded, program

if TYPE_CHECKING:
    import torch

    from trainer.objective import Objective
    from trainer.types import Batch

SIZES = ((640, 192), (192, 64))  # width, height: KITTI as published, and small enough for every machine
DEMO = Path(__file__).resolve().parents[2] / "cfg/synthetic/monodepth2_MS.yaml"
PARTS = ("networks forward", "losses forward", "backward", "optimizer")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=program("bench"), description="Measure how long things take on this machine."
    )
    jobs = parser.add_subparsers(dest="what", required=True)
    step = jobs.add_parser(
        "step", help="one training step (Monodepth2, supports -1 and 1) and its parts, on random images"
    )
    step.set_defaults(run=run_step)
    _add_step_arguments(step)
    loop = jobs.add_parser(
        "loop", help="the trainer's loop, with tracking and safety, beside a bare PyTorch loop"
    )
    loop.set_defaults(run=run_loop)
    _add_loop_arguments(loop)
    args = parser.parse_args(argv)
    for name in ("batch_size", "rounds", "threads", "steps"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    return args


def _add_step_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--size", type=int, nargs=2, metavar=("W", "H"), help="one size instead of 640x192 and 192x64")
    add("--batch-size", type=int, default=4, metavar="B")
    add("--rounds", type=int, default=5, metavar="N", help="rounds after one to warm up (default 5)")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads (default 1)")
    add("--encoder", default="resnet18", metavar="NAME", help="of both networks (default resnet18)")
    add("--precision", choices=("32", "bf16"), default="32", help="of the networks (default 32)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    add("--no-channels-last", action="store_true", help="networks in the ordinary memory layout")


def _add_loop_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-c", "--cfg-file", type=Path, nargs="+", default=[DEMO], metavar="YAML", help="default: the demo")
    add("-d", "--cfg-default", type=Path, nargs="+", default=[DEMO.with_name("default.yaml")], metavar="YAML")
    add_shared(parser, "--set")
    add_shared(parser, "--seed")
    add("--steps", type=int, metavar="N", help="per round and side (default trainer.log_every_n_steps)")
    add("--rounds", type=int, default=5, metavar="N", help="rounds after one to warm up (default 5)")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads (default 1)")
    add("--precision", choices=("32", "bf16"), help="of the networks (default as in the YAML)")
    add("--loader", action="store_true", help="measure with the real loader, too; else from memory only")


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark that was asked for."""
    args = parse(argv)
    return int(args.run(args))


def run_loop(args: argparse.Namespace) -> int:
    """Measure the trainer's loop beside a bare one."""
    from trainer.commands.jobs import bench_loop

    return bench_loop.run(args)


def run_step(args: argparse.Namespace) -> int:
    """Measure one training step and its parts."""
    import torch

    torch.set_num_threads(args.threads)
    layout = "ordinary layout" if args.no_channels_last else "channels last"
    print(f"{args.encoder} depth and pose, batch {args.batch_size}, {args.precision} bit networks, {layout}")
    print(
        f"{args.device}, {args.threads} thread(s), torch {torch.__version__}, median of {args.rounds} rounds, ms"
    )
    for width, height in [args.size] if args.size else SIZES:
        times = measure(args, width, height)
        report(f"{width}x{height}", times)
    return 0


def measure(args: argparse.Namespace, width: int, height: int) -> dict[str, list[float]]:
    """Time training steps, two in every round. Returns seconds by part, and of whole steps: "step", "step again"."""
    import torch

    torch.manual_seed(0)
    objective = make_objective(args)
    batch = make_batch(args.batch_size, width, height, args.device)
    optimizer = torch.optim.Adam(objective.parameters(), 1e-4, fused=True)
    times: dict[str, list[float]] = defaultdict(list)
    for i_round in range(args.rounds + 1):
        for name in ("step", "step again"):
            laps = time_step(objective, batch, optimizer, args)
            if i_round:  # the first round warms up
                times[name].append(sum(laps.values()))
                for part, seconds in laps.items():
                    times[part].append(seconds)
    return times


def time_step(
    objective: Objective, batch: Batch, optimizer: torch.optim.Optimizer, args: argparse.Namespace
) -> dict[str, float]:
    """Make one training step. Returns the seconds of each of PARTS."""
    import torch

    clock = Clock(args.device)
    predict = objective.predict

    def timed_predict(batch: Batch) -> dict[str, Any]:
        predictions = predict(batch)
        clock.lap("networks forward")
        return predictions

    objective.predict = timed_predict  # type: ignore[method-assign]
    try:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            loss = objective(batch).loss
    finally:
        objective.predict = predict  # type: ignore[method-assign]
    clock.lap("losses forward")
    loss.backward()
    clock.lap("backward")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    clock.lap("optimizer")
    return clock.laps


class Clock:
    """A stopwatch that waits for the device before it reads."""

    def __init__(self, device: str):
        self.wait: Callable[[], None] = _nothing
        if device == "cuda":
            import torch

            self.wait = torch.cuda.synchronize
        self.wait()
        self.laps: dict[str, float] = {}
        self.start = time.perf_counter()

    def lap(self, name: str) -> None:
        """Book the time since the last lap under `name`."""
        self.wait()
        now = time.perf_counter()
        self.laps[name], self.start = now - self.start, now


def _nothing() -> None:
    return None


def make_objective(args: argparse.Namespace) -> Objective:
    """Build Monodepth2's networks and losses, randomly initialised."""
    import torch

    import models_zoo
    from trainer.losses import LOSSES
    from trainer.objective import Objective

    networks = {
        name: models_zoo.create(name, enc_name=args.encoder, pretrained=False) for name in ("depth", "pose")
    }
    losses = {
        "img_recon": LOSSES.create("img_recon", use_min=True, use_automask=True),
        "disp_smooth": LOSSES.create("disp_smooth", use_edges=True),
    }
    objective = Objective(networks, losses, {"disp_smooth": 1e-3}, supp_idxs=(-1, 1))
    if not args.no_channels_last:
        objective.use_channels_last()
    return objective.to(torch.device(args.device))


def make_batch(b: int, width: int, height: int, device: str) -> Batch:
    """Make smooth random images: as compressible as pictures, without reading any."""
    import torch
    import torch.nn.functional as F

    coarse = torch.rand(3 * b, 3, height // 8, width // 8, device=device)
    images = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).unflatten(0, (b, 3))
    K = torch.tensor([[0.58 * width, 0, width / 2], [0, 1.92 * height, height / 2], [0, 0, 1]], device=device)
    return {
        "target": images[:, 0].contiguous(),
        "supports": images[:, 1:].contiguous(),
        "K": K.expand(b, 3, 3).contiguous(),
    }


def report(title: str, times: dict[str, list[float]]) -> None:
    """Print a table of medians in milliseconds, and the ratio of a step to itself."""
    medians = {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
    step = 1e3 * statistics.median(times["step"] + times["step again"])
    print(f"\n{title}: step {step:.0f} ms, A/A {medians['step again'] / medians['step']:.3f}")
    for part in PARTS:
        print(f"  {part:<17}{medians[part]:>9.1f}  {medians[part] / step:>4.0%}")


if __name__ == "__main__":
    sys.exit(main())
