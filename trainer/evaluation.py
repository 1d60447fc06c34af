"""Score a depth network on a data set, item by item, with the protocol beside every number.

The network sees batches; every truth keeps its own size. Predictions are resized as inverse depth, bilinearly with half-pixel
centres (`align_corners=False`, the rule of OpenCV's bilinear resize), as tables of this field do. No post-processing by
flipping. The same data, network and protocol give the same file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from models_zoo.registry import did_you_mean
from trainer.data.base import DepthDataset
from trainer.metrics import METRICS, MetricSet
from trainer.metrics.align import ALIGNMENTS
from trainer.metrics.baselines import RowMeanDepth, best_constant_depth
from trainer.metrics.crop import CROPS
from trainer.types import UserError

Predict = Callable[[Tensor], Tensor]  # images (b 3 h w) on the CPU -> depth (b 1 h w), any device

HEADLINE = "abs_rel"  # what the ratio to the best constant depth compares


@dataclass
class EvaluationResult:
    """Means over the items, what blind guesses reach under the same protocol, and each item."""

    mean: dict[str, float]  # over items
    factor: dict[str, float]  # median of the alignment factors, and their std / median
    baselines: dict[str, dict[str, Any]]  # "constant_depth", "row_mean_depth": how it was made, then its means
    protocol: dict[str, Any]
    items: list[dict[str, Any]] = field(repr=False)
    skipped: list[str] = field(default_factory=list)  # items without a valid pixel
    pose: dict[str, Any] | None = None

    @property
    def ratio_to_constant(self) -> float:
        """AbsRel over that of the best constant depth: below 1 the network has learned something from the image."""
        constant = self.baselines["constant_depth"][HEADLINE]
        return self.mean[HEADLINE] / constant if constant else math.inf


class DepthProtocol:
    """Which pixels count, how depth becomes metres, and what is measured.

    Args:
        metrics: names of metric sets; `eigen` must be one of them.
        alignment: `median`, `stereo` or `none`, see `trainer.metrics.align`.
        crop: `garg`, `eigen` or `none`, see `trainer.metrics.crop`.
        min_depth: pixels with min_depth < truth < max_depth count; predictions are clipped to that range, in metres.
        max_depth: see `min_depth`.

    Raises UserError naming the choices when a name is unknown or the range is empty.
    """

    def __init__(
        self, metrics: Sequence[str], alignment: str, crop: str, min_depth: float = 1e-3, max_depth: float = 80.0
    ):
        self.alignment = _choose("alignment", alignment, ALIGNMENTS)
        self.crop = _choose("crop", crop, CROPS)
        if not 0 < min_depth < max_depth:
            raise UserError(f"evaluation needs 0 < min_depth < max_depth, got {min_depth} and {max_depth} metres")
        self.min_depth, self.max_depth = float(min_depth), float(max_depth)
        known = {name: name for name in METRICS.names()}
        self.sets: dict[str, MetricSet] = {n: METRICS.create(_choose("metric set", n, known)) for n in metrics}
        self.names = {"alignment": alignment, "crop": crop}
        keys = [key for metric_set in self.sets.values() for key in metric_set.keys]
        if HEADLINE not in keys:
            raise UserError(f"no metric set among {list(metrics)} has {HEADLINE!r}: add 'eigen'")
        if len(set(keys)) < len(keys):
            raise UserError(f"metric sets {list(metrics)} share a key, so one would hide the other: give them one by one")

    def valid_pixels(self, truth: np.ndarray) -> np.ndarray:
        """Mark the pixels that count, (H W) bool. truth (H W) metres."""
        return (truth > self.min_depth) & (truth < self.max_depth) & self.crop.mask(*truth.shape)

    def clip(self, depth: np.ndarray) -> np.ndarray:
        """Clip metres to [min_depth, max_depth]."""
        return np.clip(depth, self.min_depth, self.max_depth)

    def score(self, pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """All metrics of the valid pixels (n,), both in metres, in the order of the sets."""
        pred = self.clip(pred)
        return {key: value for s in self.sets.values() for key, value in s.compute(pred, truth).items()}

    def describe(self) -> dict[str, Any]:
        """The protocol as it is stored in result files."""
        return {
            "alignment": self.names["alignment"],
            "factor": self.alignment.rule,
            "crop": self.names["crop"],
            "min_depth_m": self.min_depth,
            "max_depth_m": self.max_depth,
            "resize": "inverse depth, bilinear, to the size of the truth",
            "flip_post_processing": False,
            "mean_over": "images",
            "metrics": {
                name: {
                    "version": s.version,
                    "units": {m.key: m.unit for m in s.metrics},
                    "higher_is_better": [m.key for m in s.metrics if m.higher_is_better],
                }
                for name, s in self.sets.items()
            },
        }


@dataclass(frozen=True)
class DepthPicture:
    """One evaluated item to look at."""

    name: str
    image: np.ndarray  # (3 h w) in [0, 1]
    prediction: np.ndarray  # (H W) metres, aligned and clipped
    truth: np.ndarray  # (H W) metres, 0 where nothing is scored
    abs_rel: np.ndarray  # (H W) |prediction - truth| / truth, NaN where nothing is scored


@dataclass(frozen=True)
class _Truth:
    """The valid pixels of one item, small enough to keep for the baselines."""

    depth: np.ndarray  # (n,) float32 metres
    row: np.ndarray  # (n,) int16
    height: int


def evaluate_depth(
    predict: Predict,
    dataset: DepthDataset,
    *,
    metrics: Sequence[str] = ("eigen",),
    alignment: str,
    crop: str,
    min_depth: float = 1e-3,
    max_depth: float = 80.0,
    batch_size: int = 8,
    num_workers: int = 0,
    limit: int | None = None,
    about: Mapping[str, Any] | None = None,
    on_item: Callable[[], None] = lambda: None,
) -> EvaluationResult:
    """Predict, align and score every item.

    Args:
        predict: images (b 3 h w) in [0, 1] on the CPU -> depth (b 1 h w) in the unit of the network, positive.
        dataset: items with `target` (3 h w) and `depth` (1 H W) in metres, 0 = none; H and W may differ between items.
        metrics: see `DepthProtocol`, as the next four.
        alignment: see above.
        crop: see above.
        min_depth: see above.
        max_depth: see above.
        batch_size: images per call of `predict`.
        num_workers: processes that load items; 0 = this one.
        limit: score only so many items, spread evenly over the data set.
        about: where data and weights come from; stored with the protocol.
        on_item: called after each item, for a progress bar.

    Raises UserError when an option is unknown, an item has no depth, a prediction is not a positive finite number, or no
    item has a valid pixel.
    """
    protocol = DepthProtocol(metrics, alignment, crop, min_depth, max_depth)
    indices = evenly_spaced(limit, len(dataset))
    items: list[dict[str, Any]] = []
    truths: list[_Truth] = []
    skipped: list[str] = []
    for index, item, depth in _predictions(predict, dataset, indices, batch_size, num_workers):
        truth = _truth_map(item, dataset, index)
        valid = protocol.valid_pixels(truth)
        on_item()
        if not valid.any():
            skipped.append(dataset.describe(index))
            continue
        pred = resize_as_inverse(depth, truth.shape)[valid]
        target = truth[valid].astype(np.float64)
        factor = protocol.alignment.factor(pred, target)
        head = {"index": index, "name": dataset.describe(index), "pixels": int(valid.sum()), "factor": factor}
        items.append({**head, **protocol.score(factor * pred, target)})
        truths.append(_Truth(truth[valid], np.nonzero(valid)[0].astype(np.int16), truth.shape[0]))
    if not items:
        raise UserError(
            f"none of the {len(indices)} items has a pixel with {min_depth:g} m < truth < {max_depth:g} m inside the crop "
            f"{crop!r}: nothing was scored. Check that the data set has ground truth, then the limits and the crop"
        )
    counts = {"items": len(items), "skipped": len(skipped), "limit": _limit_note(limit, len(dataset))}
    return EvaluationResult(
        mean=_mean(items, protocol),
        factor=_spread([item["factor"] for item in items]),
        baselines=_baselines(truths, protocol),
        protocol={**protocol.describe(), **counts, **(about or {})},
        items=items,
        skipped=skipped,
    )


def depth_pictures(
    predict: Predict, dataset: DepthDataset, indices: Sequence[int], protocol: DepthProtocol
) -> Iterator[DepthPicture]:
    """Yield the given items as maps of prediction, truth and error; where nothing is scored, the factor is that of `none`."""
    for index, item, depth in _predictions(predict, dataset, indices, batch_size=1, num_workers=0):
        truth = _truth_map(item, dataset, index)
        valid = protocol.valid_pixels(truth)
        pred = resize_as_inverse(depth, truth.shape)
        factor = protocol.alignment.factor(pred[valid], truth[valid]) if valid.any() else 1.0
        pred = protocol.clip(factor * pred)
        error = np.full(truth.shape, np.nan)
        error[valid] = np.abs(pred[valid] - truth[valid]) / truth[valid]
        yield DepthPicture(
            dataset.describe(index), item["target"].numpy(), pred, np.where(valid, truth, 0.0), error
        )


def evenly_spaced(count: int | None, total: int) -> list[int]:
    """Choose `count` of `total` positions, spread evenly from the first to the last; all of them when None or too many."""
    if count is not None and count < 1:
        raise UserError(f"the number of items must be 1 or more, got {count}")
    if count is None or count >= total:
        return list(range(total))
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def resize_as_inverse(depth: Tensor, size: tuple[int, ...]) -> np.ndarray:
    """Resize depth (h w) to size (H, W) as inverse depth, bilinearly. Returns float64 depth (H W) in the same unit."""
    inverse = 1 / depth.double()
    return 1 / F.interpolate(inverse[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0].numpy()


def _predictions(
    predict: Predict, dataset: DepthDataset, indices: Sequence[int], batch_size: int, num_workers: int
) -> Iterator[tuple[int, dict[str, Tensor], Tensor]]:
    """Yield (index, item, depth (h w) on the CPU) in order; raises UserError when a depth is no positive number."""
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=list(indices),
        num_workers=num_workers,
        collate_fn=list,  # a list of items: their truths may differ in size
        generator=torch.Generator(),  # leaves the global one alone
    )
    where = iter(indices)
    for items in loader:
        with torch.inference_mode():
            depths = predict(torch.stack([item["target"] for item in items])).float().cpu()
        for index, item, depth in zip(where, items, depths[:, 0], strict=False):
            bad = int((~(torch.isfinite(depth) & (depth > 0))).sum())
            if bad:
                raise UserError(
                    f"item {index} ({dataset.describe(index)}): the network predicts a depth that is not a positive finite "
                    f"number at {bad} of {depth.numel()} pixels. Nothing was saved; evaluate an earlier checkpoint"
                )
            yield index, item, depth


def _truth_map(item: Mapping[str, Tensor], dataset: DepthDataset, index: int) -> np.ndarray:
    """The true depth (H W) of an item, metres."""
    if "depth" not in item:
        raise UserError(
            f"item {index} ({dataset.describe(index)}) comes without ground truth: set dataset.use_depth to true, "
            "or evaluate on a split that has depth"
        )
    return item["depth"][0].numpy()


def _baselines(truths: Sequence[_Truth], protocol: DepthProtocol) -> dict[str, dict[str, Any]]:
    """Score the best constant and the mean of each row, both fitted to the truth that scores them."""
    constant = best_constant_depth([t.depth for t in truths])
    row_mean = RowMeanDepth([t.depth for t in truths], [t.row for t in truths], [t.height for t in truths])
    blind: dict[str, list[dict[str, float]]] = {"constant": [], "row": []}
    for truth in truths:
        target = truth.depth.astype(np.float64)
        guesses = {"constant": np.full_like(target, constant), "row": row_mean.predict(truth.row, truth.height)}
        for name, guess in guesses.items():
            blind[name].append(protocol.score(protocol.alignment.baseline_factor(guess, target) * guess, target))
    scaled = protocol.alignment.uses_truth
    return {
        "constant_depth": {
            "depth_m": "median(truth), per image: any constant becomes it when aligned" if scaled else constant,
            "fitted_to": "the truth of the evaluated items, smallest mean AbsRel",
            **_mean(blind["constant"], protocol),
        },
        "row_mean_depth": {
            "depth_m": f"mean of each of {row_mean.bins} rows" + (", aligned per image" if scaled else ""),
            "fitted_to": "the truth of the evaluated items",
            **_mean(blind["row"], protocol),
        },
    }


def _choose(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise UserError(f"{name!r} is not a known {kind}. {did_you_mean(name, known)}")
    return known[name]


def _mean(rows: Sequence[Mapping[str, Any]], protocol: DepthProtocol) -> dict[str, float]:
    keys = [key for metric_set in protocol.sets.values() for key in metric_set.keys]
    return {key: float(np.mean([row[key] for row in rows])) for key in keys}


def _spread(factors: Sequence[float]) -> dict[str, float]:
    centre = float(np.median(factors))
    return {"median": centre, "relative_std": float(np.std(np.asarray(factors) / centre))}


def _limit_note(limit: int | None, total: int) -> str | None:
    return None if limit is None or limit >= total else f"{limit} of {total} items, evenly spaced"
