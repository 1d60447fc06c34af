"""A trace of some training steps by torch.profiler, for `--profile`: what ran when, on the CPU and on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from trainer.runtime import files
from trainer.runtime.files import CannotWrite

WARM_UP = 5  # steps before it: workers start, memory is taken, algorithms are chosen, networks compiled


@contextmanager
def profiled(loop: Any, steps: int | None, folder: Path) -> Iterator[None]:
    """Trace `steps` optimizer steps that `loop` takes in this block, after WARM_UP; None = trace nothing.

    Each process writes `profile/process_<rank>_step_<last step>.pt.trace.json` in `folder`. A block that ends earlier
    leaves the steps that it has taken. Parts of a step carry the names of their timers.
    """
    if steps is None:
        yield
        return
    recorder, step, part = loop.recorder, loop.step, loop.recorder.part
    written: list[Path] = []

    def write(profile: Any) -> None:
        rank, last = loop.accelerator.process_index, loop.state.position.step
        path = folder / "profile" / f"process_{rank}_step_{last}.pt.trace.json"
        written.append(path)
        try:
            files.make_folder(path.parent)
            with files.replacing(path) as staged:
                profile.export_chrome_trace(str(staged))
        except CannotWrite as error:  # informative only
            recorder.progress.message(f"warning: no profile: {error}")
            return
        recorder.progress.message(
            f"profile up to step {last}: {path}. Open it on https://ui.perfetto.dev, or with `tensorboard --logdir"
            f" {folder}` and the plugin torch-tb-profiler"
        )

    profile = torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=WARM_UP - 1, warmup=1, active=steps, repeat=1),
        on_trace_ready=write,
        acc_events=True,  # there is one cycle only; without it torch warns of several
    )

    def traced(batches: list[Any]) -> None:
        step(batches)
        profile.step()

    @contextmanager
    def named(name: str) -> Iterator[None]:
        with torch.profiler.record_function(name), part(name):
            yield

    loop.step, recorder.part = traced, named
    profile.start()
    try:
        yield
    finally:
        profile.stop()
        loop.step, recorder.part = step, part
        if not written:
            recorder.progress.message(f"no profile: the run ended within the {WARM_UP} steps before it")
