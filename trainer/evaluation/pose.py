"""Predicted camera motion against true motion: the direction between neighbouring frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.base import DepthDataset
from trainer.evaluation.predictions import PLAIN, Execution, evenly_spaced, read_items
from trainer.metrics.direction import summarise_directions
from trainer.runtime.errors import UserError
from trainer.runtime.processes import FoundByAll

PredictPose = Callable[[dict[str, Tensor]], Tensor]  # batch on the CPU -> motions Ts (b n 4 4), any device


def evaluate_pose(
    predict: PredictPose,
    dataset: DepthDataset,
    how: Execution = PLAIN,
    *,
    limit: int | None = None,
) -> dict[str, Any]:
    """Measure the angle between predicted and true translation of every temporal support.

    The stereo partner does not count: its pose is known, not predicted.

    The items of `dataset` have `Ts_true` (n 4 4); its `supp_idxs` name the supports. `limit` is that of
    `evaluate_side_by_side`.

    Returns angles in degrees and counts as in `summarise_directions`, and the frame offsets they belong to.

    Raises UserError when there is no temporal support, no true motion, or a prediction that is not finite.
    """
    temporal = [i for i, frame in enumerate(dataset.supp_idxs) if frame != 0]
    if not temporal:
        raise UserError(f"pose needs a frame other than 0 in dataset.supp_idxs: {list(dataset.supp_idxs)}")
    mine: list[tuple[int, np.ndarray, np.ndarray]] = []  # index, predicted and true translations (n 3)
    for index, pred, true in predicted_motions(predict, dataset, evenly_spaced(limit, len(dataset)), how):
        mine.append((index, pred[temporal, :3, 3], true[temporal, :3, 3]))
        how.on_item()
    rows = sorted(how.processes.gather(mine), key=lambda row: row[0])
    pred_t, true_t = (np.stack([row[i] for row in rows]) for i in (1, 2))  # (b n 3)
    broken = np.flatnonzero(~np.isfinite(pred_t).all(axis=(1, 2)))
    if broken.size:
        index = rows[broken[0]][0]
        raise FoundByAll(
            f"item {index} ({dataset.describe(index)}): the predicted motion is not finite. "
            "Evaluate an earlier checkpoint"
        )
    if not true_t.any():
        raise FoundByAll("the camera moves in none of the items, so no motion has a direction to compare")
    frames = [int(dataset.supp_idxs[i]) for i in temporal]
    return {"supp_idxs": frames, **summarise_directions(pred_t, true_t)}


def predicted_motions(
    predict: PredictPose, dataset: DepthDataset, indices: Sequence[int], how: Execution
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield index, predicted and true motions (n 4 4) of this process's items. Raises UserError without true motion."""
    for chosen, items in read_items(dataset, indices, how):
        _require_motion(items[0])
        batch = {key: torch.stack([item[key] for item in items]) for key in items[0] if key != "depth"}
        with torch.inference_mode():
            pred = predict(batch).float().cpu().double().numpy()
        yield from zip(chosen, pred, batch["Ts_true"].double().numpy(), strict=True)


def true_motions(dataset: DepthDataset, indices: Sequence[int], how: Execution) -> Iterator[tuple[int, np.ndarray]]:
    """Yield index and true motions (n 4 4) of this process's items. Raises UserError without true motion."""
    for chosen, items in read_items(dataset, indices, how):
        _require_motion(items[0])
        yield from zip(chosen, (item["Ts_true"].double().numpy() for item in items), strict=True)


def _require_motion(item: Mapping[str, Tensor]) -> None:
    if "Ts_true" not in item:
        raise UserError("this data set has no true camera motion (Ts_true), so there is nothing to compare with")
