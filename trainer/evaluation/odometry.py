"""Predicted camera motion, chained frame by frame, against the true path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.base import DepthDataset
from trainer.evaluation.pose import PredictPose, predicted_motions
from trainer.evaluation.predictions import PLAIN, Execution
from trainer.evaluation.results import write_result
from trainer.metrics.odometry import FORMULAS, LENGTHS_M, UNITS, score_sequence
from trainer.runtime.errors import UserError
from trainer.runtime.processes import FoundByAll

SNIPPET_FRAMES = 5  # SfM-Learner, arXiv:1704.07813
PROTOCOL: Mapping[str, Any] = {
    "alignment": "scale",
    "factor": "least squares of positions: per snippet for ate_m, per sequence for the drift",
    "snippet_frames": SNIPPET_FRAMES,
    "segment_lengths_m": list(LENGTHS_M),
    "mean_over": "snippets, segments",
    "metrics": {"odometry": {"version": 1, "units": dict(UNITS), "higher_is_better": [], "formulas": dict(FORMULAS)}},
}


def evaluate_odometry(
    predict: PredictPose,
    dataset: DepthDataset,
    how: Execution = PLAIN,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Chain the motion of every frame to the next one and score each unbroken sequence.

    The items of `dataset` have `Ts_true` (1 4 4) in metres and names (`describe`) that end in `/<frame>`; its only
    support is the next frame. `metadata` is stored with the protocol.

    Returns `mean` (weighted by the snippets and segments of each sequence), `sequences` and `protocol`, plain data.

    Raises UserError when the data set has another support, no true motion, names without frame numbers, a prediction
    is not finite, or no sequence is long enough.
    """
    if tuple(dataset.supp_idxs) != (1,):
        raise UserError(f"odometry needs dataset.supp_idxs [1], the next frame, got {list(dataset.supp_idxs)}")
    mine: list[tuple[str, int, np.ndarray, np.ndarray]] = []  # sequence, frame, predicted and true motion
    for index, (ours, *_), (theirs, *_) in predicted_motions(predict, dataset, range(len(dataset)), how):
        if not np.isfinite(ours).all():
            raise UserError(f"item {index} ({dataset.describe(index)}): the predicted motion is not finite")
        mine.append((*dataset.place(index), ours, theirs))
        how.on_item()
    rows = sorted(how.processes.gather(mine), key=lambda row: row[:2])
    sequences = [_scored(run) for run in _unbroken(rows)]
    mean = _mean(sequences)
    if not mean:
        raise FoundByAll(
            f"no sequence has {SNIPPET_FRAMES} frames in a row: odometry needs unbroken ones. Name another split"
        )
    return {"mean": mean, "sequences": sequences, "protocol": {**PROTOCOL, **(metadata or {})}}


def save_odometry(result: Mapping[str, Any], path: str | Path) -> None:
    """Write numbers, protocol and every sequence as YAML. Raises CannotWrite, a UserError, when the disk refuses."""
    head = {"mean": result["mean"], "protocol": result["protocol"]}
    write_result(path, head, {"sequences": result["sequences"]}, width=120)


def _unbroken(rows: Sequence[tuple[str, int, np.ndarray, np.ndarray]]) -> list[list[Any]]:
    """Cut sorted rows where the sequence changes or a frame is missing."""

    def run_of(place: tuple[int, Any]) -> tuple[str, int]:
        i_row, (sequence, frame, *_) = place
        return sequence, frame - i_row  # the same as long as frame and position grow together

    return [[row for _, row in run] for _, run in groupby(enumerate(rows), run_of)]


def _scored(run: Sequence[Any]) -> dict[str, Any]:
    pred, true = (np.stack([row[i] for row in run]) for i in (2, 3))
    return {"name": run[0][0], "first_frame": run[0][1], **score_sequence(pred, true, SNIPPET_FRAMES)}


def _mean(sequences: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    mean = {}
    for key, count in (("ate_m", "snippets"), ("t_err_pct", "segments"), ("r_err_deg_per_100m", "segments")):
        total = sum(s[count] for s in sequences)
        if total:
            mean[key] = sum(s[count] * s[key] for s in sequences if s[count]) / total
    return mean
