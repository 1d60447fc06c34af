"""Score networks on a data set, item by item, with the protocol beside every number.

The network sees batches; every truth keeps its own size. Predictions are resized as inverse depth,
bilinearly with half-pixel centres (`align_corners=False`, the rule of OpenCV's bilinear resize), as the
tables of this field do. No post-processing by flipping. The same data, network and protocol give the same
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from torch.utils.data import DataLoader

from trainer.atomic import CannotWrite, why_not, write_text
from trainer.data.base import DepthDataset
from trainer.metrics.baselines import MaskedTruth, score_baselines
from trainer.metrics.direction import summarise_directions
from trainer.metrics.protocol import HEADLINE, DepthProtocol
from trainer.types import UserError

PredictDepth = Callable[[Tensor], Tensor]  # images (b 3 h w) on the CPU -> depth (b 1 h w), any device
PredictPose = Callable[[dict[str, Tensor]], Tensor]  # batch on the CPU -> motions Ts (b n 4 4), any device

RESULT_FORMAT = 1  # of the result file


@dataclass
class EvaluationResult:
    """Means over the items, what blind guesses reach under the same protocol, and each item."""

    mean: dict[str, float]  # over items
    factor: dict[str, float]  # median of the alignment factors, and their std / median
    baselines: dict[str, dict[str, Any]]  # "constant_depth", "row_mean_depth": how made, its means
    protocol: dict[str, Any]
    items: list[dict[str, Any]] = field(repr=False)
    skipped: list[str] = field(default_factory=list)  # names of items without a valid pixel
    pose: dict[str, Any] | None = None

    @property
    def ratio_to_constant(self) -> float:
        """AbsRel over that of the best constant depth; below 1, the network makes use of the image."""
        constant = self.baselines["constant_depth"][HEADLINE]
        return self.mean[HEADLINE] / constant if constant else math.inf


def evaluate_depth(
    predict: PredictDepth,
    dataset: DepthDataset,
    protocol: DepthProtocol,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    limit: int | None = None,
    about: Mapping[str, Any] | None = None,
    on_item: Callable[[], None] = lambda: None,
) -> EvaluationResult:
    """Predict, align and score every item.

    Args:
        predict: images (b 3 h w) in [0, 1] -> positive depth (b 1 h w) in the unit of the network.
        dataset: items with `target` (3 h w) and `depth` (1 H W) in metres, 0 = none; (H, W) may vary.
        protocol: which pixels count, how depth becomes metres, what is measured.
        batch_size: images per call of `predict`.
        num_workers: processes that load items; 0 = this one.
        limit: score only so many items, spread evenly over the data set.
        about: where data and weights come from; stored with the protocol.
        on_item: called after each item, for a progress bar.

    Raises UserError when an item has no depth, a prediction is not a positive finite number, or no item has a
    valid pixel.
    """
    indices = evenly_spaced(limit, len(dataset))
    items: list[dict[str, Any]] = []
    truths: list[MaskedTruth] = []
    skipped: list[str] = []
    for index, item, depth in _predictions(predict, dataset, indices, batch_size, num_workers):
        name, truth = dataset.describe(index), _truth_map(item, dataset, index)
        valid = protocol.valid_pixels(truth)
        on_item()
        if not valid.any():
            skipped.append(name)
            continue
        pred, target = resize_as_inverse(depth, truth.shape)[valid], truth[valid].astype(np.float64)
        factor = protocol.alignment.factor(pred, target)
        scores = protocol.score(factor * pred, target)
        items.append({"index": index, "name": name, "pixels": int(valid.sum()), "factor": factor, **scores})
        truths.append(MaskedTruth.of(truth, valid))
    if not items:
        raise UserError(
            f"nothing was scored: none of {len(indices)} items has a true depth {protocol.where()}. "
            "Check that the data set has ground truth, then the limits and the crop"
        )
    part = None if len(indices) == len(dataset) else f"{len(indices)} of {len(dataset)}, evenly spaced"
    counts = {"items": len(items), "skipped_without_valid_pixel": len(skipped), "limit": part}
    return EvaluationResult(
        mean=protocol.mean(items),
        factor=_spread([item["factor"] for item in items]),
        baselines=score_baselines(truths, protocol),
        protocol={**protocol.describe(), **counts, **(about or {})},
        items=items,
        skipped=skipped,
    )


def depth_pictures(
    predict: PredictDepth, dataset: DepthDataset, indices: Sequence[int], protocol: DepthProtocol
) -> Iterator[dict[str, Any]]:
    """Yield the given items to look at, as maps of the size of their truth.

    Each maps `input` (h w 3) in [0, 1], `prediction` (H W) inverse depth in 1/metres, `truth` (H W) metres
    with 0 where nothing is scored, `error` (H W) |prediction - truth| / truth with NaN there, `label` and
    `abs_rel`. An item without valid pixel is not aligned.
    """
    for index, item, depth in _predictions(predict, dataset, indices, batch_size=1, num_workers=0):
        truth = _truth_map(item, dataset, index)
        valid = protocol.valid_pixels(truth)
        pred = resize_as_inverse(depth, truth.shape)
        factor = protocol.alignment.factor(pred[valid], truth[valid]) if valid.any() else 1.0
        pred = protocol.clip(factor * pred)
        error = np.full(truth.shape, np.nan)
        error[valid] = np.abs(pred[valid] - truth[valid]) / truth[valid]
        yield {
            "input": item["target"].permute(1, 2, 0).numpy(),
            "prediction": 1 / pred,
            "truth": np.where(valid, truth, 0.0),
            "error": error,
            "label": dataset.describe(index),
            "abs_rel": float(error[valid].mean()) if valid.any() else None,
        }


def evaluate_pose(
    predict: PredictPose,
    dataset: DepthDataset,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    limit: int | None = None,
    on_item: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure the angle between predicted and true translation of every temporal support.

    The stereo partner is left out: its pose is given, not predicted.

    Args:
        predict: batch of the keys of `trainer.types.Batch` on the CPU, without depth -> motions (b n 4 4).
        dataset: items with `Ts_true` (n 4 4); its `supp_idxs` name the supports.
        batch_size: items per call of `predict`.
        num_workers: processes that load items; 0 = this one.
        limit: use only so many items, spread evenly.
        on_item: called after each item.

    Returns:
        Angles in degrees and counts as in `summarise_directions`, and the frame offsets they belong to.

    Raises UserError when there is no temporal support, no true motion, or a prediction that is not finite.
    """
    temporal = [i for i, frame in enumerate(dataset.supp_idxs) if frame != 0]
    if not temporal:
        raise UserError(f"pose needs a frame other than 0 in dataset.supp_idxs: {list(dataset.supp_idxs)}")
    indices = evenly_spaced(limit, len(dataset))
    pred, true = [], []
    for items in _item_batches(dataset, indices, batch_size, num_workers):
        if "Ts_true" not in items[0]:
            raise UserError("this data set does not know how the camera moved: leave out the pose evaluation")
        batch = {key: torch.stack([item[key] for item in items]) for key in items[0] if key != "depth"}
        with torch.inference_mode():
            pred.append(predict(batch).float().cpu()[:, temporal, :3, 3])
        true.append(batch["Ts_true"][:, temporal, :3, 3])
        for _ in items:
            on_item()
    pred_t, true_t = torch.cat(pred).double().numpy(), torch.cat(true).double().numpy()  # (b n 3)
    broken = np.flatnonzero(~np.isfinite(pred_t).all(axis=(1, 2)))
    if broken.size:
        index = indices[broken[0]]
        raise UserError(
            f"item {index} ({dataset.describe(index)}): the predicted motion is not finite. "
            "Evaluate an earlier checkpoint"
        )
    if not true_t.any():
        raise UserError("the camera moves in none of the items, so no motion has a direction to compare")
    frames = [int(dataset.supp_idxs[i]) for i in temporal]
    return {"supp_idxs": frames, **summarise_directions(pred_t, true_t)}


