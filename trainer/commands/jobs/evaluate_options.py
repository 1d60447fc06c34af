"""From the options of `evaluate` to a request; what they exclude, and unwritable places, are refused first."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple

from trainer.config import EvaluationSection
from trainer.evaluation import evenly_spaced
from trainer.evaluation.changes import Changes
from trainer.evaluation.items import Items
from trainer.evaluation.places import check_place, run_folder
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.subject import Subject, read_checkpoint, read_predictions
from trainer.evaluation.uncertainty import check_source
from trainer.evaluation.variations import SETS
from trainer.runtime.errors import UserError


class _Rule(NamedTuple):
    """What is refused when `asks` says yes."""

    asks: Callable[[argparse.Namespace], object]
    refused: str  # options, as attributes of the arguments
    message: str  # {option} is the one that was given, as it is written; {args} all


_RULES = (
    _Rule(
        lambda args: args.suite,
        "pred_file pred_kind pred_unit targets save legacy sheet pose odometry"
        " temporal corrupt uncertainty ensemble vary",
        "{option} is about one data set; leave it out with --suite",
    ),
    _Rule(
        lambda args: args.suite,
        "cfg_file",
        "{option} names a page, and a suite names its own: leave out one of {option} and --suite. --set changes all"
        " sets of a suite",
    ),
    _Rule(
        lambda args: not args.suite,
        "again",
        "--again is about the results of a --suite; leave it out, a result is always replaced",
    ),
    _Rule(
        lambda args: not args.corrupt,
        "corrupt_levels corrupt_seed frost_pictures",
        "{option} is about corrupted pictures: add --corrupt all, or leave it out",
    ),
    _Rule(
        lambda args: args.corrupt,
        "pred_file",
        "--corrupt changes what a network sees; name one with --ckpt instead of --pred-file",
    ),
    _Rule(
        lambda args: args.vary,
        "pose odometry temporal corrupt uncertainty pooled sheet legacy metrics",
        "--vary scores depth under many protocols and takes no {option}: leave out {option}",
    ),
    _Rule(
        lambda args: args.corrupt,
        "pose odometry temporal uncertainty pooled legacy metrics",
        "--corrupt scores AbsRel and δ1 of depth. Leave out {option}, or evaluate twice",
    ),
    _Rule(
        lambda args: args.corrupt,
        "num_sheet",
        "--corrupt draws one item, under every kind. Leave out --num-sheet",
    ),
    _Rule(
        lambda args: args.temporal,
        "odometry pose pooled uncertainty limit sheet legacy metrics targets",
        "{option} has no meaning with --temporal; leave out one of them",
    ),
    _Rule(
        lambda args: args.temporal == "learned",
        "alignment crop min_depth max_depth flip pred_file",
        "{option} has no meaning with --temporal learned; leave out one of them",
    ),
    _Rule(
        lambda args: args.ckpt,
        "pred_kind pred_unit",
        "--pred-kind and --pred-unit describe a --pred-file; leave them out with --ckpt",
    ),
    _Rule(
        lambda args: args.ckpt,
        "targets",
        "{args.targets}: holds ground truth without images, and a network needs images. Leave out --targets, or score"
        " what `monodepth export-depth` writes: --pred-file NPZ --targets NPZ",
    ),
    _Rule(
        lambda args: args.pred_file,
        "hparams pose odometry flip",
        "{option} is about a network; leave it out with --pred-file",
    ),
    _Rule(
        lambda args: args.odometry,
        "limit sheet legacy pose pooled alignment crop min_depth max_depth metrics flip uncertainty",
        "{option} is about depth or single frames; leave it out with --odometry",
    ),
    _Rule(
        lambda args: args.targets,
        "sheet",
        "--sheet shows images, and {args.targets} has none. Leave out one of them",
    ),
)


_DEFAULTS = {"num_sheet": EvaluationRequest.num_sheet}  # that differ from None, False and []


def check_options(args: argparse.Namespace) -> None:
    """Raise UserError for the first option that has no meaning beside the others."""
    for rule in _RULES:
        for key in rule.refused.split() if rule.asks(args) else ():
            if _is_given(args, key):
                raise UserError(rule.message.format(option=f"--{key.replace('_', '-')}", args=args))


def _is_given(args: argparse.Namespace, key: str) -> bool:
    value = getattr(args, key)
    return value is not None and value is not False and value != _DEFAULTS.get(key, [])


def check_outputs(request: EvaluationRequest, items: Items) -> None:
    """Refuse before the work what would fail after it. Raises UserError."""
    if request.sheet and request.sheet.suffix != ".png":
        raise UserError(f"--sheet {request.sheet}: must end in .png, the only kind of picture written")
    for count in (request.limit, request.num_sheet, request.batch_size):
        evenly_spaced(count, len(items))
    check_place(request.save or run_folder(request.subject.path) / "results" / "result.yaml", "--save")
    for option, path in (("--legacy", request.legacy), ("--sheet", request.sheet)):
        if path:
            check_place(path, option)


def read_request(args: argparse.Namespace, known: Subject | None = None) -> EvaluationRequest:
    """Read the checkpoint or predictions, and lay files and options over their settings; options win.

    `known` is the same checkpoint, read before with other changes.
    """
    changes = Changes(args.cfg_file, args.set)
    check_source(args.uncertainty, args.ensemble, args.sparsification_steps, args.pred_file)
    read = _read_checkpoint if args.pred_file is None else _read_predictions
    subject = known.changed(changes, args.mode) if known else read(args, changes)
    given = {key: getattr(args, key) for key in EvaluationSection.model_fields}
    settings = subject.cfg.evaluation.model_copy(update={k: v for k, v in given.items() if v is not None})
    if args.trained_on and subject.trained_on:
        raise UserError(f"--trained-on: {subject.path} says itself what it was trained on. Leave it out")
    if args.pred_unit == "m" and "stereo" in (settings.alignment or ()):
        raise UserError("--pred-unit m: depth in metres needs no factor of 5.4. Leave out --alignment stereo")
    if subject.metres and "stereo" in (settings.alignment or ()):
        origin = subject.metadata["checkpoint"]["metres"]["origin"]
        raise UserError(
            f"{subject.path}: its depth is in metres already ({origin}), so --alignment stereo, x 5.4, has no meaning."
            " Use none"
        )
    if args.vary:
        settings = _to_vary(settings)
    options = {f.name: getattr(args, f.name) for f in fields(EvaluationRequest) if hasattr(args, f.name)}
    return EvaluationRequest(subject, changes, settings, **options)


def _read_checkpoint(args: argparse.Namespace, changes: Changes) -> Subject:
    subject = read_checkpoint(args.ckpt, args.hparams, changes, args.mode)
    for option in ("pose", "odometry"):
        if getattr(args, option) and not subject.has_pose:
            raise UserError(f"{subject.path}: has no pose network, its poses are given. Leave out --{option}")
    return subject


def _read_predictions(args: argparse.Namespace, changes: Changes) -> Subject:
    if args.targets is None and changes.dataset_type is None:
        raise UserError("--pred-file needs ground truth: add --cfg-file cfg/eval/<data set>.yaml, or --targets NPZ")
    return read_predictions(args.pred_file, changes, args.pred_kind, args.pred_unit)


def _to_vary(settings: EvaluationSection) -> EvaluationSection:
    """Check that there is one protocol to start from, and set its metric set, which is fixed. Raises UserError."""
    if len(set(settings.alignment or ())) > 1:
        raise UserError(
            f"--vary changes one protocol, and there are several alignments: {', '.join(settings.alignment or ())}."
            " Choose the one to start from with --alignment; the others are tried in any case"
        )
    return settings.model_copy(update={"metrics": list(SETS)})
