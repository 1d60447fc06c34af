"""One evaluation of depth from frame to frame, from parsed arguments to printed errors and saved files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from trainer import __version__
from trainer.data.base import DepthDataset
from trainer.evaluation import (
    evaluate_learned_temporal,
    evaluate_temporal,
    flip_blended,
    leaks,
    report,
    save_temporal,
)
from trainer.evaluation.places import announced, apart, check_place, run_folder, temporal_path
from trainer.evaluation.reference import check_order, open_dataset
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.session import Network, progress, start
from trainer.runtime.errors import UserError
from trainer.runtime.processes import is_first_process

NEXT_FRAME = {"supp_idxs": [1], "use_depth": False}


def score_clips(request: EvaluationRequest) -> int:
    """Check everything, then load, score, print, save. Raises UserError for the mistakes of a user."""
    subject, mode = request.subject, request.mode
    check_place(request.save or run_folder(subject.path) / "results" / "result.yaml", "--save")
    moving, of_moving = open_dataset(subject.cfg, mode, {"clips"}, **NEXT_FRAME)
    metadata: dict[str, Any] = {**subject.metadata, "trainer_version": __version__}
    frames = None
    if request.temporal != "learned":
        frames, of_frames = open_dataset(subject.cfg, mode, {"clips"}, supp_idxs=None, use_depth=True)
    missing = _missing(request, frames, moving)
    _require_camera(moving if frames is None or missing else frames, request.mode)
    metadata["leaks"] = leaks.leaks_of(request, moving if frames is None else frames)
    if frames is None or missing:
        if not subject.has_pose:
            raise UserError(
                f"dataset ({mode}): {missing}, and {subject.path} has no network that predicts motion. Evaluate on a"
                " data set with depth and poses"
            )
        if is_first_process():
            unfitted = "without alignment, crop, limits of depth and flip"
            print(f"{missing}: depth is moved by the motion that the network has learned, {unfitted}", file=sys.stderr)
        return _score(request, moving, None, {"dataset": of_moving, **metadata})
    if subject.stored:
        check_order(subject.stored, frames, of_frames, request)
        del of_frames["size"]  # of images, which are not used
    truth = {"truth": frames.truth} if frames.truth else {}
    return _score(request, moving, frames, {"dataset": of_frames, **truth, **metadata})


def _missing(request: EvaluationRequest, frames: DepthDataset | None, moving: DepthDataset) -> str:
    """Say why there is no true motion to score with; "" when there is one. Raises UserError when it is required."""
    if frames is None:
        return "--temporal learned"
    lacks = [] if frames.use_depth else ["true depth"]
    lacks += [] if "Ts_true" in moving[0] else ["true poses (Ts_true)"]
    missing = f"the data set has no {' and no '.join(lacks)}" if lacks else ""
    if missing and (request.temporal == "true" or request.subject.stored):
        needing = "--temporal true" if request.temporal == "true" else "--temporal with --pred-file"
        raise UserError(f"dataset ({request.mode}): {missing}, which {needing} needs. Name another data set")
    return missing


def _require_camera(dataset: DepthDataset, mode: str) -> None:
    if not {"K", "K_depth"} & dataset[0].keys():  # without depth, there is no K_depth either
        raise UserError(
            f"dataset ({mode}): the data set has no camera matrix K, without which depth cannot be moved from"
            " frame to frame. Set dataset.K if it takes one, or name another data set"
        )


def _score(
    request: EvaluationRequest, moving: DepthDataset, frames: DepthDataset | None, metadata: Mapping[str, Any]
) -> int:
    subject = request.subject
    with start() as machine:
        network = (
            None if subject.stored else Network.load(subject.path, subject.hparams, machine.device, subject.metres)
        )
        with progress("clips", len(frames or moving), machine) as on_item:
            how = request.execution(machine.processes, on_item)
            if frames is not None:
                source: Any = subject.stored or (network and network.predict_depth)
                if network and request.protocols[0].flip:
                    source = flip_blended(network.predict_depth)
                results = evaluate_temporal(source, frames, moving, request.protocols, how, metadata=metadata)
            else:
                assert network is not None  # predictions in files have no motion
                network.objective.supp_idxs = (1,)
                results = [evaluate_learned_temporal(network.predict_scene, moving, how, metadata=metadata)]
        if machine.processes.is_first:
            _show_and_save(request, results)
    return 0


def _show_and_save(request: EvaluationRequest, results: Sequence[Mapping[str, Any]]) -> None:
    leaks.tell(results[0]["protocol"]["leaks"])
    for result in results:
        save = request.save or apart(temporal_path(request.subject.path, result["protocol"]), result["protocol"])
        if request.save and len(results) > 1:
            save = save.with_name(f"{save.stem}_{result['protocol']['alignment']}{save.suffix}")
        saved = announced(save)
        save_temporal(result, save)
        report.report_temporal(result, saved)
