"""Random changes to an item: whether it is mirrored, and how the colours of the network inputs change.

Every draw comes from the generator of the item, and one draw serves its target and all supports: what stays
the same between frames is what the networks learn from. Numpy and PIL only, because their results do not
depend on the number of threads, so that loading in the main process and in workers gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

FLIP_P = 0.5
JITTER_P = 0.5  # Monodepth2, arXiv:1806.01260
STRONG_P = 0.7

_GREY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, as torchvision rounds it
_HUE_BLOCK = 16384  # pixels at a time: the temporaries of one block stay in the level 2 cache
Recolour = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # images (n h w 3), kept -> (n 3 h w) in [0, 1]
Operation = Callable[[Image.Image, int, int], Image.Image]  # image, strength 0..30, sign
_LAST_BIN = 30  # TrivialAugment draws one of 31 strengths, 0..30 (arXiv:2103.10158)


class Augmentation(NamedTuple):
    """What one item undergoes."""

    flip: bool  # mirror it left to right
    recolour: Recolour | None  # colours of the network inputs; None = unchanged


def draw(rng: np.random.Generator, strong: bool) -> Augmentation:
    """Draw the augmentation of one item; `strong` selects `Trivial` (p 0.7) instead of `Jitter` (p 0.5)."""
    flip = bool(rng.random() < FLIP_P)
    changed = rng.random() < (STRONG_P if strong else JITTER_P)
    recolour: Recolour = Trivial.draw(rng) if strong else Jitter.draw(rng)
    return Augmentation(flip, recolour if changed else None)


def to_planes(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes to colour planes: (n h w 3), 0..255 -> (n 3 h w), 0..1."""
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    planes /= np.float32(255)
    return planes


@dataclass(frozen=True)
class Jitter:
    """Colour jitter with the meaning that torchvision gives it, each step clipped to [0, 1].

    Brightness multiplies; contrast blends with the mean grey level of the image; saturation blends with the
    grey image; hue turns the colour circle, value and chroma staying the same.
    """

    brightness: float  # factor, 1 = unchanged
    contrast: float  # factor, 1 = unchanged
    saturation: float  # factor, 1 = unchanged
    hue: float  # fraction of the colour circle, |hue| <= 1/6
    order: tuple[int, ...] = (0, 1, 2, 3)  # of brightness, contrast, saturation, hue

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Jitter:
        """Draw factors from U(0.8, 1.2), hue from U(-0.1, 0.1), and a random order."""
        brightness, contrast, saturation = rng.uniform(0.8, 1.2, 3).tolist()
        hue = float(rng.uniform(-0.1, 0.1))
        return cls(brightness, contrast, saturation, hue, tuple(rng.permutation(4).tolist()))

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        planes = to_planes(images)
        steps = (
            (_scale_brightness, self.brightness),
            (_blend_contrast, self.contrast),
            (_blend_saturation, self.saturation),
            (_turn_hue, self.hue),
        )
        for image in planes:  # one at a time: an image fits the cache, the item does not
            for i in self.order:
                change, amount = steps[i]
                change(image, np.float32(amount))
        return planes


def _scale_brightness(image: NDArray[np.float32], factor: np.float32) -> None:
    image *= factor
    np.minimum(image, 1, out=image)


def _blend_contrast(image: NDArray[np.float32], factor: np.float32) -> None:
    mean_grey = sum(weight * float(plane.mean()) for weight, plane in zip(_GREY, image, strict=True))
    image *= factor
    image += np.float32((1 - factor) * mean_grey)
    np.clip(image, 0, 1, out=image)


def _blend_saturation(image: NDArray[np.float32], factor: np.float32) -> None:
    grey = _GREY[0] * image[0] + _GREY[1] * image[1] + _GREY[2] * image[2]
    grey *= 1 - factor
    image *= factor
    image += grey
    np.clip(image, 0, 1, out=image)


def _turn_hue(image: NDArray[np.float32], turn: np.float32) -> None:
    pixels = image.reshape(3, -1)
    for start in range(0, pixels.shape[1], _HUE_BLOCK):
        _turn_hue_of(pixels[:, start : start + _HUE_BLOCK], turn)


def _turn_hue_of(pixels: NDArray[np.float32], turn: np.float32) -> None:
    """Turn the hue of (3 p) pixels in place, |turn| <= 1/6.

    With chroma = max - min and hue H in [-1, 5) sectors, a channel centred at c (red 0, green 2, blue 4) is
    min + chroma * clip(2 - d, 0, 1), d = distance of H and c on the circle of 6. All of it is written times
    chroma, so that no division is needed and grey pixels are no special case.
    """
    r, g, b = pixels
    top = np.maximum(np.maximum(r, g), b)
    low = np.minimum(np.minimum(r, g), b)
    chroma = top - low
    hue = np.where(top == r, g - b, np.where(top == g, b - r + 2 * chroma, r - g + 4 * chroma))  # H * chroma
    hue += 6 * turn * chroma
    twice, fourfold = 2 * chroma, 4 * chroma
    distance, other_way = np.empty_like(hue), np.empty_like(hue)
    for channel, centre in zip(pixels, (0, twice, fourfold), strict=True):
        np.abs(np.subtract(hue, centre, out=distance), out=distance)
        np.subtract(distance, fourfold, out=other_way)  # = twice - (6 * chroma - distance)
        np.maximum(np.subtract(twice, distance, out=distance), other_way, out=distance)
        np.maximum(distance, 0, out=distance)
        np.add(low, np.minimum(distance, chroma, out=distance), out=channel)


def _enhance(kind: Callable[[Image.Image], Any]) -> Operation:
    return lambda image, strength, sign: kind(image).enhance(1 + sign * 0.99 * strength / _LAST_BIN)


def _solarize_threshold(strength: int) -> int:
    """First grey level that is inverted: 255 (weakest) down to 0."""
    return math.ceil(255 * (_LAST_BIN - strength) / _LAST_BIN)


_OPERATIONS: dict[str, Operation] = {
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "Posterize": lambda image, strength, sign: ImageOps.posterize(image, 8 - round(strength / 5)),
    "Solarize": lambda image, strength, sign: ImageOps.solarize(image, _solarize_threshold(strength)),
    "AutoContrast": lambda image, strength, sign: ImageOps.autocontrast(image),
    "Equalize": lambda image, strength, sign: ImageOps.equalize(image),
}


@dataclass(frozen=True)
class Trivial:
    """One operation of TrivialAugmentWide (arXiv:2103.10158); only those that change colours."""

    name: str  # one of `Trivial.names`
    strength: int  # bin 0..30; 0 changes least
    sign: int = 1  # -1 or 1: direction of Brightness, Color, Contrast and Sharpness

    names: ClassVar[tuple[str, ...]] = tuple(_OPERATIONS)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Trivial:
        """Draw operation, strength and sign, each uniformly."""
        name = cls.names[rng.integers(len(cls.names))]
        return cls(name, int(rng.integers(_LAST_BIN + 1)), int(1 - 2 * rng.integers(2)))

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        change = _OPERATIONS[self.name]
        changed = [change(Image.fromarray(image), self.strength, self.sign) for image in images]
        return to_planes(np.stack([np.asarray(image) for image in changed]))
