"""Predicted depth, item by item: from a network, or from a file that other code wrote."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from trainer.evaluation.items import Items, resize_as_inverse, truth_map
from trainer.evaluation.stored import StoredDepth
from trainer.geometry import valid_depth
from trainer.runtime.errors import UserError
from trainer.runtime.processes import ALONE, Processes

PredictDepth = Callable[[Tensor], Tensor]  # images (b 3 h w) on the CPU -> depth (b 1 h w), any device
DepthSource = PredictDepth | StoredDepth  # a network, or a file of predictions


@dataclass(frozen=True)
class Execution:
    """How the items of an evaluation are read and predicted. Raises UserError for a batch size below 1."""

    batch_size: int = 8  # images per call of the network
    num_workers: int = 0  # processes that load items; 0 = this one
    processes: Processes = ALONE  # those that share the work; each returns the whole result
    on_item: Callable[[], None] = lambda: None  # called after each item, for a progress bar

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size must be 1 or more, got {self.batch_size}")


PLAIN = Execution()


def flip_blended(predict: PredictDepth) -> PredictDepth:
    """Predict twice, for the image and its mirror image, and blend both inverse depths (Monodepth, arXiv:1609.03677).

    Blending scaled disparity equals blending that of the network: the weights add up to 1.
    """
    predict_mirrored = mirrored(predict)
    return lambda images: blend(predict(images), predict_mirrored(images))


def mirrored(predict: PredictDepth) -> PredictDepth:
    """Predict for the mirrored image, and mirror the depth back."""
    return lambda images: predict(images.flip(-1)).flip(-1)


def blend(plain: Tensor, mirrored: Tensor) -> Tensor:
    """Blend the depths (... h w) of `predict` and of `mirrored(predict)` as inverse depth (arXiv:1609.03677)."""
    from models_zoo.depth import stereo_blend

    return 1 / stereo_blend(1 / plain, 1 / mirrored)


def evenly_spaced(count: int | None, total: int) -> list[int]:
    """Choose `count` of `total` positions from first to last; all of them when None or too many."""
    if count is not None and count < 1:
        raise UserError(f"the number of items must be 1 or more, got {count}")
    if count is None or count >= total:
        return list(range(total))
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def read_items(
    dataset: Items, indices: Sequence[int], how: Execution
) -> Iterator[tuple[list[int], list[dict[str, Tensor]]]]:
    """Yield this process's batches of indices with their items, in order. Lists, because truths may differ in size."""
    size = how.batch_size
    batches = how.processes.share([list(indices[i : i + size]) for i in range(0, len(indices), size)])
    loader: Any = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=how.num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # leaves the global one alone
    )
    return zip(batches, loader, strict=True)


def predicted_maps(
    predict: PredictDepth, items: Sequence[Mapping[str, Tensor]], indices: Sequence[int], dataset: Items
) -> Iterator[Tensor]:
    """Yield the depth (h w) of each item on the CPU. Raises UserError for a missing image and an impossible depth."""
    if not items:
        return
    if "target" not in items[0]:
        raise UserError(
            f"item {indices[0]} ({dataset.describe(indices[0])}) comes without image: a network needs the data set"
        )
    images = [item["target"] for item in items]
    alike = len({image.shape for image in images}) == 1  # not so where data sets of a mixture have sizes of their own
    with torch.inference_mode():
        batches = [torch.stack(images)] if alike else [image[None] for image in images]
        depths = [depth for batch in batches for depth in predict(batch).float().cpu()[:, 0]]  # each (h w)
    for index, depth in zip(indices, depths, strict=True):
        bad = int((~valid_depth(depth, 0, math.inf)).sum())
        if bad:
            raise UserError(
                f"item {index} ({dataset.describe(index)}): the predicted depth is not a positive finite "
                f"number at {bad} of {depth.numel()} pixels. Evaluate an earlier checkpoint"
            )
        yield depth


def predictions(
    source: DepthSource, dataset: Items, indices: Sequence[int], how: Execution
) -> Iterator[tuple[int, dict[str, Tensor], np.ndarray, np.ndarray]]:
    """Yield (index, item, depth (H W), truth (H W)) of this process's items, depth at the size of its truth."""
    for chosen, items in read_items(dataset, indices, how):
        truths = [truth_map(item, dataset, index) for item, index in zip(items, chosen, strict=True)]
        if isinstance(source, StoredDepth):
            depths: Any = (source.depth(i, t.shape) for i, t in zip(chosen, truths, strict=True))
        else:
            maps = predicted_maps(source, items, chosen, dataset)
            depths = (resize_as_inverse(d, t.shape) for d, t in zip(maps, truths, strict=True))
        yield from zip(chosen, items, depths, truths, strict=True)
