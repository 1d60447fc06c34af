"""Depth that is scored: from a request to the printed table and the saved files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer import __version__
from trainer.commands.jobs.evaluate_options import check_outputs
from trainer.evaluation import (
    EvaluationResult,
    evaluate_pose,
    evaluate_side_by_side,
    evenly_spaced,
    flip_blended,
    leaks,
    pooled,
    report,
    save_legacy,
    save_result,
    without_advice,
)
from trainer.evaluation.items import Items
from trainer.evaluation.places import announced, apart, result_path
from trainer.evaluation.predictions import DepthSource
from trainer.evaluation.reference import check_order, open_dataset, open_truths
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.session import Machine, Network, progress, start
from trainer.evaluation.uncertainty import describe, open_doubt, read_ensemble


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
        doubted = describe(request, members)
        metadata = {**about_items, **subject.metadata, **doubted, "leaks": found, "trainer_version": __version__}
        num_items = len(evenly_spaced(request.limit, len(items)))
        with progress("depth", num_items, machine) as on_item:
            results = evaluate_side_by_side(
                source,
                items,
                protocols,
                request.execution(machine.processes, on_item),
                limit=request.limit,
                metadata=metadata,
                doubt=doubt,
            )
        for result in results if request.pooled else ():
            result.pooled = pooled(result.items, result.setup)
            result.remarks = without_advice(result.remarks)
        if network and moving:
            with progress("pose", num_items, machine) as on_item:
                how = request.execution(machine.processes, on_item)
                pose = evaluate_pose(network.predict_pose, moving, how, limit=request.limit)
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
        usual = result_path(request.subject.path, result.protocol)
        save = _with_ending(request.save, ending) or apart(usual, result.protocol)
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
    shown = f"{results[0].ratio_to_constant:.2f}"
    if words := against_constant(shown):
        print(words)
    print(f"ratio to best constant depth: {shown}")  # of the first, for scripts


def against_constant(shown: str) -> str:
    """Tell of a ratio to the best constant depth, as printed, that the network is no better; "" for a better one."""
    if float(shown) == 1:
        return "no better than one depth for all pixels:"
    return "worse than one depth for all pixels:" if float(shown) > 1 else ""


def _with_ending(path: Path | None, ending: str) -> Path | None:
    return path and path.with_name(f"{path.stem}{ending}{path.suffix}")
