"""One evaluation of depth or of camera paths, from parsed arguments to printed table and saved files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer import __version__
from trainer.commands.jobs.evaluate_clips import check_clips, score_clips
from trainer.commands.jobs.evaluate_corrupted import check_corruption, score_corrupted
from trainer.config import EvaluationSection
from trainer.config.plugins import load_plugins
from trainer.evaluation import (
    EvaluationResult,
    evaluate_odometry,
    evaluate_pose,
    evaluate_side_by_side,
    evenly_spaced,
    flip_blended,
    leaks,
    pooled,
    report,
    save_legacy,
    save_odometry,
    save_result,
)
from trainer.evaluation.changes import Changes
from trainer.evaluation.items import Items
from trainer.evaluation.places import check_place, odometry_path, result_path, run_folder, variations_path
from trainer.evaluation.predictions import DepthSource
from trainer.evaluation.reference import check_order, open_dataset, open_truths
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.session import Machine, Network, progress, start
from trainer.evaluation.subject import Subject, read_checkpoint, read_predictions
from trainer.evaluation.uncertainty import check_source, describe, open_doubt, read_ensemble
from trainer.evaluation.variations import SETS, open_other_truths, report_variations, save_variations, vary
from trainer.runtime.errors import UserError

NEXT_FRAME = (1,)  # the only support of an item when camera paths are scored
REPLACED = " (replaces an earlier one)"


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, score, print, save. Raises UserError for the mistakes of a user."""
    load_plugins(args.plugins)
    if args.suite:
        from trainer.commands.jobs import evaluate_suite

        return evaluate_suite.run(args)
    if args.again:
        raise UserError("--again is about the results of a --suite; leave it out, a result is always replaced")
    check_corruption(args)
    request = read_request(args)
    if request.vary:
        return _score_variations(request)
    if request.temporal:
        return score_clips(request)
    if request.corrupt:
        return score_corrupted(request)
    return _score_paths(request) if request.odometry else score_depth(request)


def read_request(args: argparse.Namespace, known: Subject | None = None) -> EvaluationRequest:
    """Read the checkpoint or predictions, and lay files and options over their settings; options win.

    `known` is the same checkpoint, read before with other changes.
    """
    changes = Changes(args.cfg_file, args.set)
    check_clips(args)
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
        settings = _settings_to_vary(args, settings)
    options = {f.name: getattr(args, f.name) for f in fields(EvaluationRequest) if hasattr(args, f.name)}
    return EvaluationRequest(subject, changes, settings, **options)


def _settings_to_vary(args: argparse.Namespace, settings: EvaluationSection) -> EvaluationSection:
    """Check that there is one protocol to start from, and that nothing else is asked for. Its metric set is fixed."""
    for option in ("pose", "odometry", "temporal", "corrupt", "uncertainty", "pooled", "sheet", "legacy", "metrics"):
        if getattr(args, option):
            raise UserError(f"--vary prints AbsRel and the ratio accuracy of depth alone. Leave out --{option}")
    if len(set(settings.alignment or ())) > 1:
        raise UserError(
            f"--vary changes one protocol, and there are several alignments: {', '.join(settings.alignment or ())}."
            " Choose the one to start from with --alignment; the others are tried in any case"
        )
    return settings.model_copy(update={"metrics": list(SETS)})


def _read_checkpoint(args: argparse.Namespace, changes: Changes) -> Subject:
    if args.pred_kind or args.pred_unit:
        raise UserError("--pred-kind and --pred-unit describe a --pred-file; leave them out with --ckpt")
    if args.targets:
        raise UserError(
            f"{args.targets}: holds ground truth without images, and a network needs images. Leave out --targets, or"
            " score what `monodepth export-depth` writes: --pred-file NPZ --targets NPZ"
        )
    subject = read_checkpoint(args.ckpt, args.hparams, changes, args.mode)
    for option in ("pose", "odometry"):
        if getattr(args, option) and not subject.has_pose:
            raise UserError(f"{subject.path}: has no pose network, its poses are given. Leave out --{option}")
    for option in ("limit", "sheet", "legacy", "pose", "pooled"):
        if args.odometry and getattr(args, option):
            raise UserError(f"--{option} is about depth or single frames; leave it out with --odometry")
    return subject


