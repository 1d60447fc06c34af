"""One training run from parsed arguments to exit code, shared by `train` and `train_dev`."""

from __future__ import annotations

import argparse
import sys

from launch._cli import is_first_process
from trainer.build import build_run
from trainer.config import load_config
from trainer.loop import NonFiniteLoss
from trainer.rundir import RunDir
from trainer.signals import Preempted


def run(args: argparse.Namespace) -> int:
    """Build the run, train it to its end, close everything; return 0, 1, or 128 + signal."""
    from importlib.metadata import version

    cfg = load_config(args.cfg_file, args.cfg_default, args.set)
    hparams = {
        "name": args.name,
        "version": args.version,
        "seed": args.seed,
        "trainer_version": version("monodepth-trainer"),
        "config": cfg.to_dict(),
    }
    folder = RunDir(args.ckpt_dir, args.name, args.version, is_main=is_first_process())
    state, code, message = "failed", 1, ""
    job = None
    try:
        job = build_run(cfg, folder, seed=args.seed, hparams=hparams, command=sys.argv, progress=args.progress)
        job.loop.fit()
        state, code = "finished", 0
    except Preempted as stop:
        state, code, message = "preempted", 128 + stop.signum, f"{stop}; `last` is saved, the same command continues"
    except NonFiniteLoss as error:
        message = f"error: {error}"
    finally:
        if job is not None:
            folder.write_state(state, job.loop.state.position)
            job.close()
        folder.close()
    if message and (is_first_process() or code == 1):
        print(message, file=sys.stderr)
    return code
