"""Random changes to an item: whether it is mirrored, and how the colours of the network inputs change.

Every draw comes from the generator of the item, and one draw serves its target and all supports: what stays
the same between frames is what the networks learn from. Numpy and PIL only, because their results do not
depend on the number of threads, so that loading in the main process and in workers gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

FLIP_P = 0.5
JITTER_P = 0.5  # Monodepth2, arXiv:1806.01260
STRONG_P = 0.7

_GREY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, as torchvision rounds it
Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]  # n times (h w 3), of one size; may be mirrored views
Recolour = Callable[[Images], NDArray[np.float32]]  # images, kept -> (n 3 h w) in [0, 1]
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


def to_planes(images: Images) -> NDArray[np.float32]:
    """Bytes to colour planes: n times (h w 3), 0..255 -> (n 3 h w), 0..1."""
    height, width, _ = images[0].shape
    planes = np.empty((len(images), 3, height, width), np.float32)
    bytewise = np.empty((3, height, width), np.uint8)
    for image, out in zip(images, planes, strict=True):
        np.copyto(bytewise, image.transpose(2, 0, 1))  # mirrored ones cost no more
        np.divide(bytewise, np.float32(255), out=out, dtype=np.float32)
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

    def __call__(self, images: Images) -> NDArray[np.float32]:
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
                change(image, amount)
        return planes


def _scale_brightness(image: NDArray[np.float32], factor: float) -> None:
    image *= factor
    np.clip(image, 0, 1, out=image)  # as `minimum` with a number, which takes four times as long


def _blend_contrast(image: NDArray[np.float32], factor: float) -> None:
    mean_grey = sum(weight * float(plane.mean()) for weight, plane in zip(_GREY, image, strict=True))
    image *= factor
    image += (1 - factor) * mean_grey
    np.clip(image, 0, 1, out=image)


def _blend_saturation(image: NDArray[np.float32], factor: float) -> None:
    r, g, b = (weight * (1 - factor) for weight in _GREY)
    grey = r * image[0]
    grey += g * image[1]
    grey += b * image[2]
    image *= factor
    image += grey
    np.clip(image, 0, 1, out=image)


def _turn_hue(image: NDArray[np.float32], turn: float) -> None:
    """Turn the hue of an image (3 h w) in place, |turn| <= 1/6.

    Six times the turn, t in [0, 1], is the way on the circle of six sectors: red to green to blue, or back. A channel c
    with the `next` and the `last` on that way becomes c - next + (2t - 1) last + (1 - t) (top + low), clipped to
    [low, top], the largest and smallest of the pixel: its linear pieces are those of the circle, without a case.
    """
    t, step = 6 * abs(turn), 1 if turn >= 0 else -1
    r, g, b = image
    top, low = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
    middle = top + low
    middle *= 1 - t
    differences = [channel - image[(i + step) % 3] for i, channel in enumerate(image)]
    shares = image * np.float32(2 * t - 1)
    shares += middle
    for i, turned in enumerate(differences):
        turned += shares[(i - step) % 3]
        np.minimum(np.maximum(turned, low, out=turned), top, out=image[i])


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

    def __call__(self, images: Images) -> NDArray[np.float32]:
        change = _OPERATIONS[self.name]
        changed = [change(Image.fromarray(image), self.strength, self.sign) for image in images]
        return to_planes(np.stack([np.asarray(image) for image in changed]))
