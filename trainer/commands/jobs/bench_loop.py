"""The cost of the trainer's loop beside a bare PyTorch loop with the same objective, data, optimizer and precision.

Both run in one process and take turns, so that other load slows both. The trainer's side is the real `Loop` of
`build_run`, with scalars, progress and safety as in its YAML.
"""

from __future__ import annotations

import argparse
import copy
import cProfile
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext, redirect_stdout
from itertools import chain, cycle, islice, repeat
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.state import Position
from trainer.commands.jobs import measuring
from trainer.commands.jobs.measuring import Result, document, publish, ratio, result, waiter
from trainer.config import Config, load_config
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import RunDir
from trainer.training import loop as loop_room
from trainer.training.loop import Loop
from trainer.training.run import build_run
from trainer.training.setup import PRECISIONS, build_optimizer

SIDES = ("bare", "loop", "bare again")
CLOCKS = {"wall clock": time.perf_counter, "CPU time": time.process_time}
# Settings that would make rounds or sides differ.
SETTLED = ("accumulate_grad_batches=1", "limit_train_batches=~", "save_every_n_steps=~", "aspect_ratio=~")
BATCHES = 8  # kept in memory
SHOWN_CALLS = 16
REPEATS = 3  # of what happens once per epoch
Sums = dict[tuple[str, str], list[float]]  # seconds of each round, by clock and side


class Endless:
    """A loader, and its own sampler, of an epoch whose end is never near."""

    def __init__(self, dataset: Any, batches: Iterable[Any]):
        self.dataset, self.batch_sampler, self._batches = dataset, self, batches

    def set_position(self, epoch: int, start_batch: int = 0) -> None:
        """Ignore the position: the batches begin anywhere."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def __len__(self) -> int:
        return 10**9


class Bare:
    """A bare training step on a copy of the objective."""

    def __init__(self, cfg: Config, loop: Loop):
        self.device = loop.accelerator.device
        self.objective = copy.deepcopy(loop.objective)
        self.optimizer = build_optimizer(cfg, self.objective)
        self.is_bf16 = PRECISIONS[str(cfg.trainer.precision)] == "bf16"
        self.objective.train()

    def train(self, batches: Iterable[dict[str, Any]]) -> None:
        """Descend once on each batch."""
        for batch in batches:
            batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
                loss = self.objective(batch).loss
            loss.backward()
            self.optimizer.step()


def run(args: argparse.Namespace) -> int:
    """Measure and print. Raises UserError when a round does not consist of whole intervals between scalars."""
    torch.set_num_threads(args.threads)
    overrides = [f"trainer.{setting}" for setting in SETTLED]
    overrides += [f"trainer.precision={args.precision}"] if args.precision else []
    cfg = load_config(args.cfg_file, args.cfg_default, [*args.set, *overrides])
    if str(cfg.trainer.precision) == "16":
        raise UserError("precision 16 cannot be measured: the bare loop has no loss scaling. Use 32 or bf16")
    every = cfg.trainer.log_every_n_steps
    steps = args.steps or every
    if steps % every:
        raise UserError(
            f"--steps {steps}: a round must hold whole intervals between scalars: use a multiple of"
            f" trainer.log_every_n_steps ({every})"
        )
    with tempfile.TemporaryDirectory() as scratch, open(Path(scratch) / "log.txt", "w") as log:
        folder = RunDir(Path(scratch), "bench", "0")
        with closing(folder):
            with redirect_stdout(log):
                loop = build_run(cfg, folder, seed=args.seed, hparams={"config": cfg.to_dict()}, progress="plain").loop
            with redirect_stdout(log) if args.json else nullcontext():
                print(_title(cfg, loop, args, steps))
                measured = measure(cfg, loop, args, steps)
                loop.recorder.tracker.close()
                loop.accelerator.end_training()
    if args.json:
        publish(args, document(args, described(measured, steps), steps=steps))
    return 0


def measure(cfg: Config, loop: Loop, args: argparse.Namespace, steps: int) -> dict[str, Sums]:
    """Print all tables, and return the seconds behind those of whole rounds, by title."""
    bare, loader = Bare(cfg, loop), loop.train_loader
    loader.batch_sampler.set_position(0, 0)
    batches = list(islice(cycle([*islice(loader, min(steps, BATCHES))]), steps))
    with loop.recorder.progress, loop.saver:
        measured = {"batches in memory": take_turns(loop, bare, batches, args.rounds, steps)}
        report_rounds("batches in memory", measured["batches in memory"], steps)
        if not args.json:
            report_calls(loop, batches)
        if args.loader:
            real = chain.from_iterable(repeat(loader))
            measured["batches from the loader"] = take_turns(loop, bare, real, args.rounds, steps)
            report_rounds("batches from the loader", measured["batches from the loader"], steps)
        if not args.json:
            report_epoch(loop)
    return measured


def take_turns(loop: Loop, bare: Bare, batches: list[Any] | Iterator[Any], rounds: int, steps: int) -> Sums:
    """Train for one round to warm up and `rounds` more; in each, every side takes `steps` steps.

    The loop's turn lasts from its request for a first batch to its request for the one after its last. `batches` are
    those of every round, or one iterator for all sides.
    """
    sums: Sums = defaultdict(list)
    turn = steps if bare.device.type == "cuda" else 1  # no waiting for a GPU within a turn
    wait = waiter(bare.device.type)

    def some(start: int) -> Iterator[Any]:
        return iter(batches[start : start + turn]) if isinstance(batches, list) else islice(batches, turn)

    def now() -> dict[str, float]:
        wait()
        return {name: read() for name, read in CLOCKS.items()}

    def dealt() -> Iterator[Any]:
        """Yield the batches of the loop's turns; the other side takes its own in between."""
        for i_round in range(rounds + 1):
            seconds = dict.fromkeys(((clock, side) for clock in CLOCKS for side in SIDES), 0.0)
            for start, side in ((start, side) for start in range(0, steps, turn) for side in SIDES):
                began = now()
                if side == "loop":
                    yield from some(start)
                else:
                    bare.train(some(start))
                for clock, end in now().items():
                    seconds[clock, side] += end - began[clock]
            if i_round:
                for key, value in seconds.items():
                    sums[key].append(value)

    train(loop, dealt())
    return sums