def _read_predictions(args: argparse.Namespace, changes: Changes) -> Subject:
    for option in ("hparams", "pose", "odometry", "flip"):
        if getattr(args, option):
            raise UserError(f"--{option} is about a network; leave it out with --pred-file")
    if args.targets is None and changes.dataset_type is None:
        raise UserError("--pred-file needs ground truth: add --cfg-file cfg/eval/<data set>.yaml, or --targets NPZ")
    if args.targets is not None and args.sheet:
        raise UserError(f"--sheet shows images, and {args.targets} has none. Leave out one of them")
    return read_predictions(args.pred_file, changes, args.pred_kind, args.pred_unit)


def score_depth(
    request: EvaluationRequest,
    opened: tuple[Items, dict[str, Any]] | None = None,
    session: tuple[Machine, Network] | None = None,
    finish: Callable[..., None] | None = None,
) -> int:
    """Score depth, then show and save it. A suite gives the opened truths, its session, and what to do in the end."""
    subject, protocols = request.subject, request.protocols
    items, about_items = opened or open_truths(request)
    moving = None
    if request.pose and subject.trained:
        supports = list(subject.trained.supp_idxs)  # those of the training
        moving, _ = open_dataset(subject.cfg, request.mode, supp_idxs=supports, use_depth=False)
    _check_options(request, items)
    if subject.stored:
        check_order(subject.stored, items, about_items["dataset"], request)
    members = read_ensemble(request)
    found = leaks.leaks_of(request, items)
    with nullcontext(session[0]) if session else start() as machine:
        network = session[1] if session else None
        if not network and not subject.stored:
            network = Network.load(subject.path, subject.hparams, machine.device, subject.metres)
        source: Any = subject.stored or (network and network.predict_depth)
        if network and protocols[0].flip:
            source = flip_blended(network.predict_depth)
        doubt = open_doubt(request, members, network, machine)
        options: dict[str, Any] = {
            "batch_size": request.batch_size,
            "num_workers": 0 if request.targets else request.num_workers,  # targets are in memory already
            "limit": request.limit,
            "processes": machine.processes,
        }
        doubted = describe(request, members)
        metadata = {**about_items, **subject.metadata, **doubted, "leaks": found, "trainer_version": __version__}
        num_items = len(evenly_spaced(request.limit, len(items)))
        with progress("depth", num_items, machine) as on_item:
            results = evaluate_side_by_side(
                source, items, protocols, metadata=metadata, on_item=on_item, doubt=doubt, **options
            )
        for result in results if request.pooled else ():
            result.pooled = pooled(result.items, result.setup)
        if network and moving:
            with progress("pose", num_items, machine) as on_item:
                pose = evaluate_pose(network.predict_pose, moving, on_item=on_item, **options)
            for result in results:
                result.pose = pose
        if machine.processes.is_first:
            (finish or _show_and_save)(request, results, source, items)
    return 0


def _show_and_save(
    request: EvaluationRequest, results: Sequence[EvaluationResult], source: DepthSource, items: Items
) -> None:
    report.report(results, Console())
    for remark in (remark for result in results for remark in result.remarks):
        print(f"warning: {remark}", file=sys.stderr)
    leaks.tell(results[0].protocol["leaks"])
    if camera := request.subject.camera_words(request.mode):
        print(f"camera learned: {camera}")
    several = len(results) > 1
    for result in results:
        ending = f"_{result.protocol['alignment']}" if several else ""
        save = _with_ending(request.save, ending) or result_path(request.subject.path, result.protocol)
        replaced = REPLACED if os.path.exists(save) else ""
        save_result(result, save)
        print(f"saved: {save}{replaced}")
        if legacy := _with_ending(request.legacy, ending):
            save_legacy(result, legacy)
            print(f"legacy spelling: {legacy}")
    if request.sheet:
        report.draw_sheet(source, items, results[0], request.sheet, request.num_sheet)
        print(f"sheet: {request.sheet}")
    for result in results if several else ():
        print(f"ratio to best constant depth, {result.protocol['alignment']}: {result.ratio_to_constant:.2f}")
    if results[0].ratio_to_constant > 1:
        print("worse than one depth for all pixels:")
    print(f"ratio to best constant depth: {results[0].ratio_to_constant:.2f}")


