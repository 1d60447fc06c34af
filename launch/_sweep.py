"""A sweep: which runs there are, what each still lacks, doing that, and saying how it went."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch._child import Children, last_words
from launch._sweep_slurm import write_script
from trainer.atomic import CannotWrite
from trainer.checkpoint import find_checkpoint
from trainer.config import load_config
from trainer.metrics.align import ALIGNMENTS
from trainer.plugins import load_plugins
from trainer.rundir import RunDir, diff_config, read_hparams
from trainer.types import UserError

LAUNCH = Path(__file__).parent
BUSY_SECONDS = 5.0  # between looks at a run that another process holds
GOOD = ("finished", "was finished")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run: the command, where the numbers go, the files that say what is evaluated."""

    command: list[str]
    save: Path
    files: tuple[Path, ...]

    @property
    def written(self) -> list[Path]:
        """The result files that are there: `save`, or one for each of several alignments."""
        names = [self.save, *(self.save.with_stem(f"{self.save.stem}_{name}") for name in ALIGNMENTS)]
        return [path for path in names if path.is_file()]


@dataclass
class Job:
    """One run of the sweep."""

    folder: RunDir
    config: dict[str, Any]  # resolved, as hparams.yaml has it
    train: list[str]
    evaluations: list[Evaluation]
    outcome: str = "not started"
    note: str = ""
    seconds: float = 0.0

    @property
    def label(self) -> str:
        """<name>/<seed>"""
        return "/".join(self.folder.path.parts[-2:])

    @property
    def log(self) -> Path:
        """What the commands of this run said."""
        return self.folder.path / "sweep.log"

    def is_trained(self) -> bool:
        """True when the run has reached its end with the settings it would be started with now."""
        if not self.folder.is_finished:
            return False
        try:
            return not diff_config(read_hparams(self.folder.hparams_path)["config"], self.config)
        except UserError:
            return False

    def is_evaluated(self, evaluation: Evaluation) -> bool:
        """True when the numbers are those of the checkpoint as it is now, asked for by the same command."""
        with suppress(OSError, UserError):
            written = min((path.stat().st_mtime for path in evaluation.written), default=0.0)
            made_from = [find_checkpoint(self.folder.path), *evaluation.files]
            said = [
                line[2:]
                for line in self.log.read_text(errors="replace").splitlines()
                if line.startswith("$ ")
            ]
            asked = [line for line in said if str(evaluation.save) in line]
            same = asked[-1:] == [shlex.join(evaluation.command)]
            return same and all(path.stat().st_mtime <= written for path in made_from)
        return False

    def missing(self) -> list[list[str]]:
        """The commands that still have to be run."""
        trained = self.is_trained()
        todo = [] if trained else [self.train]
        return todo + [e.command for e in self.evaluations if not (trained and self.is_evaluated(e))]

    def is_held(self) -> bool:
        """True while another process trains here."""
        if not self.folder.path.exists():
            return False
        try:
            self.folder.open()
        except CannotWrite:
            raise
        except UserError:
            return True
        self.folder.close()
        return False


def run(args: argparse.Namespace) -> int:
    """Do what is missing; return 0, 1 when something failed, 128 + signal when stopped.

    Raises UserError for what is wrong before anything starts.
    """
    load_plugins(args.plugins)
    jobs = make_jobs(args)
    if args.slurm:
        write_script(args, [job.label for job in jobs])
        return 0
    if args.only is not None:
        if not 0 <= args.only < len(jobs):
            raise UserError(f"--only {args.only}: the sweep has {len(jobs)} runs, counted from 0")
        jobs = [jobs[args.only]]
    if args.dry_run:
        commands = [shlex.join(command) for job in jobs for command in job.missing()]
        print("\n".join(commands) or "nothing is missing")
        return 0
    with Children() as children:
        work(jobs, children, args.stop_on_failure)
    if children.received is not None:
        summarise(jobs)
        print("stopped; the same command continues", file=sys.stderr)
        return 128 + children.received
    code = 0 if args.only is not None or args.no_evaluate else tabulate(args, jobs)
    summarise(jobs)
    return code if all(job.outcome in GOOD for job in jobs) else 1


