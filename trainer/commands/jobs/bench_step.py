"""The time of one training step of Monodepth2 and of its parts, on random images."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

import models_zoo
from models_zoo.encoders.build import encoder_problems
from trainer.commands.cli import positive
from trainer.commands.jobs.launches import PARTS, count_launches
from trainer.commands.jobs.measuring import (
    CLOCKS,
    Times,
    document,
    peak_memory_mb,
    publish,
    ratio,
    resident_memory_mb,
    result,
    waiter,
)
from trainer.commands.jobs.naive_step import NaiveObjective
from trainer.losses import LOSSES
from trainer.objective import Objective
from trainer.objective.compiling import as_it_is
from trainer.runtime.errors import UserError
from trainer.types import Batch

SIZES = ((640, 192), (192, 64))  # width, height: KITTI as published, and small enough for every machine
FORMS = {"off": "piece by piece, as on a CPU", "on": "as formulas, not yet compiled"}
WITH_STEREO = (-1, 1, 0)  # supports of monodepth2_MS


def run(args: argparse.Namespace) -> int:
    """Measure one training step and its parts, or take steps when asked to. Raises UserError for options that clash."""
    if args.naive and args.precision != "32":
        raise UserError(f"--naive has no networks in {args.precision}: geometry would run in 16 bit, too. Leave it out")
    torch.set_num_threads(args.threads)
    if args.serve:
        return serve(args)
    sizes = [args.size] if args.size else SIZES
    measured = {f"{width}x{height}": measure(args, width, height) for width, height in sizes}
    if args.json:
        named = {f"{size} {part}": result(times) for size, of in measured.items() for part, times in of.items()}
        controls = {f"{size} A/A": ratio(of["step again"], of["step"]) for size, of in measured.items()}
        publish(args, document(args, named | controls, launches={fuse: launches(args, fuse) for fuse in FORMS}))
        return 0
    of = ", as published" * args.naive
    print(f"{args.encoder} depth and pose{of}, batch {args.batch_size}, {args.precision} bit networks, {layout(args)}")
    print(f"{args.device}, {args.threads} thread(s), torch {torch.__version__}, median of {args.rounds} rounds, ms")
    for size, times in measured.items():
        report(size, {part: by_clock["wall"] for part, by_clock in times.items()})
    print("\nlaunches of a step with stereo supports too (monodepth2_MS), as a GPU sees them")
    for fuse in FORMS:
        counts = launches(args, fuse)
        parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        print(f"  losses {FORMS[fuse]}: {sum(counts.values()):,} ({parts})")
    return 0


def layout(args: argparse.Namespace) -> str:
    """Name the memory layout that the networks have with these options."""
    is_last = make_objective(argparse.Namespace(**vars(args) | {"encoder": "test_resnet"})).channels_last
    return "channels last layout" if is_last else "ordinary memory layout"


def make_step(args: argparse.Namespace, width: int, height: int) -> tuple[Any, Callable[..., None]]:
    """Build networks, losses, optimizer and a batch. Returns the model and a step, which calls `tick` after parts."""
    torch.manual_seed(0)
    model: Any = make_objective(args)
    batch = make_batch(args.batch_size, width, height, args.device)
    if args.naive:
        model = NaiveObjective(model)
        optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    else:
        optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def step(tick: Callable[[], None] = lambda: None) -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            loss = model(batch).loss
        tick()
        loss.backward()
        tick()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tick()

    return model, step


def measure(args: argparse.Namespace, width: int, height: int) -> dict[str, Times]:
    """Time training steps, two in every round. Returns seconds by part, and of whole steps: "step", "step again"."""
    model, step = make_step(args, width, height)
    predict, wait = model.predict, waiter(args.device)
    ticks: list[dict[str, float]] = []  # beginning of a step, then the end of each of PARTS

    def tick() -> None:
        wait()
        ticks.append({clock: read() for clock, read in CLOCKS.items()})

    def timed_predict(batch: Batch) -> dict[str, Any]:
        predictions: dict[str, Any] = predict(batch)
        tick()
        return predictions

    model.predict = timed_predict
    times: dict[str, Times] = {name: {clock: [] for clock in CLOCKS} for name in ("step", "step again", *PARTS)}
    for i_round in range(args.rounds + 1):
        for name in ("step", "step again"):
            ticks.clear()
            tick()
            step(tick)
            for clock in CLOCKS if i_round else ():  # the first round warms up
                times[name][clock].append(ticks[-1][clock] - ticks[0][clock])
                for part, (start, end) in zip(PARTS, pairwise(ticks), strict=True):
                    times[part][clock].append(end[clock] - start[clock])
    return times


def launches(args: argparse.Namespace, fuse: str) -> dict[str, int]:
    """Count the launches of a step by part; fuse: a key of FORMS."""
    objective = make_objective(args, WITH_STEREO)
    objective.fused = None if fuse == "off" else as_it_is
    return count_launches(objective, make_batch(1, *SIZES[-1], args.device, WITH_STEREO))


def serve(args: argparse.Namespace) -> int:
    """Take as many steps as each line of stdin says, so that a program can let two versions of the code take turns.

    Prints one JSON object per line: {"ready", "rss_before_mb"} once networks and batch are built; after `run N` the
    seconds of each step by both clocks, and the peak memory; {"error"} after any other line. `quit` or the end of the
    input ends it.
    """
    width, height = args.size or SIZES[0]
    _, step = make_step(args, width, height)
    wait = waiter(args.device)
    _say(ready=True, rss_before_mb=resident_memory_mb())
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            break
        try:
            if len(words) != 2 or words[0] != "run":
                raise argparse.ArgumentTypeError(f"expected `run N` or `quit`, got {line.strip()[:50]!r}")
            number = positive(words[1])
        except argparse.ArgumentTypeError as error:
            _say(error=str(error))
            continue
        seconds: Times = {clock: [] for clock in CLOCKS}
        for _ in range(number):
            began = {clock: read() for clock, read in CLOCKS.items()}
            step()
            wait()
            for clock, read in CLOCKS.items():
                seconds[clock].append(read() - began[clock])
        _say(**seconds, peak_rss_mb=peak_memory_mb())
    return 0


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def make_objective(args: argparse.Namespace, supp_idxs: Sequence[int] = (-1, 1)) -> Objective:
    """Build Monodepth2's networks and losses, randomly initialised. Raises UserError for an unknown encoder."""
    if problems := encoder_problems(args.encoder):
        raise UserError("; ".join(problems))
    networks = {name: models_zoo.create(name, enc_name=args.encoder, pretrained=False) for name in ("depth", "pose")}
    losses = {
        "img_recon": LOSSES.create("img_recon", use_min=True, use_automask=True),
        "disp_smooth": LOSSES.create("disp_smooth", use_edges=True),
    }
    objective = Objective(networks, losses, {"disp_smooth": 1e-3}, supp_idxs=supp_idxs)
    objective.use_channels_last(False if args.naive else args.channels_last, args.device)
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
