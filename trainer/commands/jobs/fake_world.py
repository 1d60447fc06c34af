"""What one process among thousands does, without the others: the real trainer on torch's fake process group.

    python -m trainer.commands.jobs.fake_world '{"world": 4096, "seed": 42, "cfg_file": [], "cfg_default": [], ...}'

takes a few steps of a page as process 0 of 4,096 and prints one JSON object. Collectives send nothing and come back at
once: numbers of calls, bytes, memory and the work at the start are those of a real run, and waiting is not.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from trainer.commands.jobs.measuring import peak_memory_mb
from trainer.config import load_config
from trainer.data.loaders import EpochBatches
from trainer.objective import batchnorm
from trainer.runtime.rundir import RunDir
from trainer.training.run import build_run

COLLECTIVES = ("all_reduce", "broadcast", "barrier", "all_gather", "all_gather_into_tensor", "reduce", "gather")
MANY_ITEMS = 10_000_000  # of the data set whose sampler is measured
STEPS = 4
PER_PROCESS = 12  # items of a process in the sampler, the batch of most published systems


class Ledger:
    """How often what was sent: calls and bytes by the part of the run, and within it by purpose."""

    def __init__(self) -> None:
        self.part = "start"
        self.sent: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])

    def note(self, purpose: str, *sent: Any) -> None:
        """Count one collective and the bytes of the tensors among its arguments."""
        of = self.sent[self.part, purpose]
        of[0] += 1
        of[1] += sum(tensor.nbytes for tensor in sent if isinstance(tensor, Tensor))

    def per(self, part: str, times: int = 1) -> dict[str, dict[str, float]]:
        """Return calls and megabytes by purpose for one of `times` repetitions of a part."""
        return {
            purpose: {"calls": calls / times, "mb": size / times / 1e6}
            for (of, purpose), (calls, size) in self.sent.items()
            if of == part
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; argv: one JSON object, the arguments of `simulate`."""
    (words,) = sys.argv[1:] if argv is None else argv
    with redirect_stdout(sys.stderr):
        found = simulate(**json.loads(words))
    print(json.dumps(found))
    return 0


def simulate(
    world: int, seed: int, cfg_file: Sequence[str], cfg_default: Sequence[str], set: Sequence[str]
) -> dict[str, Any]:
    """Train STEPS steps, validate and save as process 0 of `world`, with one item per process and step."""
    if world > 1:
        join(world)
    small = [f"{key}={value}" for key, value in settings(world).items()]
    cfg = load_config([*map(Path, cfg_file)], [*map(Path, cfg_default)], [*set, *small])
    began = time.process_time()
    with ExitStack() as stack:
        ledger = stack.enter_context(counting())
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        folder = stack.enter_context(closing(RunDir(Path(scratch), "bench", "0")))
        loop = build_run(cfg, folder, seed=seed, hparams={"config": cfg.to_dict()}, progress="plain").loop
        start_s = time.process_time() - began
        with loop.recorder.progress, loop.saver:
            ledger.part = "step"
            for read in islice(loop.epoch(), STEPS):
                loop.step(read)
            ledger.part = "validation"
            loop.validate()
            ledger.part = "save"
            loop.saver.save_last()
            loop.saver.wait()
        ledger.part = "end"
        loop.recorder.tracker.close()
        loop.accelerator.end_training()
    return {
        "world": world,
        "start_cpu_s": start_s,
        "peak_memory_mb": peak_memory_mb(),
        "gradient_mb": {
            name: sum(p.nbytes for p in network.parameters() if p.requires_grad) / 1e6
            for name, network in loop.objective.networks.items()
        },
        "sent": {
            "start": ledger.per("start"),
            "step": ledger.per("step", STEPS),
            "validation": ledger.per("validation"),
            "save": ledger.per("save"),
        },
        **sampler_costs(world),
    }


def join(world: int) -> None:
    """Become process 0 of a fake group of `world` processes, eight of them on this machine."""
    local = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(min(world, 8)), "ACCELERATE_USE_CPU": "true"}
    os.environ.update(local, RANK="0", WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    distributed.init_process_group("fake", rank=0, world_size=world, store=FakeStore())


def settings(world: int) -> dict[str, Any]:
    """Return the settings of a run with one item per process and step, drawn and trained at a small size."""
    return {
        "loader.batch_size": world,
        "loader.train.num_workers": 0,
        "loader.val.num_workers": 0,
        "dataset.size": "[64,64]",
        "dataset.train.num_items": (STEPS + 1) * world,
        "dataset.val.num_items": world,
        "trainer.max_epochs": 1,
        "trainer.accumulate_grad_batches": 1,
        "trainer.trackers": "[]",
        "net.depth.out_scales": "[0]",
    }


@contextmanager
def counting() -> Iterator[Ledger]:
    """Count collectives: torch's functions, and the sums of gradients, one per bucket of DistributedDataParallel."""
    ledger, c10d = Ledger(), distributed.distributed_c10d
    real = {name: getattr(c10d, name) for name in COLLECTIVES}

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            is_norm = sys._getframe(1).f_code.co_filename == batchnorm.__file__
            ledger.note("BatchNorm" if is_norm else "other", *args, *kwargs.values())
            return function(*args, **kwargs)

        return call

    def summed(_: Any, bucket: Any) -> Any:
        """Stand in for the sum over all processes, whose fake has no result that C++ could take."""
        ledger.note("gradients", bucket.buffer())
        done: Any = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    # torch compares the objects, and finds only names here.
    summed.__annotations__ = {"bucket": distributed.GradBucket, "return": torch.futures.Future[Tensor]}

    class WithHook(DistributedDataParallel):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.register_comm_hook(None, summed)

    try:
        for name, function in real.items():
            setattr(c10d, name, counted(function))
            setattr(distributed, name, getattr(c10d, name))
        torch.nn.parallel.DistributedDataParallel = WithHook  # type: ignore[misc]
        yield ledger
    finally:
        torch.nn.parallel.DistributedDataParallel = DistributedDataParallel  # type: ignore[misc]
        for name, function in real.items():
            setattr(c10d, name, function)
            setattr(distributed, name, function)


def sampler_costs(world: int) -> dict[str, float]:
    """Measure the order of a large data set on one process: peak of its memory, and seconds to its first batch."""
    tracemalloc.start()
    began = time.process_time()
    next(iter(EpochBatches(MANY_ITEMS, PER_PROCESS * world, rank=0, world=world, shuffle=True, drop_last=True)))
    seconds = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"sampler_mb": peak / 1e6, "sampler_s": seconds}


if __name__ == "__main__":
    raise SystemExit(main())
