"""The time of one training step of Monodepth2 and of its parts, on random images."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

import models_zoo
from trainer.commands.jobs.launches import PARTS, count_launches
from trainer.losses import LOSSES
from trainer.objective import Objective
from trainer.objective.compiling import as_it_is
from trainer.types import Batch

SIZES = ((640, 192), (192, 64))  # width, height: KITTI as published, and small enough for every machine
FORMS = {"off": "piece by piece, as on a CPU", "on": "as formulas, not yet compiled"}
WITH_STEREO = (-1, 1, 0)  # supports of monodepth2_MS


def run(args: argparse.Namespace) -> int:
    """Measure one training step and its parts."""
    torch.set_num_threads(args.threads)
    layout = "ordinary layout" if args.no_channels_last else "channels last"
    print(f"{args.encoder} depth and pose, batch {args.batch_size}, {args.precision} bit networks, {layout}")
    print(f"{args.device}, {args.threads} thread(s), torch {torch.__version__}, median of {args.rounds} rounds, ms")
    for width, height in [args.size] if args.size else SIZES:
        report(f"{width}x{height}", measure(args, width, height))
    print("\nlaunches of a step with stereo supports too (monodepth2_MS), as a GPU sees them")
    for fuse in ("off", "on"):
        counts = launches(args, fuse)
        parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        print(f"  losses {FORMS[fuse]}: {sum(counts.values()):,} ({parts})")
    return 0


def measure(args: argparse.Namespace, width: int, height: int) -> dict[str, list[float]]:
    """Time training steps, two in every round. Returns seconds by part, and of whole steps: "step", "step again"."""
    torch.manual_seed(0)
    objective = make_objective(args)
    batch = make_batch(args.batch_size, width, height, args.device)
    optimizer = torch.optim.Adam(objective.parameters(), 1e-4, fused=True)
    predict, wait = objective.predict, waiter(args.device)
    ticks: list[float] = []  # beginning of a step, then the end of each of PARTS

    def read_clock() -> None:
        wait()
        ticks.append(time.perf_counter())

    def timed_predict(batch: Batch) -> dict[str, Any]:
        predictions = predict(batch)
        read_clock()
        return predictions

    objective.predict = timed_predict  # type: ignore[method-assign]
    times: dict[str, list[float]] = defaultdict(list)
    for i_round in range(args.rounds + 1):
        for name in ("step", "step again"):
            ticks.clear()
            read_clock()
            with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
                loss = objective(batch).loss
            read_clock()
            loss.backward()
            read_clock()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            read_clock()
            if i_round:  # the first round warms up
                times[name].append(ticks[-1] - ticks[0])
                for part, (start, end) in zip(PARTS, pairwise(ticks), strict=True):
                    times[part].append(end - start)
    return times


def launches(args: argparse.Namespace, fuse: str) -> dict[str, int]:
    """Count the launches of a step by part; fuse: a key of FORMS."""
    objective = make_objective(args, WITH_STEREO)
    objective.fused = None if fuse == "off" else as_it_is
    return count_launches(objective, make_batch(1, *SIZES[-1], args.device, WITH_STEREO))


def waiter(device: str) -> Callable[[], None]:
    """Return a function that waits until the device has done its work."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def make_objective(args: argparse.Namespace, supp_idxs: Sequence[int] = (-1, 1)) -> Objective:
    """Build Monodepth2's networks and losses, randomly initialised."""
    networks = {name: models_zoo.create(name, enc_name=args.encoder, pretrained=False) for name in ("depth", "pose")}
    losses = {
        "img_recon": LOSSES.create("img_recon", use_min=True, use_automask=True),
        "disp_smooth": LOSSES.create("disp_smooth", use_edges=True),
    }
    objective = Objective(networks, losses, {"disp_smooth": 1e-3}, supp_idxs=supp_idxs)
    if not args.no_channels_last:
        objective.use_channels_last()
    return objective.to(torch.device(args.device))


def make_batch(b: int, width: int, height: int, device: str, supp_idxs: Sequence[int] = (-1, 1)) -> Batch:
    """Make smooth random images, as compressible as photographs, and the motion of a stereo support."""
    n = 1 + len(supp_idxs)
    coarse = torch.rand(n * b, 3, height // 8, width // 8, device=device)
    images = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).unflatten(0, (b, n))
    T_stereo = torch.eye(4, device=device)
    T_stereo[0, 3] = -0.1
    K = torch.tensor([[0.58 * width, 0, width / 2], [0, 1.92 * height, height / 2], [0, 0, 1]], device=device)
    return {
        "target": images[:, 0].contiguous(),
        "supports": images[:, 1:].contiguous(),
        "K": K.expand(b, 3, 3).contiguous(),
        "T_stereo": T_stereo.expand(b, 4, 4).contiguous(),
    }


def report(title: str, times: dict[str, list[float]]) -> None:
    """Print a table of medians in milliseconds, and the ratio of a step to itself."""
    medians = {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}
    step = 1e3 * statistics.median(times["step"] + times["step again"])
    print(f"\n{title}: step {step:.0f} ms, A/A {medians['step again'] / medians['step']:.3f}")
    for part in PARTS:
        print(f"  {part:<17}{medians[part]:>9.1f}  {medians[part] / step:>4.0%}")