def make_jobs(args: argparse.Namespace) -> list[Job]:
    """List the runs, configuration by configuration. Raises UserError with all that is wrong with the files."""
    problems = [f"--evaluate {path}: no such file" for path in args.evaluate or () if not path.is_file()]
    names = [path.stem for path in args.cfg_file]
    problems += [
        f"--cfg-file: two files are called {name}: each needs a name of its own, it becomes the name of the run"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    configs = {path: _resolved(path, args, problems) for path in args.cfg_file}
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return [_job(args, path, config, seed) for path, config in configs.items() for seed in args.seeds]


def _resolved(path: Path, args: argparse.Namespace, problems: list[str]) -> dict[str, Any]:
    """The configuration of one file; what is wrong with it is added to `problems`."""
    try:
        return load_config(path, args.cfg_default, args.set).to_dict()
    except UserError as error:
        problems.append(str(error))
        return {}


def _job(args: argparse.Namespace, path: Path, config: dict[str, Any], seed: int) -> Job:
    folder = RunDir(args.ckpt_dir, path.stem, str(seed))
    plugins = ["--plugins", *args.plugins] if args.plugins else []
    defaults = ["-d", *map(str, args.cfg_default)] if args.cfg_default else []
    changes = ["--set", *args.set] if args.set else []
    launcher = shlex.split(args.launch) or [sys.executable]
    train = [*launcher, str(LAUNCH / "train.py"), "-c", str(path), *defaults, "-o", str(args.ckpt_dir)]
    train += ["-n", path.stem, "-v", str(seed), "-s", str(seed), "--progress", "plain", *changes, *plugins]
    evaluations = []
    for file in () if args.no_evaluate else args.evaluate or (None,):
        save = folder.results / f"sweep_{file.stem if file else 'test'}.yaml"
        command = [
            sys.executable,
            str(LAUNCH / "evaluate.py"),
            "--ckpt",
            str(folder.path),
            "--save",
            str(save),
        ]
        command += ["-c", str(file)] if file else []
        command += [*plugins, *shlex.split(args.evaluate_args)]
        evaluations.append(Evaluation(command, save, (file,) if file else ()))
    return Job(folder, config, train, evaluations)


def work(jobs: Sequence[Job], children: Children, stop_on_failure: bool = False) -> None:
    """Do what each run lacks; a run that another process holds is looked at again when nothing else is left."""
    waiting = list(jobs)
    while waiting and children.received is None:
        for job in list(waiting):
            start = time.monotonic()
            _advance(job, children, f"[{jobs.index(job) + 1}/{len(jobs)}] {job.label}")
            job.seconds += time.monotonic() - start
            if job.outcome != "busy":
                waiting.remove(job)
            if children.received is not None or (stop_on_failure and job.outcome == "failed"):
                return
        if waiting:
            children.wait(BUSY_SECONDS)


def _advance(job: Job, children: Children, label: str) -> None:
    """Train and evaluate one run as far as needed and note the outcome."""
    was_trained = job.is_trained()
    if not was_trained and not _train(job, children, label):
        return
    for evaluation in job.evaluations:
        if job.is_evaluated(evaluation):
            continue
        if children.received is not None:
            job.outcome = "stopped"
            return
        _say(f"{label}: evaluating, {evaluation.save.name}")
        code = children.run(evaluation.command, job.log)
        if code:
            _fail(job, code, children, label, "evaluation")
            return
        job.note = "evaluated"
    job.outcome = "was finished" if was_trained else "finished"
    _say(f"{label}: {job.outcome}")


def _train(job: Job, children: Children, label: str) -> bool:
    """Train one run to its end; False, with the outcome noted, where that is not reached."""
    if job.is_held():
        if job.outcome != "busy":
            _say(f"{label}: another process trains here; looked at again later")
        job.outcome = "busy"
        return False
    state = job.folder.read_state()
    _say(f"{label}: {f'continuing after step {state.step}' if state else 'training'}, log {job.log}")
    code = children.run(job.train, job.log, job.folder)
    return _accept_training(job, code, children, label)


def _accept_training(job: Job, code: int, children: Children, label: str) -> bool:
    """True when the training reached its end; else note what happened."""
    if code == 0 and job.folder.is_finished:
        return True
    state = job.folder.read_state()
    if children.received is None and code != 0 and job.is_held():
        job.outcome = "busy"  # another sweep was quicker
    elif children.received is not None or (state is not None and state.state == "preempted"):
        job.outcome = "stopped"
        _say(f"{label}: stopped after step {state.step if state else 0}")
    else:
        _fail(job, code, children, label, "training")
    return False


def _fail(job: Job, code: int, children: Children, label: str, what: str) -> None:
    if children.received is not None:
        job.outcome = "stopped"
        return
    job.outcome, job.note = "failed", f"{what}, exit code {code}: {last_words(job.log)}"
    _say(f"{label}: failed: {job.note}")


def tabulate(args: argparse.Namespace, jobs: Sequence[Job]) -> int:
    """Tabulate what the runs of the sweep reached so far; return the exit code of that."""
    from launch.generate_tables import main

    written = [path for job in jobs for evaluation in job.evaluations for path in evaluation.written]
    if not written:
        return 0
    models = dict.fromkeys(path.parents[2].name for path in written)
    files = dict.fromkeys(path.name for path in written)
    chosen = ["--models", *models, "--seeds", *map(str, args.seeds), "--file", *files]
    plugins = ["--plugins", *args.plugins] if args.plugins else []
    out = ["--out", str(args.ckpt_dir / "tables")]
    return main([str(args.ckpt_dir), *chosen, *out, *plugins, *shlex.split(args.tables_args)])


def summarise(jobs: Sequence[Job]) -> None:
    """Print how each run stands."""
    frame = Table(title="runs", title_justify="left")
    for title in ("run", "outcome", "epoch", "step", "time", "note"):
        frame.add_column(
            title, justify="right" if title in ("epoch", "step", "time") else "left", overflow="fold"
        )
    for job in jobs:
        state = job.folder.read_state()
        place = [str(state.epoch), str(state.step)] if state else ["-", "-"]
        cells = [job.label, job.outcome, *place, f"{job.seconds:.0f} s", job.note]
        frame.add_row(*map(Text, cells))
    Console(width=None if sys.stdout.isatty() else 160).print(frame)


def _say(text: str) -> None:
    print(text, flush=True)
