"""One training run from parsed arguments to exit code, shared by `train` and `train_dev`."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from trainer import __version__
from trainer.checkpoint.state import Position
from trainer.commands.jobs.profiling import profiled
from trainer.commands.jobs.timings import CONFIGURATION, IMPORTS, Stopwatch
from trainer.config import Config, ConfigError, load_config
from trainer.config.plugins import load_plugins, naming_plugins, with_plugins
from trainer.data.base import DepthDataset
from trainer.data.files.paths import DataNotFound
from trainer.metrics.camera import LearnedCamera
from trainer.metrics.validation import shown_name
from trainer.objective.compiling import CompiledFormulas
from trainer.runtime.environment import emulates_bf16
from trainer.runtime.errors import UserError, exhausted
from trainer.runtime.files import CannotWrite
from trainer.runtime.processes import check_launcher, is_first_process, lost_peer
from trainer.runtime.rundir import RunDir, read_hparams
from trainer.runtime.signals import Preempted, StopSignals
from trainer.runtime.streams import leave, outliving, say
from trainer.tracking.health import GRACE_STEPS, learned
from trainer.training.guard import NonFiniteLoss
from trainer.training.loop import Loop
from trainer.training.run import Run, build_run

AGAIN = "the same command continues there"
LAST_WORD = 2.0  # seconds for the launcher to find out who died first


def run(args: argparse.Namespace, again: str = AGAIN) -> int:
    """Build the run, train it to its end, print where the results are; return 0, 1, or 128 + signal.

    `again` ends the message of a run that was stopped: what the same command does next. Raises UserError for mistakes
    found before training starts.
    """
    check_launcher()
    with outliving(), Stopwatch() as watch:
        watch.lap(IMPORTS)
        load_plugins(args.plugins)
        folder = RunDir(args.ckpt_dir, args.name, args.version, is_main=is_first_process())
        with naming_plugins(_earlier(folder), folder.hparams_path):
            cfg = _load(args)
        watch.lap(CONFIGURATION)
        with closing(folder):
            if not any(folder.ckpts.glob("*.safetensors")):
                watch.starts_anew()
            job = _build(args, cfg, folder, watch.lap)
            watch.watch_first_step(job.loop, args.timings, _only_at_first(cfg, job.loop))
            if job.loop.accelerator.is_main_process:
                job.loop.recorder.progress.summary(_banner(job))
            for note in job.notes:
                job.loop.recorder.progress.message(note if note.startswith("warning: ") else f"note: {note}")
            began = job.loop.state.position
            # A launcher that ends all processes because of one must not cut short the last words.
            with StopSignals(), _ending(job, again) as end, profiled(job.loop, args.profile, folder.path):
                job.loop.fit()
            return _leave(job, end, had_finished=job.loop.state.position == began)


def _load(args: argparse.Namespace) -> Config:
    try:
        return load_config(args.cfg_file, args.cfg_default, args.set)
    except ConfigError as error:
        if not any(": missing" in problem for problem in error.problems):
            raise
        base = " ".join(map(str, args.cfg_default)) or "nothing"
        advice = "a page of your own goes behind the one that it changes, -c <page> <yours>, or on top of a -d <page>"
        raise UserError(f"{error}\n{args.cfg_file[0]} was built on {base}; {advice}") from error


def _build(args: argparse.Namespace, cfg: Config, folder: RunDir, lap: Callable[[str], None]) -> Run:
    hparams = {
        "name": args.name,
        "version": str(args.version),
        "seed": args.seed,
        "trainer_version": __version__,
        **({"plugins": args.plugins} if args.plugins else {}),
        "config": cfg.to_dict(),
    }
    try:
        return build_run(
            cfg, folder, seed=args.seed, hparams=hparams, command=sys.argv, progress=args.progress, lap=lap
        )
    except DataNotFound as error:
        pages = " ".join(map(str, args.cfg_file))
        raise UserError(f"{error}\n{pages} needs these data; the page synthetic/monodepth2_MS needs no data") from error
    except RuntimeError as error:
        reason = lost_peer(error)
        if reason is None:
            raise
        say(_without_a_peer("before the first step", reason))
        _leave_after_the_dead()


def _only_at_first(cfg: Config, loop: Loop) -> str:
    """Say what only the first step does, which takes long for some settings."""
    if cfg.trainer.compile is not None:
        return "compiling the networks takes minutes"
    if isinstance(loop.objective.fused, CompiledFormulas):
        return "compiling the losses takes a minute"
    is_tried = cfg.trainer.benchmark and loop.accelerator.device.type == "cuda"
    return "cuDNN tries its algorithms" if is_tried else ""


@dataclass
class _End:
    """How training ended: state for `state.json`, exit code, last words, and whether another process is gone."""

    state: str = "failed"
    code: int = 1
    words: str = ""
    lost_peer: bool = False
    interrupted: bool = False  # at once, by a second Ctrl-C: nobody is waited for


@contextmanager
def _ending(job: Run, again: str) -> Iterator[_End]:
    """Turn the expected ends of training into an exit code and a sentence, and write them down; close the trackers.

    `again` says what the same command does next. `state.json` gets the step that `last` holds, not one that is lost.
    """
    loop, end = job.loop, _End()
    try:
        yield end
        end.state, end.code = "finished", 0
    except Preempted as stop:
        end.state, end.code = "preempted", 128 + stop.signum
        if loop.accelerator.is_main_process:  # the others would say the same
            end.words = f"{stop}; {_saved(job, again)}"
    except (NonFiniteLoss, UserError) as error:  # sentences: their traceback would help nobody
        end.words = f"error{_where()}: {error}"
    except KeyboardInterrupt:
        end.state, end.code, end.interrupted = "preempted", 130, True
        if loop.accelerator.is_main_process:
            end.words = f"stopped after step {loop.state.position.step} without saving; {_saved(job, again)}"
    except Exception as error:
        if known := exhausted(error):
            end.words = f"error{_where()}: {known}; {_saved(job, again)}"
        elif reason := lost_peer(error):
            end.lost_peer = True
            end.words = _without_a_peer(f"after step {loop.state.position.step}", reason, _saved(job, again))
        else:
            raise
    finally:
        try:
            held = loop.saver.checkpointer.position_of_last() or Position()
            job.folder.write_state(end.state, held, *learned(loop.state.judged, held.step))
        except CannotWrite as error:  # it must not hide what happened before
            end.words = "\n".join(filter(None, [end.words, f"error: {error}"]))
        finally:
            loop.recorder.tracker.close()
    if end.words:
        say(end.words)


def _leave(job: Run, end: _End, had_finished: bool) -> int:
    """Print the summary of a finished run and part from the other processes; return the exit code."""
    if end.lost_peer:
        _leave_after_the_dead()
    if end.interrupted:
        leave(end.code)
    if end.code == 0:
        title = "had finished before: nothing was trained" if had_finished else "finished"
        job.loop.recorder.progress.summary(_summary(job), title=title)
    several = job.loop.accelerator.num_processes > 1
    job.loop.accelerator.end_training()
    if several:
        leave(end.code)
    return end.code


def _saved(job: Run, again: str) -> str:
    """Say which step `last` holds, as the end of a sentence, and what comes next."""
    held = job.loop.saver.checkpointer.position_of_last()
    return f"`last` holds step {held.step}, {again}" if held else "nothing is saved yet, the same command starts anew"


def _where() -> str:
    return f" [process {os.environ.get('RANK')}]" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""


def _without_a_peer(when: str, reason: str, saved: str = "the same command starts again") -> str:
    unsure = "" if is_first_process() else " If `state.json` still says running, it was process 0 that died."
    return (
        f"error{_where()}: another process died or fell silent {when} ({reason}); see its own message, if it left"
        f" one; {saved}.{unsure}"
    )


def _leave_after_the_dead() -> NoReturn:
    """Exit with 1 once the launcher has seen who died: it reports the first as the root cause.

    Leaving the process group in order would wait for the others.
    """
    time.sleep(LAST_WORD if "TORCHELASTIC_RUN_ID" in os.environ else 0.0)
    leave(1)


def _banner(job: Run) -> dict[str, str]:
    """Return what this start is about to do."""
    loop, accelerator, settings, position = job.loop, job.loop.accelerator, job.loop.settings, job.loop.state.position
    begins = "had finished" if loop.is_finished() else f"continued at step {position.step}, epoch {position.epoch + 1}"
    device, number = accelerator.device, accelerator.num_processes
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    precision = accelerator.mixed_precision.replace("no", "32 bit")
    if device.type == "cuda":
        uses_tf32 = torch.backends.cudnn.allow_tf32
        precision += ", products of 32 bit in TF32" if uses_tf32 else " (trainer.matmul_precision: high allows TF32)"
    elif precision == "bf16" and emulates_bf16(device.type):
        precision += ", for which this processor has no instructions: trainer.precision: 32 is many times faster"
    train, val = loop.train_loader, loop.val_loader
    steps = math.ceil(loop.batches_per_epoch / settings.accumulate)
    epochs, budget = settings.max_epochs, loop.budget
    ends = f"; at most {budget.minutes:g} minutes, {budget.seconds / 60:.3g} of them used" if budget.minutes else ""
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in loop.objective.networks.items()}
    trained = sum(p.numel() for p in loop.parameters)
    parameters = ", ".join(f"{name} {_millions(size)}" for name, size in sizes.items())
    return {
        "run": f"{job.folder.path}: {begins if position.step else 'new'}",
        "devices": f"{number} process{'es' * (number > 1)} on {device.type}{gpu}, networks in {precision}",
        "items": f"{len(train.dataset)} train, {0 if val is None else val.batch_sampler.num_items} val; batches of"
        f" {train.batch_sampler.batch_size}",
        **_loading(train),
        "networks": f"{parameters} parameters" + f", {_millions(trained)} trained" * (trained < sum(sizes.values())),
        "camera": _camera(train.dataset),
        "training": f"{epochs} epoch{'s' * (epochs > 1)} of {steps} steps, {epochs * steps} in all{ends}",
    }


def _loading(loader: Any) -> dict[str, str]:
    """Return the number of workers and its reason where it was chosen."""
    why: str = getattr(loader, "why_workers", "")
    return {"loading": f"{loader.num_workers} worker{'s' * (loader.num_workers != 1)} ({why})"} if why else {}


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M"


def _camera(dataset: DepthDataset) -> str:
    """Write K of the first item in fractions of the picture, and whether it is used."""
    if dataset.guesses_K and dataset.K_is_learned:
        return "learned; the data do not know it"
    try:
        item = dataset[0]
        K, (height, width) = item["K"], item["target"].shape[-2:]
    except (UserError, KeyError) as error:  # one bad item stops nothing
        return f"unknown ({type(error).__name__}: {error})"
    names = {"fx": K[0, 0] / width, "fy": K[1, 1] / height, "cx": K[0, 2] / width, "cy": K[1, 2] / height}
    numbers = " ".join(f"{name} {float(value):.3f}" for name, value in names.items())
    learned = "learned; the data say " if dataset.K_is_learned else ""
    return f"{learned}{numbers}, fractions of {width} x {height} pixels (first train item)"


def _summary(job: Run) -> dict[str, str]:
    state, folder, monitor = job.loop.state, job.folder, job.loop.settings.monitor
    nothing, ratio = learned(state.judged, state.position.step)
    best = "none: nothing was validated"
    if state.best is not None and state.best_epoch is not None:
        known, val = job.loop.recorder.scored, job.loop.val_loader
        count = known or (0 if val is None else val.batch_sampler.num_items)
        items = f", mean of {count} val item{'s' * (count > 1)}" if count else ""
        name = "" if monitor == "AbsRel" else "AbsRel "
        beside = "" if ratio is None else f"; {name}{ratio:.2f} times that of a constant depth"
        best = f"{state.best:.4g} (epoch {state.best_epoch + 1}{items}{beside})"
    rows = {f"best {shown_name(monitor)}": best}
    if nothing:
        advice = "see the warnings above, or `What goes wrong` in docs/tasks/debug.md"
        rows["learned"] = f"{nothing}; {advice if state.position.step >= GRACE_STEPS else 'train longer'}"
    rows |= {
        "steps": str(state.position.step),
        "best": str(folder.best_path) if state.best is not None else "-",
        "last": str(folder.last_path),
        "tensorboard": f"tensorboard --logdir {folder.path}",
    }
    if state.camera is not None:
        rows["camera learned"] = LearnedCamera.from_dict(state.camera).words
    if (stopping := job.loop.stopping) and stopping.stop:
        rows["stopped early"] = stopping.reason
    if (budget := job.loop.budget).is_spent and state.position.epoch < job.loop.settings.max_epochs:
        rows["ended early"] = f"{budget.reason}; with a larger one the same command goes on from here"
    path = shlex.quote(str(folder.path))
    measured = "AbsRel" in state.metrics  # with true depth
    following = f"monodepth evaluate --ckpt {path}" if measured else f"monodepth predict {path} PICTURE"
    rows["next"] = with_plugins(following, _earlier(folder).get("plugins") or [])
    return rows


def _earlier(folder: RunDir) -> dict[str, Any]:
    try:
        return read_hparams(folder.hparams_path)
    except UserError:
        return {}
