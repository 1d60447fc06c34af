"""Random changes to an item: whether it is mirrored, and how the colours of the network inputs change.

Every draw comes from the generator of the item, and one draw serves its target and all supports: what stays
the same between frames is what the networks learn from. Numpy and PIL compute, because their results do not
depend on the number of threads, so that loading in the main process and in workers gives the same bits; PyTorch
only moves bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

FLIP_P = 0.5
JITTER_P = 0.5  # Monodepth2, arXiv:1806.01260
STRONG_P = 0.7

_BLOCK = 1 << 15  # pixels that are changed at a time: what they need stays in the cache of a core
_ROUNDING = 1e-6
_GREY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, as torchvision rounds it
Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]  # n times (h w 3), of one size; may be mirrored views
Recolour = Callable[[Images], NDArray[np.float32]]  # images, kept -> (n 3 h w) in [0, 1]
Pixels = NDArray[np.float32]  # (3 n) of an image, or (6 n) to write in
Step = Callable[[Pixels, Pixels], None]  # changes pixels in place, writes what it likes to the other
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
    for levels, out in zip(_levels(images), planes, strict=True):
        np.divide(levels, np.float32(255), out=out, dtype=np.float32)
    return planes


def _levels(images: Images) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of each image as planes (3 h w), which are good until the next one is asked for."""
    height, width, _ = images[0].shape
    levels = np.empty((3, height, width), np.uint8)
    for image in images:
        mirrored = image.strides[1] < 0
        np.copyto(levels, (image[:, ::-1] if mirrored else image).transpose(2, 0, 1))
        # NumPy mirrors byte by byte, PyTorch many at a time: in a fifth of the time.
        yield torch.from_numpy(levels).flip(2).numpy() if mirrored else levels


@dataclass(frozen=True)
class Jitter:
    """Colour jitter with the meaning that torchvision gives it, each step clipped to [0, 1].

    Brightness multiplies; contrast blends with the mean grey level of the image; saturation blends with the
    grey image; hue turns the colour circle, value and chroma staying the same.
    """

    brightness: float  # factor > 0, 1 = unchanged
    contrast: float  # factor > 0, 1 = unchanged
    saturation: float  # factor > 0, 1 = unchanged
    hue: float  # fraction of the colour circle, |hue| <= 1/6
    order: tuple[int, ...] = (0, 1, 2, 3)  # of brightness, contrast, saturation, hue

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Jitter:
        """Draw factors from U(0.8, 1.2), hue from U(-0.1, 0.1), and a random order."""
        brightness, contrast, saturation = rng.uniform(0.8, 1.2, 3).tolist()
        hue = float(rng.uniform(-0.1, 0.1))
        return cls(brightness, contrast, saturation, hue, tuple(rng.permutation(4).tolist()))

    def __call__(self, images: Images) -> NDArray[np.float32]:
        height, width, _ = images[0].shape
        planes = np.empty((len(images), 3, height * width), np.float32)
        scratch = np.empty((6, min(_BLOCK, height * width)), np.float32)
        for levels, out in zip(_levels(images), planes, strict=True):
            self._recolour(levels.reshape(3, -1), out, scratch)
        return planes.reshape(-1, 3, height, width)

    def _recolour(self, levels: NDArray[np.uint8], out: Pixels, scratch: Pixels) -> None:
        """Write the new colours of the bytes of an image (3 pixels) to `out`, in two passes: contrast needs a mean."""
        number = levels.shape[1]
        blocks = [slice(first, first + _BLOCK) for first in range(0, number, _BLOCK)]
        scale = _Scale(1 / 255, 0.0, float(levels.min()), float(levels.max()))
        contrast = self.order.index(1)
        steps = [*self._steps(self.order[:contrast], scale), *scale.clip()]
        sums = np.zeros((3, scratch.shape[1]), np.float32)
        for block in blocks:
            pixels = out[:, block]
            np.copyto(pixels, levels[:, block])
            for step in steps:
                step(pixels, scratch)
            sums[:, : pixels.shape[1]] += pixels
        means = scale.factor * sums.sum(1, dtype=np.float64) / number + scale.shift
        scale.blend(self.contrast, float(np.dot(_GREY, means)))
        steps = [*self._steps(self.order[contrast + 1 :], scale), *scale.apply()]
        for block in blocks:
            for step in steps:
                step(out[:, block], scratch)

    def _steps(self, order: Sequence[int], scale: _Scale) -> Iterator[Step]:
        for i in order:
            yield from scale.clip()
            if i == 0:
                scale.blend(self.brightness, 0.0)
            elif i == 2:
                share = (1 - self.saturation) / self.saturation
                yield partial(_add_grey, share=share)
                scale.add_grey(share)
                scale.blend(self.saturation, 0.0)
            else:
                yield partial(_turn_hue, turn=self.hue)


