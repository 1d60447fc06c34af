"""The time of one training step of Monodepth2 and of its parts, on random images."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import models_zoo
from trainer.losses import LOSSES
from trainer.objective import Objective
from trainer.types import Batch

SIZES = ((640, 192), (192, 64))  # width, height: KITTI as published, and small enough for every machine
PARTS = ("networks forward", "losses forward", "backward", "optimizer")


def run(args: argparse.Namespace) -> int:
    """Measure one training step and its parts."""
    torch.set_num_threads(args.threads)
    layout = "ordinary layout" if args.no_channels_last else "channels last"
    print(f"{args.encoder} depth and pose, batch {args.batch_size}, {args.precision} bit networks, {layout}")
    print(f"{args.device}, {args.threads} thread(s), torch {torch.__version__}, median of {args.rounds} rounds, ms")
    for width, height in [args.size] if args.size else SIZES:
        times = measure(args, width, height)
        report(f"{width}x{height}", times)
    return 0


def measure(args: argparse.Namespace, width: int, height: int) -> dict[str, list[float]]:
    """Time training steps, two in every round. Returns seconds by part, and of whole steps: "step", "step again"."""
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
        self.wait = waiter(device)
        self.wait()
        self.laps: dict[str, float] = {}
        self.start = time.perf_counter()

    def lap(self, name: str) -> None:
        """Book the time since the last lap under `name`."""
        self.wait()
        now = time.perf_counter()
        self.laps[name], self.start = now - self.start, now


def waiter(device: str) -> Callable[[], None]:
    """Return a function that waits until the device has done its work."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def make_objective(args: argparse.Namespace) -> Objective:
    """Build Monodepth2's networks and losses, randomly initialised."""
    networks = {name: models_zoo.create(name, enc_name=args.encoder, pretrained=False) for name in ("depth", "pose")}
    losses = {
        "img_recon": LOSSES.create("img_recon", use_min=True, use_automask=True),
        "disp_smooth": LOSSES.create("disp_smooth", use_edges=True),
    }
    objective = Objective(networks, losses, {"disp_smooth": 1e-3}, supp_idxs=(-1, 1))
    if not args.no_channels_last:
        objective.use_channels_last()
    return objective.to(torch.device(args.device))


def make_batch(b: int, width: int, height: int, device: str) -> Batch:
    """Make smooth random images, as compressible as photographs."""
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