def evenly_spaced(count: int | None, total: int) -> list[int]:
    """Choose `count` of `total` positions from first to last; all of them when None or too many."""
    if count is not None and count < 1:
        raise UserError(f"the number of items must be 1 or more, got {count}")
    if count is None or count >= total:
        return list(range(total))
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def resize_as_inverse(depth: Tensor, size: tuple[int, ...]) -> np.ndarray:
    """Resize positive depth (h w) to `size` (H, W), bilinearly in inverse depth. Returns (H W) float64."""
    inverse = 1 / depth.double()
    resized = F.interpolate(inverse[None, None], size=tuple(size), mode="bilinear", align_corners=False)
    return 1 / resized[0, 0].numpy()


def save_result(result: EvaluationResult, path: str | Path) -> None:
    """Write numbers, protocol and every item as YAML. The file appears complete or not at all.

    Raises CannotWrite, a UserError, when the disk refuses.
    """
    head = {
        "format": RESULT_FORMAT,
        "mean": result.mean,
        "baselines": result.baselines,
        "ratio_to_constant_depth": result.ratio_to_constant,
        "factor": result.factor,
        **({"pose": result.pose} if result.pose else {}),
        "protocol": result.protocol,
    }
    rows = {"items": result.items, "skipped": result.skipped}
    text = yaml.safe_dump(head, sort_keys=False, width=120)
    text += yaml.safe_dump(rows, sort_keys=False, width=10**6, default_flow_style=None)  # one line per item
    folder = Path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(why_not(folder, error, "made")) from error
    write_text(Path(path), text)


