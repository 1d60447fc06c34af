"""One training run from parsed arguments to exit code, shared by `train` and `train_dev`."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from typing import Any

from launch._cli import is_first_process
from trainer.assemble import Run, build_run
from trainer.atomic import CannotWrite
from trainer.config import Config, load_config
from trainer.loop import NonFiniteLoss
from trainer.plugins import load_plugins, naming_plugins
from trainer.rundir import RunDir, installed_version, read_hparams
from trainer.signals import Preempted
from trainer.types import UserError


def run(args: argparse.Namespace) -> int:
    """Build the run, train it to its end, say where everything is; return 0, 1, or 128 + signal.

    Raises UserError for what is wrong before training starts.
    """
    load_plugins(args.plugins)
    folder = RunDir(args.ckpt_dir, args.name, args.version, is_main=is_first_process())
    with naming_plugins(_earlier(folder), folder.hparams_path):
        cfg = load_config(args.cfg_file, args.cfg_default, args.set)
    with closing(folder):
        job = build_run(
            cfg, folder, seed=args.seed, hparams=_hparams(args, cfg), command=sys.argv, progress=args.progress
        )
        for note in job.notes:
            job.loop.recorder.progress.message(f"note: {note}")
        return _train(job)


def _train(job: Run) -> int:
    loop, folder = job.loop, job.folder
    state, code, said = "failed", 1, ""
    began = loop.state.position
    try:
        loop.fit()
        state, code = "finished", 0
    except Preempted as stop:
        state, code = "preempted", 128 + stop.signum
        said = f"{stop} after step {loop.state.position.step}; `last` is saved, the same command continues"
    except (NonFiniteLoss, UserError) as error:  # told as sentences: their traceback would help nobody
        said = f"error: {error}"
    finally:
        try:
            folder.write_state(state, loop.state.position)
        except CannotWrite as error:  # it must not hide what happened before
            said = "\n".join(filter(None, [said, f"error: {error}"]))
        finally:
            loop.recorder.tracker.close()
    if said:
        print(said, file=sys.stderr)
    if code == 0:
        had_finished = loop.state.position == began
        title = "had finished before: nothing was trained" if had_finished else "finished"
        loop.recorder.progress.summary(_summary(job), title=title)
    several = loop.accelerator.num_processes > 1
    loop.accelerator.end_training()
    if several:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End a process of several at once, when everything is saved and closed.

    An ordinary return would free the DDP wrapper, and with it the last hold on the process group, whose destructor
    joins a thread that may be waiting for the interpreter: now and then a rank hung there for ever, its work done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
