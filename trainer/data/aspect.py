"""Aspect-ratio augmentation: batches of one loaded size become batches of many shapes and nearly one area.

A network that has seen one shape of picture and one field of view only does not work on others (Kick Back & Relax,
arXiv:2307.10713). Differs from the paper's code: the crop is exact (whole pixels, no interpolation), K moves with it
also where the principal point is not the centre, and pictures that shrink are smoothed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.geometry import crop_intrinsics, scale_intrinsics
from trainer.runtime.errors import UserError

Size = tuple[int, int]  # (width, height), pixels

RATIOS = (  # width / height
    *(6 / 13, 9 / 16, 3 / 5, 2 / 3, 4 / 5, 1.0, 5 / 4, 4 / 3),
    *(3 / 2, 14 / 9, 5 / 3, 16 / 9, 2.0, 24 / 10, 33 / 10, 18 / 5),
)
STRIDE, LEAST = 32, 64  # pixels that sides are multiples of, and the shortest side
_CANDIDATES = 10  # heights and widths drawn for a crop
_SHARE = 0.8  # of the reference area, that a crop may have at most once it is resized
_SHAPE = 5  # last word of entropy

_IMAGES = ("target", "supports", "target_aug", "supports_aug")
_TRUTHS = ("depth", "edges")  # at their own resolution


@dataclass(frozen=True)
class AspectRatios:
    """Crop a training batch around its centre to a random shape, then resize it to about one area.

    prob: share of the batches that are cropped; the others are only resized.
    min, max: side of a crop, as a share of that of the images: one side lies between them, the ratio gives the other.
    ref_size: (width, height) whose area no batch exceeds after resizing, and a cropped one by 0.8.
    """

    prob: float = 0.7
    min: float = 0.5
    max: float = 1.0
    ref_size: Size = (640, 384)

    def __call__(self, batch: Mapping[str, Tensor], *position: int) -> dict[str, Tensor]:
        """Crop and resize `trainer.types.Batch`; the draw is a function of `position` and the size of the images.

        Raises UserError for depth hints, and for other tensors of the size of the images that are not known here.
        """
        size = size_of(batch)
        crop = self.draw(np.random.default_rng([*position, _SHAPE]), size)
        return reshaped(batch, crop or size, self.fitted(crop or size, _SHARE if crop else 1.0))

    def whole(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Resize a batch as those that are not cropped."""
        size = size_of(batch)
        return reshaped(batch, size, self.fitted(size))

    def draw(self, rng: np.random.Generator, size: Size) -> Size | None:
        """Draw the size of a crop of images of `size`; None = no crop.

        Where no side between the limits has its partner inside the image, the largest crop of the ratio is taken.
        """
        if rng.random() >= self.prob:
            return None
        width, height = size
        ratio = RATIOS[rng.integers(len(RATIOS))]
        heights, widths = self._lengths(rng, height), self._lengths(rng, width)
        crops = [(int(ratio * h), h) for h in heights] + [(w, int(w / ratio)) for w in widths]
        crops = [(w, h) for w, h in crops if 0 < w <= width and 0 < h <= height]
        if not crops:
            return min(width, int(ratio * height)), min(height, int(width / ratio))
        return crops[rng.integers(len(crops))]

    def _lengths(self, rng: np.random.Generator, side: int) -> list[int]:
        low, high = int(self.min * side), int(self.max * side)
        return [int(length) for length in rng.integers(max(1, low), max(2, low + 1, high), _CANDIDATES)]

    def fitted(self, crop: Size, share: float = 1.0) -> Size:
        """Return the size for a crop: multiples of 32 near its shape, of at most `share` of the reference area."""
        area = math.prod(self.ref_size)
        scale = math.sqrt(area / math.prod(crop))
        width, height = (max(LEAST, STRIDE * round(scale * side / STRIDE)) for side in crop)
        while width * height > share * area and max(width, height) > LEAST:
            width, height = max(LEAST, width - STRIDE), max(LEAST, height - STRIDE)
        return width, height


def size_of(batch: Mapping[str, Tensor]) -> Size:
    """Return (width, height) of the images of a batch."""
    height, width = batch["target"].shape[-2:]
    return width, height


def reshaped(batch: Mapping[str, Tensor], crop: Size, size: Size) -> dict[str, Tensor]:
    """Crop the images of a batch around their centre to `crop`, then resize them to `size`; K follows.

    Ground truth keeps its resolution and is cropped to the same field of view, to whole pixels; `K_depth` follows.
    Motions stay. Raises UserError as `AspectRatios` does.
    """
    whole = size_of(batch)
    if crop == size == whole:
        return dict(batch)
    offset = ((whole[0] - crop[0]) // 2, (whole[1] - crop[1]) // 2)
    rules: dict[str, Callable[[Tensor], Tensor]] = {
        **dict.fromkeys(_IMAGES, lambda images: _resized(_cropped(images, offset, crop), size)),
        "pseudo": lambda maps: _resized_known(_cropped(maps, offset, crop), size),
        "K": lambda K: scale_intrinsics(crop_intrinsics(K, offset), crop, size),
        **dict.fromkeys(_TRUTHS, lambda truth: _cropped(truth, *_box_in_truth(truth, offset, crop, whole))),
        "K_depth": lambda K: crop_intrinsics(K, _box_in_truth(batch["depth"], offset, crop, whole)[0]),
    }
    other = [key for key, value in batch.items() if key not in rules and value.shape[-2:] == (whole[1], whole[0])]
    for key in {"depth_hints"} & batch.keys() or other:
        raise UserError(f"trainer.aspect_ratio cannot resize {key!r} of a batch. Set it to null, or leave {key!r} out")
    return {key: rules[key](value) if key in rules else value for key, value in batch.items()}


def _box_in_truth(truth: Tensor, offset: Size, crop: Size, whole: Size) -> tuple[Size, Size]:
    """Return offset and size of a crop in pixels of ground truth (b 1 H W) of the whole images."""
    scales = [have / of for have, of in zip(truth.shape[:-3:-1], whole, strict=True)]
    first = [round(o * s) for o, s in zip(offset, scales, strict=True)]
    end = [max(f + 1, round((o + c) * s)) for f, o, c, s in zip(first, offset, crop, scales, strict=True)]
    return (first[0], first[1]), (end[0] - first[0], end[1] - first[1])


def _cropped(images: Tensor, offset: Size, crop: Size) -> Tensor:
    (x, y), (width, height) = offset, crop
    return images[..., y : y + height, x : x + width]


def _resized(images: Tensor, size: Size) -> Tensor:
    """Resize images (... c h w) to (width, height), bilinearly; those that shrink are smoothed."""
    width, height = size
    if images.shape[-2:] == (height, width):
        return images.contiguous()
    if not images.numel():  # no supports
        return images.new_zeros(*images.shape[:-2], height, width)
    flat = images.flatten(0, -4)
    out = F.interpolate(flat, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return out.unflatten(0, images.shape[:-3])


def _resized_known(maps: Tensor, size: Size) -> Tensor:
    """Resize maps (b 1 h w) with 0 = none: the mean of what is known, none where less than half of it is."""
    known = _resized((maps > 0).to(maps), size)
    return torch.where(known >= 0.5, _resized(maps, size) / known.clamp(min=0.5), 0.0)
