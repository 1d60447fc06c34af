"""The runs of a sweep: their commands, and what each still lacks."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoint import find_checkpoint
from trainer.config import load_config
from trainer.metrics.align import ALIGNMENTS
from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite, write_text
from trainer.runtime.rundir import RunDir, diff_config, read_hparams

COMMANDS = Path(__file__).parents[1]


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

    @property
    def note(self) -> Path:
        """Where the command is written down once it has done all it was asked for."""
        return self.save.with_name(f".{self.save.stem}.command")

    @property
    def asked(self) -> str:
        """What was asked for, by whatever Python."""
        return shlex.join(self.command[2:])

    def forget(self) -> None:
        """Delete what an earlier command wrote: out of date, it must not get into a table."""
        for path in (self.note, *self.written):
            path.unlink(missing_ok=True)

    def note_done(self) -> None:
        """Write down that the files are those of this command."""
        write_text(self.note, self.asked + "\n")


@dataclass
class Job:
    """One run of the sweep."""

    folder: RunDir
    seed: int
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
        """True when the run has reached its end with the settings and the seed it would be started with now."""
        if not self.folder.is_finished:
            return False
        try:
            hparams = read_hparams(self.folder.hparams_path)
        except UserError:
            return False
        return hparams.get("seed", self.seed) == self.seed and not diff_config(hparams["config"], self.config)

    def is_evaluated(self, evaluation: Evaluation) -> bool:
        """True when the numbers are those of the checkpoint as it is now, asked for by the same command."""
        with suppress(OSError, UserError):
            written = min((path.stat().st_mtime for path in evaluation.written), default=0.0)
            made_from = [find_checkpoint(self.folder.path), *evaluation.files]
            same = evaluation.note.read_text(encoding="utf-8") == evaluation.asked + "\n"
            return same and all(path.stat().st_mtime <= written for path in made_from)
        return False

    def missing(self) -> list[list[str]]:
        """The commands that still have to be run."""
        trained = self.is_trained()
        todo = [] if trained else [self.train]
        return todo + [e.command for e in self.evaluations if not (trained and self.is_evaluated(e))]

    def hold(self) -> bool:
        """Keep others out of the folder until `folder.close()`; False when another process is there.

        Raises CannotWrite when the disk refuses.
        """
        try:
            self.folder.open()
        except CannotWrite:
            raise
        except UserError:
            return False
        return True

    def is_held(self) -> bool:
        """True while another process trains or evaluates here."""
        if not self.folder.path.exists():
            return False
        free = self.hold()
        self.folder.close()
        return not free


def make_jobs(args: argparse.Namespace) -> list[Job]:
    """List the runs, configuration by configuration. Raises UserError with all that is wrong with the files."""
    evaluations = args.evaluate or ()
    problems = [f"--evaluate {path}: no such file" for path in evaluations if not path.is_file()]
    problems += _same_names("--cfg-file", args.cfg_file, "run")
    problems += _same_names("--evaluate", evaluations, "result")
    configs = {path: _resolved(path, args, problems) for path in args.cfg_file}
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return [_job(args, path, config, seed) for path, config in configs.items() for seed in args.seeds]


def check_options(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Let the commands that come last read their options first: a wrong one ends the program as it would end them."""
    from trainer.commands import evaluate, generate_tables

    for evaluation in jobs[0].evaluations:
        evaluate.parse(evaluation.command[2:])
    generate_tables.parse([str(args.ckpt_dir), *shlex.split(args.tables_args)])


def _same_names(option: str, paths: Sequence[Path], what: str) -> list[str]:
    names = [path.stem for path in paths]
    return [
        f"{option}: two files are called {name}: each needs a name of its own, it becomes the name of the {what}"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]


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
    train = [*launcher, str(COMMANDS / "train.py"), "-c", str(path), *defaults, "-o", str(args.ckpt_dir)]
    train += ["-n", path.stem, "-v", str(seed), "-s", str(seed), "--progress", "plain", *changes, *plugins]
    evaluations = []
    for file in () if args.no_evaluate else args.evaluate or (None,):
        save = folder.results / f"sweep_{file.stem if file else 'test'}.yaml"
        command = [sys.executable, str(COMMANDS / "evaluate.py"), "--ckpt", str(folder.path)]
        command += ["--save", str(save), *(["-c", str(file)] if file else [])]
        command += [*plugins, *shlex.split(args.evaluate_args)]
        evaluations.append(Evaluation(command, save, (file,) if file else ()))
    return Job(folder, seed, config, train, evaluations)


SHOWN = 2  # settings that are named


def why_incomplete(job: Job) -> str:
    """What a run lacks; "" when it lacks nothing."""
    if not job.is_trained():
        return _why_untrained(job)
    return "; ".join(_why_unevaluated(e) for e in job.evaluations if not job.is_evaluated(e))


def _why_untrained(job: Job) -> str:
    if not job.folder.is_finished:
        return "not trained to its end"
    with suppress(UserError):
        hparams = read_hparams(job.folder.hparams_path)
        changes = diff_config(hparams["config"], job.config) or [f"seed: {hparams.get('seed')} -> {job.seed}"]
        more = f", and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        return f"trained with other settings: {', '.join(changes[:SHOWN])}{more}"
    return f"{job.folder.hparams_path} cannot be read"


def _why_unevaluated(evaluation: Evaluation) -> str:
    name = evaluation.save.name
    if not evaluation.written:
        others = [path.name for path in sorted(evaluation.save.parent.glob("sweep_*.yaml"))]
        there = f" (there are {', '.join(others)}: name their files with --evaluate)" if others else ""
        return f"{name}: not evaluated{there}"
    earlier = ""
    with suppress(OSError):
        earlier = evaluation.note.read_text(encoding="utf-8").strip()
    if not earlier:
        return f"{name}: its evaluation did not end"
    before, now = _options(earlier), _options(evaluation.asked)
    changes = [
        f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    if changes:
        return f"{name}: evaluated with other options: {', '.join(changes)}"
    return f"{name}: its checkpoint or its YAML has changed since"


def _options(command: str) -> dict[str, str]:
    """The options of a command with their values, as text; "given" for a switch."""
    options: dict[str, str] = {}
    key = ""
    for word in shlex.split(command):
        if word.startswith("-"):
            key = word
            options.setdefault(key, "")
        elif key:
            options[key] = f"{options[key]} {word}".strip()
    return {option: values or "given" for option, values in options.items()}
