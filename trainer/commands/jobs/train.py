"""One training run from parsed arguments to exit code, shared by `train` and `train_dev`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, NoReturn

from trainer.commands.cli import leave, outliving, say
from trainer.commands.jobs.timings import CONFIGURATION, IMPORTS, Stopwatch
from trainer.config import Config, load_config
from trainer.config.plugins import load_plugins, naming_plugins
from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite
from trainer.runtime.processes import is_first_process, lost_peer
from trainer.runtime.rundir import RunDir, installed_version, read_hparams
from trainer.runtime.signals import Preempted, StopSignals
from trainer.training.guard import NonFiniteLoss
from trainer.training.run import Run, build_run

LAST_WORD = 2.0  # seconds in which a launcher finds out who died first


def run(args: argparse.Namespace) -> int:
    """Build the run, train it to its end, say where everything is; return 0, 1, or 128 + signal.

    Raises UserError for what is wrong before training starts.
    """
    watch = Stopwatch()
    watch.lap(IMPORTS)
    with outliving():
        load_plugins(args.plugins)
        folder = RunDir(args.ckpt_dir, args.name, args.version, is_main=is_first_process())
        with naming_plugins(_earlier(folder), folder.hparams_path):
            cfg = load_config(args.cfg_file, args.cfg_default, args.set)
        watch.lap(CONFIGURATION)
        with closing(folder):
            job = _build(args, cfg, folder, watch.lap)
            if args.timings:
                watch.show_after_first_step(job.loop)
            for note in job.notes:
                job.loop.recorder.progress.message(f"note: {note}")
            return _train(job)


def _build(args: argparse.Namespace, cfg: Config, folder: RunDir, lap: Callable[[str], None]) -> Run:
    try:
        return build_run(
            cfg,
            folder,
            seed=args.seed,
            hparams=_hparams(args, cfg),
            command=sys.argv,
            progress=args.progress,
            lap=lap,
        )
    except RuntimeError as error:
        told = lost_peer(error)
        if told is None:
            raise
        say(_without_a_peer("before the first step", told))
        _leave_after_the_dead()


def _train(job: Run) -> int:
    loop = job.loop
    began = loop.state.position
    with StopSignals():  # a launcher that ends all processes because of one must not cut short the last words
        code, is_alone = _fit(job)
    if is_alone:
        _leave_after_the_dead()
    if code == 0:
        had_finished = loop.state.position == began
        title = "had finished before: nothing was trained" if had_finished else "finished"
        loop.recorder.progress.summary(_summary(job), title=title)
    several = loop.accelerator.num_processes > 1
    loop.accelerator.end_training()
    if several:
        leave(code)
    return code


def _fit(job: Run) -> tuple[int, bool]:
    """Train, note how it ended, say it when not well. Returns the exit code, and whether another process is gone."""
    loop, folder = job.loop, job.folder
    state, code, said, is_alone = "failed", 1, "", False
    try:
        loop.fit()
        state, code = "finished", 0
    except Preempted as stop:
        state, code = "preempted", 128 + stop.signum
        if loop.accelerator.is_main_process:  # the others would say the same
            said = (
                f"{stop} after step {loop.state.position.step}; `last` is saved, the same command continues"
            )
    except (NonFiniteLoss, UserError) as error:  # told as sentences: their traceback would help nobody
        said = f"error{_where()}: {error}"
    except RuntimeError as error:
        told = lost_peer(error)
        if told is None:
            raise
        is_alone, said = True, _without_a_peer(f"after step {loop.state.position.step}", told)
    finally:
        try:
            folder.write_state(state, loop.state.position)
        except CannotWrite as error:  # it must not hide what happened before
            said = "\n".join(filter(None, [said, f"error: {error}"]))
        finally:
            loop.recorder.tracker.close()
    if said:
        say(said)
    return code, is_alone


def _where() -> str:
    return f" [process {os.environ.get('RANK')}]" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""


def _without_a_peer(when: str, told: str) -> str:
    """Say that another process is gone, and what is left."""
    unsure = (
        "" if is_first_process() else " If `state.json` goes on saying running, it was process 0 that died."
    )
    return (
        f"error{_where()}: another process died or fell silent {when} ({told}); its own message, if it left one, tells"
        f" why. `last` holds the latest save, and the same command continues.{unsure}"
    )


def _leave_after_the_dead() -> NoReturn:
    """Leave with 1, but not before the launcher has seen who died: it names the first as the root cause.

    Leaving the process group in order would wait for the others.
    """
    time.sleep(LAST_WORD if "TORCHELASTIC_RUN_ID" in os.environ else 0.0)
    leave(1)


def _summary(job: Run) -> dict[str, str]:
    state, folder, monitor = job.loop.state, job.folder, job.loop.settings.monitor
    best = "none: nothing was validated"
    if state.best is not None and state.best_epoch is not None:
        best = f"{state.best:.4g} (epoch {state.best_epoch + 1})"
    rows = {
        f"best {monitor}": best,
        "steps": str(state.position.step),
        "best": str(folder.best_path) if state.best is not None else "-",
        "last": str(folder.last_path),
        "tensorboard": f"tensorboard --logdir {folder.path}",
    }
    stopping = job.loop.stopping
    if stopping is not None and stopping.stop:
        rows["stopped early"] = stopping.reason
    if "AbsRel" in state.metrics:  # where there is no true depth, there is nothing to evaluate against
        rows["evaluate"] = f"evaluate --ckpt {folder.path}"
    return rows


def _earlier(folder: RunDir) -> dict[str, Any]:
    """What the run was made of when it was started before; nothing where that cannot be read."""
    try:
        return read_hparams(folder.hparams_path)
    except UserError:
        return {}


def _hparams(args: argparse.Namespace, cfg: Config) -> dict[str, Any]:
    return {
        "name": args.name,
        "version": str(args.version),
        "seed": args.seed,
        "trainer_version": installed_version(),
        **({"plugins": args.plugins} if args.plugins else {}),
        "config": cfg.to_dict(),
    }
