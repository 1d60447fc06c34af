"""Options of `evaluate` that exclude each other, and places that cannot be written: refused before any work."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from trainer.evaluation import evenly_spaced
from trainer.evaluation.items import Items
from trainer.evaluation.places import check_place, run_folder
from trainer.evaluation.request import EvaluationRequest
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
