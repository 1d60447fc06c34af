"""One evaluation of depth or of camera paths, from parsed arguments to printed table and saved files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer import __version__
from trainer.commands.jobs.evaluate_clips import score_clips
from trainer.commands.jobs.evaluate_corrupted import score_corrupted
from trainer.commands.jobs.evaluate_options import check_options, check_outputs
from trainer.commands.jobs.evaluate_variations import score_variations, settings_to_vary
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
    without_advice,
)
from trainer.evaluation.changes import Changes
from trainer.evaluation.items import Items
from trainer.evaluation.places import announced, check_place, odometry_path, result_path, run_folder
from trainer.evaluation.predictions import DepthSource
from trainer.evaluation.reference import check_order, open_dataset, open_truths
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.session import Machine, Network, progress, start
from trainer.evaluation.subject import Subject, read_checkpoint, read_predictions
from trainer.evaluation.uncertainty import check_source, describe, open_doubt, read_ensemble
from trainer.runtime.errors import UserError

NEXT_FRAME = (1,)  # the only support of an item when camera paths are scored


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, score, print, save. Raises UserError for the mistakes of a user."""
    load_plugins(args.plugins)
    check_options(args)
    if args.suite:
        from trainer.commands.jobs import evaluate_suite

        return evaluate_suite.run(args)
    request = read_request(args)
    jobs = {"vary": score_variations, "temporal": score_clips, "corrupt": score_corrupted, "odometry": _score_paths}
    score = next((job for option, job in jobs.items() if getattr(request, option)), score_depth)
    return score(request)


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
        settings = settings_to_vary(settings)
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
    check_outputs(request, items)
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
            result.remarks = without_advice(result.remarks)
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
        saved = announced(save)
        save_result(result, save)
        print(f"saved: {saved}")
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
    print(f"ratio to best constant depth: {results[0].ratio_to_constant:.2f}")  # of the first, for scripts


def _with_ending(path: Path | None, ending: str) -> Path | None:
    return path and path.with_name(f"{path.stem}{ending}{path.suffix}")


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
            saved = announced(save)
            save_odometry(result, save)
            leaks.tell(found)
            report.report_odometry(result, saved)
    return 0
