"""Predicted camera motion, chained frame by frame, against the true path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from trainer.data.base import DepthDataset
from trainer.evaluation.pose import PredictPose
from trainer.evaluation.predictions import batches_of, read_items
from trainer.evaluation.results import RESULT_FORMAT, write_yaml
from trainer.metrics.odometry import FORMULAS, LENGTHS_M, UNITS, score_sequence
from trainer.runtime.errors import UserError
from trainer.runtime.processes import ALONE, FoundByAll, Processes

SNIPPET_FRAMES = 5  # SfM-Learner, arXiv:1704.07813


def evaluate_odometry(
    predict: PredictPose,
    dataset: DepthDataset,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    about: Mapping[str, Any] | None = None,
    on_item: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Chain the motion of every frame to the next one and score each unbroken sequence.

    Args:
        predict: batch of the keys of `trainer.types.Batch` on the CPU, without depth -> motions (b 1 4 4).
        dataset: items with `Ts_true` (1 4 4) in metres, whose names (`describe`) end in `/<frame>`; its only support is
            the next frame.
        batch_size: items per call of `predict`.
        num_workers: processes that load items; 0 = this one.
        about: where data and weights come from; stored with the protocol.
        on_item: called after each item.
        processes: the ones that share the work; each returns the whole result.

    Returns `mean` (weighted by the snippets and segments of each sequence), `sequences` and `protocol`, plain data.

    Raises UserError when the data set has another support, no true motion, names without frame numbers, a prediction
    is not finite, or no sequence is long enough.
    """
    if tuple(dataset.supp_idxs) != (1,):
        raise UserError(
            f"odometry needs dataset.supp_idxs [1], the next frame, got {list(dataset.supp_idxs)}"
        )
    batches = processes.share(batches_of(range(len(dataset)), batch_size))
    mine: list[tuple[str, int, np.ndarray, np.ndarray]] = []  # sequence, frame, predicted and true motion
    for chosen, items in read_items(dataset, batches, num_workers):
        if "Ts_true" not in items[0]:
            raise UserError(
                "this data set does not know how the camera moved: odometry has nothing to compare with"
            )
        batch = {key: torch.stack([item[key] for item in items]) for key in items[0] if key != "depth"}
        with torch.inference_mode():
            pred = predict(batch).float().cpu()[:, 0].double().numpy()
        true = batch["Ts_true"][:, 0].double().numpy()
        for index, ours, theirs in zip(chosen, pred, true, strict=True):
            if not np.isfinite(ours).all():
                raise UserError(
                    f"item {index} ({dataset.describe(index)}): the predicted motion is not finite"
                )
            mine.append((*_place(dataset, index), ours, theirs))
            on_item()
    rows = sorted(processes.gather(mine), key=lambda row: row[:2])
    sequences = [_scored(run) for run in _unbroken(rows)]
    mean = _mean(sequences)
    if not mean:
        raise FoundByAll(
            f"no sequence has {SNIPPET_FRAMES} frames in a row: odometry needs unbroken ones. Name another split"
        )
    return {"mean": mean, "sequences": sequences, "protocol": {**_protocol(), **(about or {})}}


def save_odometry(result: Mapping[str, Any], path: str | Path) -> None:
    """Write numbers, protocol and every sequence as YAML. Raises CannotWrite, a UserError, when the disk refuses."""
    head = {"format": RESULT_FORMAT, "mean": result["mean"], "protocol": result["protocol"]}
    text = yaml.safe_dump(head, sort_keys=False, width=120)
    text += yaml.safe_dump({"sequences": result["sequences"]}, sort_keys=False, width=120)
    write_yaml(Path(path), text)


def _place(dataset: DepthDataset, index: int) -> tuple[str, int]:
    sequence, _, frame = dataset.describe(index).rpartition("/")
    if not frame.isdecimal():
        raise UserError(
            f"item {index} is called {dataset.describe(index)!r}, which does not end in a frame number: odometry does"
            " not know what follows it"
        )
    return sequence, int(frame)


def _unbroken(rows: Sequence[tuple[str, int, np.ndarray, np.ndarray]]) -> list[list[Any]]:
    """Cut rows where the sequence changes or a frame is missing."""
    runs: list[list[Any]] = []
    for row in rows:
        if runs and runs[-1][-1][0] == row[0] and runs[-1][-1][1] + 1 == row[1]:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


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


def _protocol() -> dict[str, Any]:
    return {
        "alignment": "scale",
        "factor": "least squares of positions: per snippet for ate_m, per sequence for the drift",
        "snippet_frames": SNIPPET_FRAMES,
        "segment_lengths_m": list(LENGTHS_M),
        "mean_over": "snippets, segments",
        "metrics": {
            "odometry": {
                "version": 1,
                "units": dict(UNITS),
                "higher_is_better": [],
                "formulas": dict(FORMULAS),
            }
        },
    }
