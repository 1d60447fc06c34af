"""An evaluation on clean and corrupted pictures: its passes, table, file and sheet."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer import __version__
from trainer.evaluation import evenly_spaced, flip_blended, leaks
from trainer.evaluation.corruption import METRICS, Corruptions, identity_of, score_passes
from trainer.evaluation.passes import Passes
from trainer.evaluation.places import announced, apart, check_place, corruption_path
from trainer.evaluation.reference import open_truths
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.robustness import (
    draw_corruptions,
    report_robustness,
    save_robustness,
    scores_line,
    summarise,
)
from trainer.evaluation.session import Network, progress, start
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import UserError
from trainer.runtime.files import sha256


def score_corrupted(request: EvaluationRequest) -> int:
    """Score what is missing, pass by pass, then print, save and draw the whole. Raises UserError."""
    corruptions = Corruptions.chosen(
        request.corrupt, request.corrupt_levels, request.corrupt_seed, request.frost_pictures
    )
    protocol = _protocol(request)
    items, about = open_truths(request)
    indices = evenly_spaced(request.limit, len(items))
    about["limit"] = f"{len(indices)} of {len(items)}, evenly spaced" if len(indices) < len(items) else None
    found = leaks.leaks_of(request, items)
    save, kept = _places(request, protocol, about, len(indices), corruptions)
    subject = request.subject
    settings = {
        "checkpoint": sha256(subject.path),
        "hparams": sha256(subject.hparams) if subject.hparams else "embedded",
    }
    with start() as machine:
        passes = None
        if machine.processes.is_first:
            arguments = about["dataset"]
            passes = Passes(kept, identity_of(items, arguments, protocol, corruptions, request.limit, settings))
        done = machine.processes.gather([passes.done] if passes else [])[0]
        names = [name for name, *_ in corruptions.passes()]
        finished = sum(name in done for name in names)
        if passes and finished:
            print(f"{kept}: {finished} of {len(names)} passes are done", file=sys.stderr)
        predict: Any = None
        if finished < len(names) or request.sheet:
            predict = Network.load(subject.path, subject.hparams, machine.device, subject.metres).predict_depth
            predict = flip_blended(predict) if protocol.flip else predict
        with progress("depth", len(names) * len(indices), machine, finished * len(indices)) as on_item:
            score_passes(
                predict,
                items,
                protocol,
                corruptions,
                done,
                passes.add if passes else lambda name, scores: None,
                request.execution(machine.processes, on_item),
                limit=request.limit,
            )
        if passes:
            origin = {**about, **subject.metadata, "leaks": found, "trainer_version": __version__}
            result = summarise(passes.done, corruptions, protocol, origin)
            draw = partial(draw_corruptions, predict, items, indices[len(indices) // 2], corruptions, result, protocol)
            leaks.tell(found)
            _finish(result, request.save or apart(save, result["protocol"]), request.sheet, draw)
    return 0


def _protocol(request: EvaluationRequest) -> DepthProtocol:
    settings = request.settings.model_copy(update={"metrics": list(METRICS)})
    protocols = replace(request, settings=settings).protocols
    if len(protocols) > 1:
        raise UserError("--corrupt scores one --alignment at a time, for each takes a result of its own. Name one")
    return protocols[0]


def _places(
    request: EvaluationRequest, protocol: DepthProtocol, about: dict[str, Any], count: int, corruptions: Corruptions
) -> tuple[Path, Path]:
    """Return where the result goes and where finished passes are kept, which all choices of kinds share."""
    named = {**about, "alignment": protocol.names["alignment"], "items": count, "skipped_without_valid_pixel": 0}
    save, whole = (
        request.save or corruption_path(request.subject.path, named, chosen.ending)
        for chosen in (corruptions, Corruptions())
    )
    check_place(save, "--save")
    if request.sheet:
        if request.sheet.suffix != ".png":
            raise UserError(f"--sheet {request.sheet}: must end in .png, the only kind of picture written")
        check_place(request.sheet, "--sheet")
    return save, whole.with_suffix(".passes.json")


def _finish(result: dict[str, Any], save: Path, sheet: Path | None, draw: Any) -> None:
    report_robustness(result, Console())
    saved = announced(save)
    save_robustness(result, save)
    print(f"saved: {saved}")
    if sheet:
        draw(sheet)
        print(f"sheet: {sheet}")
    print(scores_line(result))