@dataclass
class _Scale:
    """What the numbers in memory stand for: colour = factor * number + shift, the numbers being in [low, high].

    Brightness and contrast change only this: to turn the hue or to add a share of grey and to scale, with a factor
    above 0, gives the same in either order. So they cost nothing, unless they leave [0, 1] and have to be clipped.
    """

    factor: float
    shift: float
    low: float
    high: float

    def blend(self, share: float, grey: float) -> None:
        """Let colours be `share` of what they are and (1 - share) of `grey`."""
        self.factor, self.shift = share * self.factor, share * self.shift + (1 - share) * grey

    def add_grey(self, share: float) -> None:
        """Let numbers have a share of their grey added, and colours with them."""
        whole = share * sum(_GREY)
        added = sorted((whole * self.low, whole * self.high))
        self.low, self.high, self.shift = self.low + added[0], self.high + added[1], self.shift * (1 + whole)

    def clip(self) -> Iterator[Step]:
        """Clip colours to [0, 1] where there may be others."""
        low, high = -self.shift / self.factor, (1 - self.shift) / self.factor
        if self.low < low or self.high > high:
            self.low, self.high = max(self.low, low), min(self.high, high)
            yield partial(_clip, low=low, high=high)

    def apply(self) -> Iterator[Step]:
        """Turn numbers into colours in [0, 1]."""
        yield partial(_rescale, factor=self.factor, shift=self.shift)
        nowhere_below = self.low >= 0 and self.shift >= 0
        if not (nowhere_below and self.factor * self.high + self.shift < 1 - _ROUNDING):
            yield partial(_clip, low=0.0, high=1.0)


def _rescale(pixels: Pixels, scratch: Pixels, factor: float, shift: float) -> None:
    pixels *= factor
    if shift:
        pixels += shift


def _clip(pixels: Pixels, scratch: Pixels, low: float, high: float) -> None:
    np.clip(pixels, low, high, out=pixels)  # as `minimum` with a number, which takes four times as long


def _add_grey(pixels: Pixels, scratch: Pixels, share: float) -> None:
    grey, term = scratch[:2, : pixels.shape[1]]
    np.multiply(pixels[0], share * _GREY[0], out=grey)
    for weight, plane in zip(_GREY[1:], pixels[1:], strict=True):
        np.multiply(plane, share * weight, out=term)
        grey += term
    pixels += grey


def _turn_hue(pixels: Pixels, scratch: Pixels, turn: float) -> None:
    """Turn the hue of pixels (3 n) in place, |turn| <= 1/6.

    Six times the turn, t in [0, 1], is the way on the circle of six sectors: red to green to blue, or back. A channel c
    with the `next` and the `last` on that way becomes c - next + (2t - 1) last + (1 - t) (top + low), clipped to
    [low, top], the largest and smallest of the pixel: its linear pieces are those of the circle, without a case.
    """
    t, step = 6 * abs(turn), 1 if turn >= 0 else -1
    scratch = scratch[:, : pixels.shape[1]]
    (top, low, middle), turned = scratch[:3], scratch[3:]
    r, g, b = pixels
    np.maximum(np.maximum(r, g, out=top), b, out=top)
    np.minimum(np.minimum(r, g, out=low), b, out=low)
    np.add(top, low, out=middle)
    middle *= 1 - t
    np.multiply(pixels, 2 * t - 1, out=turned)  # in the places of `last`
    turned += middle
    for last, channel in enumerate(turned):
        channel += pixels[(last + step) % 3]
        channel -= pixels[(last - step) % 3]
    np.maximum(turned, low, out=turned)
    for last, channel in enumerate(turned):
        np.minimum(channel, top, out=pixels[(last + step) % 3])


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
