"""Depth from frame to frame: clips of a data set, aligned as a whole, by the temporal alignment error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.base import DepthDataset
from trainer.evaluation.depth import intrinsics
from trainer.evaluation.pose import true_motions
from trainer.evaluation.predictions import PLAIN, DepthSource, Execution, predicted_maps, predictions, read_items
from trainer.evaluation.results import write_result
from trainer.metrics.align import Fit
from trainer.metrics.protocol import DepthProtocol
from trainer.metrics.temporal import FORMULAS, UNITS, Frame, apply_to_clip, beyond, fit_clip, rule_for_clips, score_clip
from trainer.runtime.errors import UserError
from trainer.runtime.processes import ALONE, FoundByAll

PredictScene = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor, Tensor]]  # batch -> depth, motions, K
MOST_FRAMES = 500  # of a clip, whose depth maps are in memory together; longer ones are cut
CLIPS = f"unbroken runs of frames, at most {MOST_FRAMES}"
TRUE, LEARNED = "true motion", "learned motion"
UNALIGNED = (
    "1: depth and motion are those of one network and in its unit; the error tells whether they agree, not whether they"
    " are right"
)
METRICS = {"temporal": {"version": 1, "units": dict(UNITS), "higher_is_better": [], "formulas": dict(FORMULAS)}}


@dataclass(frozen=True)
class Clip:
    """Successive frames of one camera, two or more: their items in order, and the motion (4 4) of each to the next."""

    name: str
    items: Sequence[int]
    motions: Sequence[np.ndarray]


def evaluate_temporal(
    source: DepthSource,
    frames: DepthDataset,
    moving: DepthDataset,
    protocols: Sequence[DepthProtocol],
    how: Execution = PLAIN,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Predict the depth of every clip, align it once under each protocol, and move it by the true motion.

    `frames` has items as `evaluate_side_by_side` takes them, with K; `moving` the same frames with their true motion
    `Ts_true` (1 4 4) to the next one, its only support. `metadata` is stored with the protocols. Processes share clips;
    one without valid pixel is skipped.

    Returns for each protocol `mean` over clips, `clips`, and `protocol`, plain data.

    Raises UserError when there is no clip, no true motion, no K, or no clip with a valid pixel.
    """
    clips = cut_clips(frames, _motions_by_place(moving, how))
    mine = []
    for i_clip in how.processes.share(range(len(clips))):
        clip = clips[i_clip]
        read = predictions(source, frames, clip.items, replace(how, processes=ALONE))
        rows = _score_aligned(clip, read, frames, protocols, how.on_item)
        mine.append((i_clip, rows))
    scored = sorted(how.processes.gather(mine), key=lambda row: row[0])
    results = []
    for i, protocol in enumerate(protocols):
        about = {**protocol.describe(), "factor": rule_for_clips(protocol.alignment), "poses": TRUE, **(metadata or {})}
        results.append(_summarise([rows[i] for _, rows in scored if rows], about))
    return results


