"""A sweep: doing what each run lacks, and saying how it went."""

from __future__ import annotations

import argparse
import shlex
import signal
import string
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.commands.jobs.children import Children, last_words
from trainer.commands.jobs.sweep_runs import Job, check_options, make_jobs, why_incomplete
from trainer.config.plugins import load_plugins
from trainer.runtime import files
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import RunState

BUSY_SECONDS = 5.0  # between looks at a run that another process holds
BUSY = "another run is writing here"  # as `train` says it
GOOD = ("finished", "was finished")


def run(args: argparse.Namespace) -> int:
    """Do what is missing; return 0, 1 when something failed, 128 + signal when stopped.

    Raises UserError for what is wrong before anything starts.
    """
    load_plugins(args.plugins)
    jobs = make_jobs(args)
    check_options(args, jobs)
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
    if args.tables_only:
        _look(jobs)
    else:
        with Children() as children:
            work(jobs, children, args.stop_on_failure)
        if children.received is not None:
            summarise(jobs)
            print("stopped; the same command continues", file=sys.stderr)
            return 128 + children.received
    code = 0 if args.only is not None or args.no_evaluate else tabulate(args, jobs)
    summarise(jobs)
    return code if all(job.outcome in GOOD for job in jobs) else 1


def _look(jobs: Sequence[Job]) -> None:
    """Note which runs lack nothing, and what the others lack."""
    for job in jobs:
        job.note = why_incomplete(job)
        job.outcome = "incomplete" if job.note else "was finished"


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
    if all(map(job.is_evaluated, job.evaluations)) or _evaluate(job, children, label):
        job.outcome = "was finished" if was_trained else "finished"
        _say(f"{label}: {job.outcome}")


def _evaluate(job: Job, children: Children, label: str) -> bool:
    """Do the evaluations that are missing; False, with the outcome noted, where one is not done.

    The folder is held meanwhile: no other sweep does the same, and nobody trains on.
    """
    if not job.hold():
        _wait_for(job, label)
        return False
    with closing(job.folder):
        for evaluation in job.evaluations:
            if job.is_evaluated(evaluation):
                continue
            if children.received is not None:
                job.outcome = "stopped"
                return False
            _say(f"{label}: evaluating, {evaluation.save.name}")
            evaluation.forget()
            code = children.run(evaluation.command, job.log)
            if code or not evaluation.written:
                _fail(job, code, children, label, "evaluation")
                return False
            evaluation.note_done()
            job.note = "evaluated"
    return True


def _wait_for(job: Job, label: str) -> None:
    if job.outcome != "busy":
        _say(f"{label}: another process is at work here; looked at again later")
    job.outcome = "busy"


def _train(job: Job, children: Children, label: str) -> bool:
    """Train one run to its end; False, with the outcome noted, where that is not reached."""
    if job.is_held():
        _wait_for(job, label)
        return False
    before = job.folder.read_state()
    _say(f"{label}: {f'continuing after step {before.step}' if before else 'training'}, log {job.log}")
    code = children.run(job.train, job.log, job.folder)
    return _accept_training(job, code, before, children, label)


def _accept_training(job: Job, code: int, before: RunState | None, children: Children, label: str) -> bool:
    """True when the training reached its end; else note what happened since the state `before`."""
    state = job.folder.read_state()
    if code == 0 and job.folder.is_finished:
        return True
    if children.received is None and code != 0 and (BUSY in last_words(job.log) or job.is_held()):
        job.outcome = "busy"  # another sweep was quicker, or just looked whether it may start
    elif children.received is not None or _is_preempted(state, before):
        job.outcome = "stopped"
        _say(f"{label}: stopped after step {state.step if state else 0}")
    else:
        _fail(job, code, children, label, "training")
    return False


def _is_preempted(state: RunState | None, before: RunState | None) -> bool:
    """True when the run was told to stop since `before`: one that could not start leaves what it found."""
    return state is not None and state.state == "preempted" and state != before


def _fail(job: Job, code: int, children: Children, label: str, what: str) -> None:
    if children.received is not None:
        job.outcome = "stopped"
        return
    how = f"killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
    job.outcome, job.note = "failed", f"{what}, {how}: {last_words(job.log)}"
    _say(f"{label}: failed: {job.note}")


def tabulate(args: argparse.Namespace, jobs: Sequence[Job]) -> int:
    """Tabulate the runs that lack nothing, and no other file that lies beside theirs; return the exit code of that."""
    from trainer.commands.generate_tables import main

    good = [job for job in jobs if job.outcome in GOOD]
    written = [path for job in good for evaluation in job.evaluations for path in evaluation.written]
    if not written:
        return 0
    models = dict.fromkeys(path.parents[2].name for path in written)
    chosen = ["--models", *models, "--seeds", *map(str, args.seeds), "--file", *map(str, written)]
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


TEMPLATE = Path(__file__).with_name("sweep_array.sbatch.in")


def write_script(args: argparse.Namespace, labels: Sequence[str]) -> None:
    """Write the script to `args.slurm`, one task for each label, and make the folder of its logs."""
    logs = args.ckpt_dir / "slurm"
    files.make_folder(logs)
    files.make_folder(args.slurm.absolute().parent)
    sweep = command_line(args)
    tables = [*sweep, *([f"--tables-args={args.tables_args}"] if args.tables_args else []), "--tables-only"]
    output = str(logs.absolute()).replace("%", "%%") + "/%A_%a.log"
    text = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        file=shlex.quote(str(args.slurm)),
        name=shlex.quote(args.slurm.stem),
        last=len(labels) - 1,
        output=shlex.quote(output),
        cwd=shlex.quote(str(Path.cwd())),
        sweep=shlex.join(sweep),
        table=shlex.join(tables),
        tasks="\n".join(f"#   {i_task}: {label}" for i_task, label in enumerate(labels)),
    )
    files.write_text(args.slurm, text)
    print(f"wrote {args.slurm}: {len(labels)} tasks. Start them: sbatch {shlex.quote(str(args.slurm))}")


def command_line(args: argparse.Namespace) -> list[str]:
    """The command of this sweep, from its parsed arguments."""
    lists = {
        "-c": args.cfg_file,
        "-d": args.cfg_default,
        "--set": args.set,
        "--plugins": args.plugins,
        "-o": [args.ckpt_dir],
        "--seeds": args.seeds,
        "--evaluate": args.evaluate,
    }
    command = [sys.executable, str(TEMPLATE.parents[1] / "sweep.py")]
    for option, values in lists.items():
        command += [option, *map(str, values)] if values else []
    for option, text in {"--evaluate-args": args.evaluate_args, "--launch": args.launch}.items():
        command += [f"{option}={text}"] if text else []
    return command + (["--no-evaluate"] if args.no_evaluate else [])
