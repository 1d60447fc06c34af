"""Read runs and results, make the page, write it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from models_zoo.registry import did_you_mean
from trainer.commands.cli import add_shared
from trainer.config import load_config
from trainer.config.pages import default_beside, find_page, shipped
from trainer.config.plugins import load_plugins
from trainer.evaluation.places import check_place
from trainer.runtime import files
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder, write_text
from trainer.tables.aggregate import make_tables, name_differences
from trainer.tables.reference import add_references
from trainer.tables.report.page import MARK, Compared, Content, make_page
from trainer.tables.report.runs import Run, mapping, read_runs, validations
from trainer.tables.report.settings import Default
from trainer.tables.results import read_results
from trainer.tables.significance import warn_of_noise

FIRST_BYTES = 4096  # of a page, which hold its mark
TRAINER = "the defaults of the trainer"


def run(args: argparse.Namespace) -> int:
    """Make the page; return 1 when something could not be read, which the page says too.

    Raises UserError for mistakes that leave nothing to show, and before the work when the page could not be written.
    """
    load_plugins(args.plugins)
    if not os.path.isdir(args.root):
        if os.path.exists(args.root):
            run = args.root.parents[1] if args.root.parent.name in ("ckpts", "results") else args.root.parent
            raise UserError(f"{args.root}: is a file. Name the folder of a run, or one above several, such as {run}")
        raise UserError(f"{args.root}: no such folder")
    out = args.out or args.root / "report.html"
    _check_out(out, args.force)
    runs = read_runs(args.root, args.models, args.seeds)
    _check_curves(args.curves, runs)
    problems: list[str] = []
    tables, notes = _tables(args, runs, problems)
    html = make_page(
        Content(
            args.root,
            runs,
            tables,
            _default_of(args.cfg_default),
            title=args.title,
            tags=args.curves,
            most_items=args.pictures,
            remarks=notes,
            notes=problems,
        )
    )
    make_folder(out.parent)
    write_text(out, html)
    problems += [f"{run}: {problem}" for run in runs for problem in run.problems]
    for line in problems:
        print(f"warning: {line}", file=sys.stderr)
    models = len({run.model for run in runs})
    print(
        f"saved: {out} ({len(html.encode()) / 1e6:.1f} MB, {_several(len(runs), 'run')} of {_several(models, 'name')})"
    )
    return 1 if problems else 0


def _several(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _check_out(out: Path, force: bool) -> None:
    """Refuse a place that cannot be written, and to replace a file that is no page of this command."""
    check_place(out, "--out")
    if not os.path.lexists(out) or force:
        return
    try:
        with files.open_file(out) as file:
            is_ours = f'content="{MARK}"'.encode() in file.read(FIRST_BYTES)
    except OSError:
        is_ours = False
    if not is_ours:
        raise UserError(f"{out}: exists and is no report. --force replaces it; --out names another file")


def _check_curves(tags: Sequence[str], runs: Sequence[Run]) -> None:
    known = {tag for run in runs for tag in run.events.curves}
    for tag in tags:
        if tag not in known:
            raise UserError(f"--curves {tag}: no run has this scalar. {did_you_mean(tag, known)}")


def _tables(
    args: argparse.Namespace, runs: Sequence[Run], problems: list[str]
) -> tuple[dict[str, list[Compared]], list[str]]:
    """Make the tables of result files and those of the validations, and compare their rows; also return notes."""
    tables, notes = [], []
    chosen = {run.path.absolute() for run in runs}
    try:
        read = read_results(args.root, args.file, problems)
        results = [r for r in read if r.path.absolute().parent.parent in chosen]
        notes += ["No evaluations: none is of these runs"] * (not results)
    except UserError as error:
        results = []
        notes.append(f"No evaluations: {error}")
    if results:
        try:
            tables = make_tables(results, args.root, mix=args.mix)
        except UserError as error:
            if args.mix:
                raise
            problems.append(f"No table of evaluations: {error}")
    if args.reference:
        add_references(tables, args.reference)
    notes += name_differences(tables, args.mix)
    validated = validations(runs)
    sections = {
        "Evaluations": tables,
        "Validation during the training": make_tables(validated, args.root) if validated else [],
    }
    return {title: [(table, warn_of_noise(table)) for table in some] for title, some in sections.items()}, notes


def _default_of(given: Sequence[Path] | None) -> Callable[[Run], Default]:
    """What the settings of a run are compared with: `given` pages, or what its command was built on."""

    def default_of(run: Run) -> Default:
        pages = _built_on(run.hparams.get("command")) if given is None else [find_page(page) for page in given]
        if pages:
            try:
                config = load_config(pages, base=_required(run.config), training=False).to_dict()
                return ", ".join(map(_name, pages)), config
            except UserError:
                if given is not None:
                    raise
        try:
            config = load_config((), base=_entries(run.config), training=False).to_dict()
        except UserError:  # a network or data set of a plugin, for example
            return "nothing: this version does not know its parts, so all keys are shown", {}
        why = f", because {', '.join(map(_name, pages))} cannot be read here" if pages else ""
        return f"{TRAINER}{why}", config

    return default_of


def _built_on(words: Any) -> list[Path]:
    """The default pages of the command of a run, found as that command finds them; none when it had none."""
    if not isinstance(words, list):
        return []
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    add_shared(parser, "--cfg-file", default=[])
    add_shared(parser, "--cfg-default")
    try:
        args, _ = parser.parse_known_args([*map(str, words[1:])])
    except (argparse.ArgumentError, SystemExit):
        return []
    if args.cfg_default is not None:
        return [find_page(page) for page in args.cfg_default]
    return default_beside([find_page(page) for page in args.cfg_file]) if args.cfg_file else []


def _name(page: Path) -> str:
    pages = shipped("cfg")
    return f"cfg/{page.relative_to(pages).as_posix()}" if page.is_relative_to(pages) else str(page)


def _required(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys without a default, which a default page may leave to others; those of the run, so they do not differ."""
    data, optimizer, trainer = (mapping(config.get(key)) for key in ("dataset", "optimizer", "trainer"))
    return {
        "net": {"depth": {}},
        "dataset": {key: data[key] for key in ("type", "path", "datasets") if key in data},
        "optimizer": {key: optimizer[key] for key in ("type",) if key in optimizer},
        "trainer": {key: trainer[key] for key in ("max_epochs",) if key in trainer},
    }


def _entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the networks and losses of the run, so that their arguments are compared with their defaults."""
    named: dict[str, Any] = {
        section: {name: {} for name in mapping(config.get(section))} for section in ("net", "loss")
    }
    return {**_required(config), **named, "scheduler": config.get("scheduler")}