def _item_batches(
    dataset: DepthDataset, indices: Sequence[int], batch_size: int, num_workers: int
) -> Iterator[list[dict[str, Tensor]]]:
    """Yield the items in lists, in order. Lists, because truths may differ in size."""
    if batch_size < 1:
        raise UserError(f"batch_size must be 1 or more, got {batch_size}")
    return iter(
        DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=list(indices),
            num_workers=num_workers,
            collate_fn=list,
            generator=torch.Generator(),  # leaves the global one alone
        )
    )


def _predictions(
    predict: PredictDepth, dataset: DepthDataset, indices: Sequence[int], batch_size: int, num_workers: int
) -> Iterator[tuple[int, dict[str, Tensor], Tensor]]:
    """Yield (index, item, depth (h w) on the CPU) in order. Raises UserError for a depth that is none."""
    waiting = iter(indices)
    for items in _item_batches(dataset, indices, batch_size, num_workers):
        with torch.inference_mode():
            depths = predict(torch.stack([item["target"] for item in items])).float().cpu()[:, 0]  # (b h w)
        for item, depth in zip(items, depths, strict=True):
            index = next(waiting)
            bad = int((~(depth.isfinite() & (depth > 0))).sum())
            if bad:
                raise UserError(
                    f"item {index} ({dataset.describe(index)}): the predicted depth is not a positive finite "
                    f"number at {bad} of {depth.numel()} pixels. Evaluate an earlier checkpoint"
                )
            yield index, item, depth


def _truth_map(item: Mapping[str, Tensor], dataset: DepthDataset, index: int) -> np.ndarray:
    """The true depth (H W) of an item, metres."""
    if "depth" not in item:
        raise UserError(
            f"item {index} ({dataset.describe(index)}) comes without ground truth: "
            "set dataset.use_depth to true, or evaluate a split that has depth"
        )
    return item["depth"][0].numpy()


def _spread(factors: Sequence[float]) -> dict[str, float]:
    centre = float(np.median(factors))
    return {"median": centre, "relative_std": float(np.std(np.asarray(factors) / centre))}