def train(loop: Loop, batches: Iterable[Any]) -> None:
    """Train the loop on `batches` as part of one long epoch."""
    own = loop.train_loader
    loop.train_loader = Endless(own.dataset, batches)
    loop.state.position = Position(0, 0, loop.state.position.step)
    try:
        for read in loop.epoch():
            loop.step(read)
    finally:
        loop.train_loader = own


def report_rounds(title: str, sums: Sums, steps: int) -> None:
    """Print the medians of the rounds, per step, and the loop's cost as the median of each round's ratio."""
    print(f"\n{title}, ms per step{'':<14}{'bare':>10}{'loop':>10}{'loop/bare':>11}{'A/A':>8}")
    for clock in CLOCKS:
        bare, loop, again = (sums[clock, side] for side in SIDES)
        both = [(a + b) / 2 for a, b in zip(bare, again, strict=True)]
        ratio = statistics.median(x / y for x, y in zip(loop, both, strict=True))
        control = statistics.median(x / y for x, y in zip(again, bare, strict=True))
        ms = [1e3 * statistics.median(x) / steps for x in (both, loop)]
        print(f"  {clock:<{len(title) + 25}}{ms[0]:>10.2f}{ms[1]:>10.2f}{ratio:>11.4f}{control:>8.4f}")


def described(measured: dict[str, Sums], steps: int) -> dict[str, Result]:
    """Return the milliseconds per step of each side, and the loop's cost, as `--json` prints them."""
    found: dict[str, Result] = {}
    for title, sums in measured.items():
        sides = {
            side: dict(zip(measuring.CLOCKS, (sums[clock, side] for clock in CLOCKS), strict=True)) for side in SIDES
        }
        found |= {f"{title}, {side}": result(of, "ms", lambda s: 1e3 * s / steps) for side, of in sides.items()}
        found[f"{title}, loop / bare"] = ratio(sides["loop"], sides["bare"])
        found[f"{title}, A/A"] = ratio(sides["bare again"], sides["bare"])
    return found


def report_calls(loop: Loop, batches: list[Any]) -> None:
    """Print the calls of the loop that take most time under cProfile."""
    # CPU time, which other processes do not disturb, where the CPU does the work.
    profile = cProfile.Profile(time.process_time if loop.accelerator.device.type == "cpu" else time.perf_counter)
    profile.runcall(train, loop, batches)
    profile.create_stats()
    rows: dict[str, float] = defaultdict(float)
    for (file, _, name), (*_, callers) in profile.stats.items():
        for (caller, *_), (*_, cumulative) in callers.items():
            if caller == loop_room.__file__ and file != caller:
                rows[f"{'/'.join(Path(file).parts[-2:])} {name}"] += cumulative
    print("\nwhat the loop calls, us per step under cProfile (which slows small calls down)")
    for name, seconds in sorted(rows.items(), key=lambda row: -row[1])[:SHOWN_CALLS]:
        print(f"  {name:<60}{1e6 * seconds / len(batches):>10.0f}")


def report_epoch(loop: Loop) -> None:
    """Print the time of what only the trainer's loop does, once per epoch."""
    wait = waiter(loop.accelerator.device.type)
    print("\nonce per epoch, ms")
    for name, action in {"save `last`": loop.saver.save_last, "validation": loop.validate}.items():
        seconds: list[float] = []
        for _ in range(REPEATS):
            wait()
            start = time.perf_counter()
            action()
            wait()
            seconds.append(time.perf_counter() - start)
        print(f"  {name:<30}{1e3 * statistics.median(seconds):>10.0f}")


def _title(cfg: Config, loop: Loop, args: argparse.Namespace, steps: int) -> str:
    width, height = cfg.dataset_kwargs("train")[1].get("size", ("?", "?"))
    batch = loop.train_loader.batch_sampler.batch_size
    return (
        f"{width}x{height}, batch {batch}, precision {cfg.trainer.precision}, {loop.accelerator.device},"
        f" {args.threads} thread(s), torch {torch.__version__}\n"
        f"{args.rounds} rounds of {steps} steps each side after one to warm up; scalars every"
        f" {cfg.trainer.log_every_n_steps} steps; trackers {cfg.trainer.trackers}"
    )
