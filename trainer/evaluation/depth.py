"""Depth against ground truth: align, crop, cap, measure; all protocols in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.evaluation.items import Items
from trainer.evaluation.predictions import PLAIN, DepthSource, Execution, evenly_spaced, predictions
from trainer.evaluation.remarks import remarks
from trainer.evaluation.results import EvaluationResult
from trainer.evaluation.uncertainty import Doubt
from trainer.geometry import scale_intrinsics
from trainer.metrics.baselines import Baselines, MaskedTruth
from trainer.metrics.protocol import DepthProtocol
from trainer.metrics.resampling import intervals
from trainer.runtime.processes import FoundByAll

# A scored item: index, name, a row of numbers per protocol (None = no valid pixel), its valid truth.
Scored = tuple[int, str, list[dict[str, Any] | None], MaskedTruth | None]


def evaluate_side_by_side(
    predict: DepthSource,
    dataset: Items,
    protocols: Sequence[DepthProtocol],
    how: Execution = PLAIN,
    *,
    limit: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    doubt: Doubt | None = None,
) -> list[EvaluationResult]:
    """Predict every item once; align and score it under each protocol.

    Args:
        predict: images (b 3 h w) in [0, 1] -> positive depth (b 1 h w) in the unit of the network; or predictions
            from a file.
        dataset: items with `target` (3 h w) and `depth` (1 H W) in metres, 0 = none; (H, W) may vary; with `edges`
            (1 H W) if it has depth edges, `foreground` (1 H W) in [0, 1] if it has masks of near objects. Predictions
            from a file need no `target`.
        protocols: they may differ in alignment only.
        limit: score only so many items, spread evenly over the data set.
        metadata: origin of data and weights, stored with the protocol.
        doubt: the uncertainty of the predictions, for protocols whose metric sets need it.

    Raises UserError when an item has no depth, a prediction is not a positive finite number, no item has a
    valid pixel, or the items lack what a metric set needs.
    """
    indices = evenly_spaced(limit, len(dataset))
    mine: list[Scored] = []
    for index, item, depth, truth in predictions(predict, dataset, indices, how):
        K = intrinsics(item, truth.shape)
        edges = item["edges"][0].to(torch.bool).numpy() if "edges" in item else None
        foreground = item["foreground"][0].numpy() if "foreground" in item else None
        under = doubt(item, index, depth) if doubt else lambda _: None
        rows = [
            protocol.score_image(depth, truth, K, edges, foreground, uncertainty=under(protocol.alignment))
            for protocol in protocols
        ]
        valid = protocols[0].valid_pixels(truth)
        kept = MaskedTruth.of(truth, valid) if valid.any() else None
        mine.append((index, dataset.describe(index), [row and _place(dataset, index) | row for row in rows], kept))
        how.on_item()
    scored = sorted(how.processes.gather(mine), key=lambda one: one[0])
    part = None if len(indices) == len(dataset) else f"{len(indices)} of {len(dataset)}, evenly spaced"
    truths = [truth for *_, truth in scored if truth is not None]
    if not truths:
        raise FoundByAll(
            f"nothing was scored: none of {len(scored)} items has a true depth {protocols[0].where()}. "
            "Check that the data set has ground truth, then the limits and the crop"
        )
    baselines = Baselines(truths)
    return [
        _summarise(scored, i, protocol, baselines, {"limit": part, **(metadata or {})})
        for i, protocol in enumerate(protocols)
    ]


def depth_pictures(
    predict: DepthSource, dataset: Items, indices: Sequence[int], protocol: DepthProtocol
) -> Iterator[dict[str, Any]]:
    """Yield pictures of the given items, at the size of their truth.

    Each is a mapping: `input` (h w 3) in [0, 1], `prediction` (H W) inverse depth in 1/metres, `truth` (H W) metres
    with 0 where nothing is scored, `error` (H W) |prediction - truth| / truth with NaN there, `label` and
    `abs_rel`. An item without valid pixel is not aligned.
    """
    for index, item, depth, truth in predictions(predict, dataset, indices, Execution(batch_size=1)):
        valid = protocol.valid_pixels(truth)
        fit = protocol.alignment.fit(depth[valid], truth[valid]) if valid.any() else None
        pred = protocol.clip(depth if fit is None else fit.apply(depth))
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


def _summarise(
    scored: Sequence[Scored],
    i_protocol: int,
    protocol: DepthProtocol,
    baselines: Baselines,
    metadata: Mapping[str, Any],
) -> EvaluationResult:
    rows = [(index, name, by_protocol[i_protocol]) for index, name, by_protocol, _ in scored]
    items = [{"index": index, "name": name, **row} for index, name, row in rows if row is not None]
    curves = [item.pop("curves") for item in items if "curves" in item]
    skipped = [name for _, name, row in rows if row is None]
    mean = protocol.mean(items)
    if "edges" in protocol.needs and not set(protocol.edge_keys) <= set(mean):
        raise FoundByAll("the metric set 'ibims' needs true depth edges, and the items have none: leave it out")
    if lacking := [key for key in protocol.keys if key not in mean]:
        raise FoundByAll(f"no item has anything to score by {', '.join(lacking)}: leave out the metric set")
    described = protocol.describe(with_edges=any(key in mean for key in protocol.edge_keys))
    counts = {"items": len(items), "skipped_without_valid_pixel": len(skipped)}
    return EvaluationResult(
        setup=protocol,
        mean=mean,
        interval=intervals(items, mean),
        factor=_spread([item["factor"] for item in items])
        | ({"median_shift": float(np.median([i["shift"] for i in items]))} if "shift" in items[0] else {}),
        baselines=baselines.score(protocol),
        protocol={**described, **counts, **metadata},
        items=items,
        skipped=skipped,
        curves=_mean_curves(curves),
        remarks=remarks(items, protocol, {truth.size for *_, truth in scored if truth is not None}),
    )


def _mean_curves(curves: Sequence[Mapping[str, np.ndarray]]) -> dict[str, list[float]]:
    """Average curves over items, to 9 decimals."""
    return {key: np.mean([c[key] for c in curves], axis=0).round(9).tolist() for key in (curves[0] if curves else ())}


def intrinsics(item: Mapping[str, Tensor], size: tuple[int, ...]) -> np.ndarray | None:
    """K (3 3) in pixels of the truth: that of the truth if known, else that of the image, scaled."""
    if "K_depth" in item:
        return item["K_depth"].double().numpy()
    if "K" not in item:
        return None
    h, w = item["target"].shape[-2:]
    return scale_intrinsics(item["K"].double(), (w, h), (size[1], size[0])).numpy()


def _place(dataset: Items, index: int) -> dict[str, str]:
    """`scene`, `cat` and `subcat` of an item, for data sets that know them."""
    scene = dataset.scene_of(index)
    found = dataset.category(index) if hasattr(dataset, "category") else None
    categories = {} if found is None else dict(zip(("cat", "subcat"), found, strict=True))
    return categories if scene is None else {"scene": scene, **categories}


def _spread(factors: Sequence[float]) -> dict[str, float]:
    """Median, and standard deviation over median unless that is 0, as for constant predictions."""
    centre = float(np.median(factors))
    spread = {"relative_std": float(np.std(np.asarray(factors) / centre))} if centre else {}
    return {"median": centre, **spread}
