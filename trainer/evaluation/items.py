"""Items with ground truth, the facts about their data set, and the resizing of maps to the size of the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.evaluation.targets import TargetsFile
from trainer.runtime.errors import UserError

# Ways to resize a map. "bilinear" has half-pixel centres, as OpenCV; "nearest" takes the pixel that OpenCV takes.
RESIZE_RULES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bilinear, corners aligned": {"mode": "bilinear", "align_corners": True},
    "nearest": {"mode": "nearest"},
}


class Items(Protocol):
    """A `DepthDataset`, or a `TargetsFile`, whose items have no image."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Tensor]: ...

    def describe(self, index: int) -> str: ...

    def scene_of(self, index: int) -> str | None: ...


def dataset_class(name: str) -> type[DepthDataset]:
    """The class of a data set; `DepthDataset`, which has the defaults, for a factory and an unknown name."""
    entry = DATASETS.get(name) if name in DATASETS else None
    return entry if isinstance(entry, type) and issubclass(entry, DepthDataset) else DepthDataset


def names_of(items: Items) -> list[str] | None:
    """Names of the items; None for a file without names."""
    if isinstance(items, TargetsFile) and items.names is None:
        return None
    return [items.describe(index) for index in range(len(items))]


def truth_map(item: Mapping[str, Tensor], dataset: Items, index: int) -> np.ndarray:
    """The true depth (H W) of an item, metres. Raises UserError when it has none."""
    if "depth" not in item:
        raise UserError(
            f"item {index} ({dataset.describe(index)}) comes without ground truth: "
            "set dataset.use_depth to true, or evaluate a split that has depth"
        )
    return item["depth"][0].numpy()


def resize_as_inverse(depth: Tensor, size: tuple[int, ...]) -> np.ndarray:
    """Resize positive depth (h w) to `size` (H, W), bilinearly in inverse depth. Returns (H W) float64."""
    return 1 / resize((1 / depth.double()).numpy(), size)


def resize(values: np.ndarray, size: tuple[int, ...], rule: str = "bilinear") -> np.ndarray:
    """Resize (h w) to (H, W) by one of `RESIZE_RULES`, in float64; the default is OpenCV's rule, not its rounding."""
    if values.shape == tuple(size):
        return values
    tensor = torch.from_numpy(values)[None, None]
    return F.interpolate(tensor, size=tuple(size), **RESIZE_RULES[rule])[0, 0].numpy()