def evaluate_learned_temporal(
    predict: PredictScene,
    moving: DepthDataset,
    how: Execution = PLAIN,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Predict depth and motion of every clip and compare them with each other: no truth, no alignment.

    Both are in the unit of the network, so that nothing has to be fitted. The only support of `moving` is the next
    frame. All pixels count, at the size of the network.
    """
    clips = cut_clips(moving, None)
    mine = []
    for i_clip in how.processes.share(range(len(clips))):
        read = _predicted_scenes(predict, moving, clips[i_clip], how)
        frames, motions = zip(*read, strict=True)
        mine.append((i_clip, {**_about(clips[i_clip], moving), **score_clip(frames, motions[:-1])}))
    rows = [row for _, row in sorted(how.processes.gather(mine), key=lambda row: row[0])]
    about = {"alignment": "none", "factor": UNALIGNED, "crop": "none", "poses": LEARNED, "metrics": METRICS}
    return _summarise(rows, {**about, **(metadata or {})})


def save_temporal(result: Mapping[str, Any], path: str | Path) -> None:
    """Write numbers, protocol and every clip as YAML. Raises CannotWrite, a UserError, when the disk refuses."""
    head = {"mean": result["mean"], "protocol": result["protocol"]}
    write_result(path, head, {"clips": result["clips"]}, width=120)


def cut_clips(dataset: DepthDataset, motions: Mapping[tuple[str, int], np.ndarray] | None) -> list[Clip]:
    """Cut a data set where the recording changes, a frame or its motion is missing, and after `MOST_FRAMES`.

    `motions` by place; None = they are not needed. Raises UserError when no two frames follow each other.
    """
    places = sorted((*dataset.place(index), index) for index in range(len(dataset)))

    def run_of(row: tuple[int, tuple[str, int, int]]) -> tuple[str, int, int]:
        i_row, (recording, frame, _) = row
        return recording, frame - i_row, breaks[i_row]

    # Where the motion from the frame before is not known, another clip begins.
    breaks = np.cumsum([motions is not None and place[:2] not in motions for place in [("", 0, 0), *places]])[:-1]
    found = []
    for (recording, *_), run in groupby(enumerate(places), run_of):
        rows = [place for _, place in run]
        for start in range(0, len(rows), MOST_FRAMES):
            part = rows[start : start + MOST_FRAMES]
            if len(part) > 1:
                known = [] if motions is None else [motions[recording, frame] for _, frame, _ in part[:-1]]
                found.append(Clip(recording, [index for *_, index in part], known))
    if not found:
        raise UserError(
            f"none of {len(dataset)} items is followed by the next frame of its recording: the temporal alignment error"
            " needs clips. Name another split"
        )
    return found


def _motions_by_place(moving: DepthDataset, how: Execution) -> dict[tuple[str, int], np.ndarray]:
    if tuple(moving.supp_idxs) != (1,):
        raise UserError(f"clips need dataset.supp_idxs [1], the next frame, got {list(moving.supp_idxs)}")
    mine = [(moving.place(index), Ts[0]) for index, Ts in true_motions(moving, range(len(moving)), how)]
    return dict(how.processes.gather(mine))


def _score_aligned(
    clip: Clip,
    read: Iterator[tuple[int, dict[str, Tensor], np.ndarray, np.ndarray]],
    frames: DepthDataset,
    protocols: Sequence[DepthProtocol],
    on_item: Callable[[], None],
) -> list[dict[str, Any]]:
    """Score one clip under each protocol; [] without a valid pixel."""
    raw: list[Frame] = []
    valid_pred, valid_truth = [], []
    for index, item, depth, truth in read:
        K = intrinsics(item, truth.shape)
        if K is None:
            raise UserError(f"item {index} ({frames.describe(index)}) comes without K, so its depth cannot be moved")
        scored = protocols[0].valid_pixels(truth)  # the protocols differ in alignment only
        valid_pred.append(depth[scored].astype(np.float32))
        valid_truth.append(truth[scored].astype(np.float32))
        raw.append(Frame(depth.astype(np.float32), scored, K))
        on_item()
    pred, target = np.concatenate(valid_pred), np.concatenate(valid_truth)
    if not len(pred):
        return []
    return [_score_fitted(clip, raw, fit_clip(p.alignment, pred, target), p, pred, frames) for p in protocols]


def _score_fitted(
    clip: Clip, raw: Sequence[Frame], fit: Fit, protocol: DepthProtocol, pred: np.ndarray, frames: DepthDataset
) -> dict[str, Any]:
    def metres(frame: Frame) -> Frame:
        aligned = protocol.clip(apply_to_clip(fit, frame.depth.astype(np.float64)))
        if not fit.of_inverse:  # there, a missing disparity is the least one, and far
            aligned[frame.depth <= 0] = 0
        return Frame(aligned, frame.scored, frame.K)

    row = {**_about(clip, frames), **score_clip(map(metres, raw), clip.motions), "factor": fit.scale}
    if protocol.alignment.has_shift:
        row["shift"] = fit.shift
    if fit.of_inverse:
        row["below_least_disp_pct"] = 100 * beyond(pred) / len(pred)
    return row


def _predicted_scenes(
    predict: PredictScene,
    moving: DepthDataset,
    clip: Clip,
    how: Execution,
) -> Iterator[tuple[Frame, np.ndarray]]:
    """Yield each frame of a clip as the network sees it, and its motion to the next one."""
    for chosen, items in read_items(moving, clip.items, replace(how, processes=ALONE)):
        batch = {key: torch.stack([item[key] for item in items]) for key in ("target", "supports", "K")}
        with torch.inference_mode():
            depth, Ts, K = predict(batch)

        def predicted(_: Tensor, depth: Tensor = depth) -> Tensor:
            return depth

        maps = predicted_maps(predicted, items, chosen, moving)
        for index, one, T, camera in zip(chosen, maps, Ts[:, 0].cpu(), K.cpu(), strict=True):
            if not (torch.isfinite(T).all() and torch.isfinite(camera).all()):
                raise UserError(f"item {index} ({moving.describe(index)}): the predicted motion is not finite")
            frame = Frame(one.numpy(), np.ones(one.shape, bool), camera.double().numpy())
            how.on_item()
            yield frame, T.double().numpy()


def _about(clip: Clip, dataset: DepthDataset) -> dict[str, Any]:
    return {"name": clip.name, "first": dataset.describe(clip.items[0]), "frames": len(clip.items)}


def _summarise(rows: Sequence[dict[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    known = [row["tae_pct"] for row in rows if row["tae_pct"] is not None]
    if not known:
        raise FoundByAll(
            "nothing was scored: no two neighbouring frames have a common pixel, with a truth where the motion is true."
            " Check the ground truth, then the limits and the crop"
        )
    counts = {"mean_over": "clips", "clips": CLIPS, "metrics": METRICS}
    size = {"clips_scored": len(known), "items": sum(row["frames"] for row in rows)}
    protocol = {**about, **counts, **size}
    return {"mean": {"tae_pct": float(np.mean(known))}, "clips": list(rows), "protocol": protocol}
