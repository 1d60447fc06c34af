"""Run a sweep: `train`, then `evaluate`, for every configuration and seed, then tables. Resuming is left to `train`."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import string
import sys
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint import find_checkpoint
from trainer.commands.jobs.children import call, last_words
from trainer.config import load_config
from trainer.config.pages import default_beside
from trainer.config.plugins import load_plugins
from trainer.metrics.align import ALIGNMENTS
from trainer.runtime import files
from trainer.runtime.errors import UserError, listed
from trainer.runtime.rundir import RunDir, diff_config, read_hparams
from trainer.runtime.signals import StopSignals

COMMANDS = Path(__file__).parents[1]
TEMPLATE = Path(__file__).with_name("sweep_array.sbatch.in")
IN_USE = "another run is writing here"  # from the error of `train`
RETRY_SECONDS = 30.0  # when other processes train all runs that are left
LONGEST_NAME = 100  # of options as part of a file name
COMPLETE = ("finished", "was finished")


@dataclass(frozen=True)
class Step:
    """One command of a run: its training, or an evaluation that saves its result to `save`."""

    command: list[str]
    save: Path | None = None
    page: Path | None = None  # YAML file of the evaluation

    @property
    def name(self) -> str:
        return f"evaluation {self.save.stem}" if self.save else "training"

    @property
    def results(self) -> list[Path]:
        """Existing result files: `save`, or one for each of several alignments."""
        if self.save is None:
            return []
        names = [self.save, *(self.save.with_stem(f"{self.save.stem}_{name}") for name in ALIGNMENTS)]
        return [path for path in names if os.path.isfile(path)]


@dataclass
class Job:
    """One run of the sweep."""

    folder: RunDir
    seed: int
    config: dict[str, Any]  # resolved, as in hparams.yaml
    training: Step
    evaluations: list[Step]
    outcome: str = "not started"
    note: str = ""

    @property
    def label(self) -> str:
        """<name>/<seed>"""
        return "/".join(self.folder.path.parts[-2:])

    @property
    def log(self) -> Path:
        """File for the output of the commands."""
        return self.folder.path / "sweep.log"

    def missing(self) -> list[Step]:
        """The steps to run; a training is followed by all evaluations."""
        if self.untrained():
            return [self.training, *self.evaluations]
        return [step for step in self.evaluations if not self._is_evaluated(step)]

    def untrained(self) -> str:
        """Why `train` must run; "" when it finished with these settings and this seed. Asking it would take seconds."""
        if not self.folder.is_finished:
            return "not finished"
        try:
            hparams = read_hparams(self.folder.hparams_path)
        except UserError as error:
            return str(error)
        before = {**hparams["config"], "seed": hparams.get("seed", self.seed)}
        return listed(diff_config(before, {**self.config, "seed": self.seed}), 2)

    def _is_evaluated(self, step: Step) -> bool:
        """True when the results are newer than the checkpoint and the YAML file of the evaluation."""
        with suppress(OSError, UserError):
            sources = [find_checkpoint(self.folder.path), *([step.page] if step.page else [])]
            written = min((path.stat().st_mtime for path in step.results), default=0.0)
            return all(path.stat().st_mtime <= written for path in sources)
        return False


def run(args: argparse.Namespace) -> int:
    """Run what is missing; return 0, 1 when something failed, 128 + signal when stopped.

    Raises UserError for mistakes in the files and options, before anything starts.
    """
    load_plugins(args.plugins)
    jobs = list(make_jobs(args))
    _check_options(args, jobs[0])
    if args.only is not None:
        if not 0 <= args.only < len(jobs):
            raise UserError(f"--only {args.only}: the sweep has {len(jobs)} runs, counted from 0")
        jobs = [jobs[args.only]]
    if args.dry_run:
        commands = [shlex.join(step.command) for job in jobs for step in job.missing()]
        print("\n".join(commands) or "nothing is missing")
        return 0
    if args.slurm and args.only is None and not args.tables_only:
        write_script(args, jobs)
        return 0
    if args.tables_only:
        for job in jobs:
            job.note = job.untrained() or ", ".join(step.name for step in job.missing())
            job.outcome = "incomplete:" if job.note else "was finished"
    else:
        with StopSignals("stopping the running command, which saves; press Ctrl-C again to kill it") as stop:
            work(jobs, stop, args.stop_on_failure)
        if stop.received is not None:
            summarise(jobs)
            print("stopped; the same command continues", file=sys.stderr)
            return 128 + stop.received
    code = 0 if args.only is not None or args.no_evaluate else tabulate(args, jobs)
    summarise(jobs)
    return code if all(job.outcome in COMPLETE for job in jobs) else 1


def make_jobs(args: argparse.Namespace) -> Iterator[Job]:
    """Yield the runs, configuration by configuration. Raises UserError listing all mistakes in the files."""
    problems = [f"--evaluate {path}: no such file" for path in args.evaluate if not os.path.isfile(path)]
    problems += _same_names("--cfg-file", args.cfg_file, "run")
    problems += _same_names("--evaluate", args.evaluate, "result")
    configs = {path: _resolve(path, args, problems) for path in args.cfg_file}
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    for path, config in configs.items():
        for seed in args.seeds:
            folder = RunDir(args.ckpt_dir, path.stem, str(seed))
            yield Job(folder, seed, config, _training(args, path, seed), list(_evaluations(args, folder)))


def _same_names(option: str, paths: Sequence[Path], what: str) -> list[str]:
    return [
        f"{option}: two files are called {name}: rename one, the name of the file becomes the name of the {what}"
        for name, count in Counter(path.stem for path in paths).items()
        if count > 1
    ]


def _resolve(path: Path, args: argparse.Namespace, problems: list[str]) -> dict[str, Any]:
    """Load one configuration, or add its mistakes to `problems`."""
    try:
        base = default_beside([path]) if args.cfg_default is None else args.cfg_default
        return load_config(path, base, args.set).to_dict()
    except UserError as error:
        problems.append(str(error))
        return {}


def _options(**values: Sequence[object] | None) -> list[str]:
    """Spell options; those without values are left out, but for `cfg_default`, of which no value means no file."""
    given = {f"--{k.replace('_', '-')}": v for k, v in values.items() if v or (k == "cfg_default" and v is not None)}
    return [word for option, words in given.items() for word in (option, *map(str, words or ()))]


def _training(args: argparse.Namespace, path: Path, seed: int) -> Step:
    options = _options(
        cfg_file=[path],
        cfg_default=args.cfg_default,
        ckpt_dir=[args.ckpt_dir],
        name=[path.stem],
        version=[seed],
        seed=[seed],
        progress=["plain"],
        set=args.set,
        plugins=args.plugins,
    )
    return Step([*(shlex.split(args.launch) or [sys.executable]), str(COMMANDS / "train.py"), *options])


def _evaluations(args: argparse.Namespace, folder: RunDir) -> Iterator[Step]:
    """Yield the evaluations. Their further options are part of the file name: with other ones it is another result."""
    name = re.sub(r"[^\w.,+=-]+", "_", args.evaluate_args).strip("_")
    if len(name) > LONGEST_NAME:
        name = f"{zlib.crc32(name.encode()):08x}"
    for page in () if args.no_evaluate else args.evaluate or (None,):
        save = folder.results / f"{'_'.join(filter(None, ('sweep', page.stem if page else 'test', name)))}.yaml"
        options = _options(ckpt=[folder.path], save=[save], cfg_file=[page] if page else [], plugins=args.plugins)
        command = [sys.executable, str(COMMANDS / "evaluate.py"), *options, *shlex.split(args.evaluate_args)]
        yield Step(command, save, page)


def _check_options(args: argparse.Namespace, job: Job) -> None:
    """Parse the options of the later commands now: a wrong one must not surface after days of training."""
    from trainer.commands import evaluate, generate_tables

    for step in job.evaluations:
        evaluate.parse(step.command[2:])
    generate_tables.parse([str(args.ckpt_dir), *shlex.split(args.tables_args)])


def work(jobs: Sequence[Job], stop: StopSignals, stop_on_failure: bool = False) -> None:
    """Run what is missing, job by job; those that another process trains come last, again and again."""
    waiting = deque(jobs)
    while waiting and stop.received is None:
        job = waiting.popleft()
        _advance(job, stop, f"[{jobs.index(job) + 1}/{len(jobs)}] {job.label}")
        if stop_on_failure and job.outcome == "failed":
            return
        if job.outcome == "in use":
            waiting.append(job)
            if all(job.outcome == "in use" for job in waiting):
                retry = time.monotonic() + RETRY_SECONDS
                while time.monotonic() < retry and stop.received is None:
                    time.sleep(0.05)


def _advance(job: Job, stop: StopSignals, label: str) -> None:
    """Run the missing steps of one job and note the outcome."""
    missing = job.missing()
    for step in missing:
        if step.save or job.outcome != "in use":
            print(f"{label}: {step.name}, log {job.log}", flush=True)
        for path in step.results:  # out of date: they must not get into a table
            path.unlink()
        code = call(step.command, job.log, stop)
        if stop.received is not None:
            job.outcome = "stopped"
            return
        if code or (step.save and not step.results):
            words = last_words(job.log)
            how = f"killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
            before, is_in_use = job.outcome, step is job.training and IN_USE in words
            job.outcome, job.note = "in use" if is_in_use else "failed", f"{step.name}, {how}: {words}"
            if job.outcome != before:
                print(f"{label}: {job.outcome}: {job.note}", flush=True)
            return
    job.outcome, job.note = "finished" if missing else "was finished", ""
    print(f"{label}: {job.outcome}", flush=True)


def tabulate(args: argparse.Namespace, jobs: Sequence[Job]) -> int:
    """Tabulate the results of the complete runs, no other files; return the exit code."""
    from trainer.commands.generate_tables import main

    results = [p for job in jobs if job.outcome in COMPLETE for step in job.evaluations for p in step.results]
    if not results:
        return 0
    chosen = _options(
        models=list(dict.fromkeys(path.parents[2].name for path in results)),
        seeds=args.seeds,
        file=results,
        out=[args.ckpt_dir / "tables"],
        plugins=args.plugins,
    )
    return main([str(args.ckpt_dir), *chosen, *shlex.split(args.tables_args)])


def summarise(jobs: Sequence[Job]) -> None:
    """Print the outcome of each run with its epoch and step."""
    width = max(len(job.label) for job in jobs)
    for job in jobs:
        state = job.folder.read_state()
        place = f"epoch {state.epoch}, step {state.step}" if state else "no state"
        print(f"{job.label:<{width}}  {place:<24}  {job.outcome} {job.note}".rstrip())


def write_script(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Write an sbatch script to `args.slurm`, one task per run, and make the folder for its logs."""
    logs = args.ckpt_dir.absolute() / "slurm"
    files.make_folder(logs)
    files.make_folder(args.slurm.absolute().parent)
    text = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        file=shlex.quote(str(args.slurm)),
        name=shlex.quote(args.slurm.stem),
        last=len(jobs) - 1,
        output=shlex.quote(f"{logs}".replace("%", "%%") + "/%A_%a.log"),
        cwd=shlex.quote(str(Path.cwd())),
        sweep=shlex.join([sys.executable, str(COMMANDS / "sweep.py"), *args.argv]),
        tasks="\n".join(f"#   {i_task}: {job.label}" for i_task, job in enumerate(jobs)),
    )
    files.write_text(args.slurm, text)
    print(f"wrote {args.slurm}: {len(jobs)} tasks. Start them: sbatch {shlex.quote(str(args.slurm))}")
