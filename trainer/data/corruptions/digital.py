"""Corruptions by light, geometry and storage. Pictures x are (h w 3) in [0, 1]."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Picture = NDArray[Any]
ROUNDING = 1e-6  # of a grey level: what arithmetic may lack of a whole number, so that all machines cut at the same


def as_bytes(x: Picture) -> NDArray[np.uint8]:
    """Clip to [0, 1] and cut to grey levels, 0 to 255."""
    return np.floor(255 * np.clip(x, 0, 1) + ROUNDING).astype(np.uint8)


def brightness(x: Picture, _: np.random.Generator, added: float) -> Picture:
    """Raise the V of HSV; hue and saturation stay, so the channels keep their ratios."""
    value = x.max(axis=2, keepdims=True)
    raised = np.minimum(value + added, 1)
    return np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised)


def contrast(x: Picture, _: np.random.Generator, factor: float) -> Picture:
    """Move every channel towards its mean."""
    mean = x.mean(axis=(0, 1))
    return (x - mean) * factor + mean


def elastic(x: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Move pixels by smooth random offsets, bilinearly; the outside is mirrored about the border.

    Offsets of both axes are drawn from U(-0.005 h, 0.005 h), smoothed by a hundredth of each side, times 250 strength.
    """
    h, w, channels = x.shape
    moved = [
        grid + 250 * strength * ndimage.gaussian_filter(drawn, (0.01 * h, 0.01 * w), mode="reflect", truncate=3)
        for grid, drawn in zip(np.mgrid[:h, :w], rng.uniform(-0.005 * h, 0.005 * h, (2, h, w)), strict=True)
    ]
    planes = [ndimage.map_coordinates(x[..., c], moved, order=1, mode="reflect") for c in range(channels)]
    return np.stack(planes, axis=2)


def quantise(x: Picture, _: np.random.Generator, bits: int) -> Picture:
    """Keep the highest bits of every channel."""
    dropped = 8 - bits
    return (as_bytes(x) >> dropped << dropped) / 255


def pixelate(x: Picture, _: np.random.Generator, factor: float) -> Picture:
    """Shrink by averages of boxes, enlarge by repetition."""
    h, w, _channels = x.shape
    small = max(int(w * factor), 1), max(int(h * factor), 1)
    shrunk = Image.fromarray(as_bytes(x)).resize(small, Image.Resampling.BOX)
    return np.asarray(shrunk.resize((w, h), Image.Resampling.NEAREST)) / 255


def jpeg(x: Picture, _: np.random.Generator, quality: int) -> Picture:
    """Compress as JPEG, by the library that Pillow has: other versions of it may differ by a grey level."""
    stored = BytesIO()
    Image.fromarray(as_bytes(x)).save(stored, "JPEG", quality=quality)
    with Image.open(stored, formats=("JPEG",)) as picture:
        return np.asarray(picture.convert("RGB")) / 255