def _score_variations(request: EvaluationRequest) -> int:
    subject = request.subject
    items, about_items = open_truths(request)
    truths, missing = open_other_truths(request, about_items["dataset"])
    _check_options(request, items)
    if subject.stored:
        check_order(subject.stored, items, about_items["dataset"], request)
    with start() as machine:
        network = (
            None if subject.stored else Network.load(subject.path, subject.hparams, machine.device, subject.metres)
        )
        source: Any = subject.stored or (network and network.predict_depth)
        num_items = len(evenly_spaced(request.limit, len(items)))
        with progress("depth", num_items, machine) as on_item:
            found = vary(
                source,
                items,
                request.protocols[0],
                truths=truths,
                without=subject.pointless,
                batch_size=request.batch_size,
                num_workers=0 if request.targets else request.num_workers,
                limit=request.limit,
                metadata={**about_items, **subject.metadata, "trainer_version": __version__},
                on_item=on_item,
                processes=machine.processes,
            )
        if machine.processes.is_first:
            found.not_measured += missing
            save = request.save or variations_path(subject.path, found.protocol)
            replaced = REPLACED if os.path.exists(save) else ""
            report_variations(found, Console())
            save_variations(found, save)
            print(f"saved: {save}{replaced}")
    return 0


def _with_ending(path: Path | None, ending: str) -> Path | None:
    return path and path.with_name(f"{path.stem}{ending}{path.suffix}")


def _check_options(request: EvaluationRequest, items: Items) -> None:
    """Refuse before the work what would fail after it."""
    if request.sheet and request.sheet.suffix != ".png":
        raise UserError(f"--sheet {request.sheet}: must end in .png, the only kind of picture written")
    for count in (request.limit, request.num_sheet, request.batch_size):
        evenly_spaced(count, len(items))
    check_place(request.save or run_folder(request.subject.path) / "results" / "result.yaml", "--save")
    for option, path in (("--legacy", request.legacy), ("--sheet", request.sheet)):
        if path:
            check_place(path, option)


def _score_paths(request: EvaluationRequest) -> int:
    subject = request.subject
    changes = {"supp_idxs": list(NEXT_FRAME), "use_depth": False}
    dataset, arguments = open_dataset(subject.cfg, request.mode, {"clips"}, **changes)
    check_place(request.save or run_folder(subject.path) / "results" / "result.yaml", "--save")
    found = leaks.leaks_of(request, dataset)
    metadata = {"dataset": arguments, **subject.metadata, "leaks": found, "trainer_version": __version__}
    with start() as machine:
        network = Network.load(subject.path, subject.hparams, machine.device, subject.metres)
        network.objective.supp_idxs = NEXT_FRAME
        with progress("odometry", len(dataset), machine) as on_item:
            result = evaluate_odometry(
                network.predict_pose,
                dataset,
                batch_size=request.batch_size,
                num_workers=request.num_workers,
                metadata=metadata,
                on_item=on_item,
                processes=machine.processes,
            )
        if machine.processes.is_first:
            save = request.save or odometry_path(subject.path, result["protocol"])
            replaced = REPLACED if os.path.exists(save) else ""
            save_odometry(result, save)
            leaks.tell(found)
            report.report_odometry(result, f"{save}{replaced}")
    return 0
