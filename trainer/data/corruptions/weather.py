"""Corruptions by weather: fog, frost, snow. Pictures x are (h w 3) in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.corruptions.blur import along, enlarged

Picture = NDArray[Any]
GREY = (0.299, 0.587, 0.114)
SNOW_DEGREES = (-135.0, -45.0)
FROST_COLOUR = np.array([0.86, 0.95, 1.0])
FROST_MARGIN = 1.1  # least enlargement of a picture of frost


def fog(x: Picture, rng: np.random.Generator, amount: float, decay: float) -> Picture:
    """Add a cloud, and darken until the brightest value is what it was."""
    brightest = x.max()
    size = 1 << math.ceil(math.log2(max(*x.shape[:2], 2)))
    cloud = plasma(rng, size, decay)[: x.shape[0], : x.shape[1], None]
    return (x + amount * cloud) * brightest / (brightest + amount)


def plasma(rng: np.random.Generator, size: int, decay: float) -> NDArray[Any]:
    """Draw a diamond-square fractal (size size) in [0, 1], whose borders meet; `size` is a power of two.

    A point is the mean of its four neighbours plus U(-a², a²); a is divided by `decay` whenever the distance halves.
    """
    cloud = np.zeros((size, size))
    step, amplitude = size, 1.0

    def set_points(top: int, left: int, *around: NDArray[Any]) -> None:
        mean = sum(around) / len(around)
        cloud[top::step, left::step] = mean + rng.uniform(-(amplitude**2), amplitude**2, np.shape(mean))

    while step > 1:
        half = step // 2
        corners = cloud[::step, ::step]
        right, below = np.roll(corners, -1, 1), np.roll(corners, -1, 0)
        set_points(half, half, corners, right, below, np.roll(below, -1, 1))
        centres = cloud[half::step, half::step]
        set_points(0, half, corners, right, centres, np.roll(centres, 1, 0))
        set_points(half, 0, corners, below, centres, np.roll(centres, 1, 1))
        step, amplitude = half, amplitude / decay
    cloud -= cloud.min()
    return cloud / cloud.max()


def snow(
    x: Picture, rng: np.random.Generator, mean: float, sd: float, zoom: float, least: float, radius: int, sigma: float,
    kept: float,
) -> Picture:  # fmt: skip
    """Whiten the picture, and add flakes that fall: large grains of noise, blurred by motion, there and turned."""
    flakes = enlarged(rng.normal(mean, sd, x.shape[:2]), zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    fallen = along(flakes, radius, sigma, rng.uniform(*SNOW_DEGREES))[..., None]
    whitened = np.maximum(x, 1.5 * (x @ np.array(GREY))[..., None] + 0.5)
    return kept * x + (1 - kept) * whitened + fallen + fallen[::-1, ::-1]


def frost(
    x: Picture, rng: np.random.Generator, kept: float, added: float, pictures: Sequence[NDArray[np.uint8]] = ()
) -> Picture:
    """Add a part of a picture of frost, of one of `pictures` or, without any, of a texture of our own."""
    h, w, _ = x.shape
    if not pictures:
        return kept * x + added * frost_texture(rng, h, w)
    ice = pictures[int(rng.integers(len(pictures)))]
    scale = FROST_MARGIN * max(1, h / ice.shape[0], w / ice.shape[1])
    height, width = (math.ceil(side * scale) for side in ice.shape[:2])
    ice = np.asarray(Image.fromarray(ice).resize((width, height), Image.Resampling.BICUBIC))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    return kept * x + added * ice[top : top + h, left : left + w] / 255


def frost_texture(rng: np.random.Generator, h: int, w: int) -> Picture:
    """Draw ice (h w 3) in [0, 1]: needles of several lengths in three directions, on a bluish veil."""
    size = 1 << math.ceil(math.log2(max(h, w, 2)))
    cloud = plasma(rng, size, 1.5)[:h, :w]
    first = rng.uniform(0, 60)
    needles = np.zeros((h, w))
    for turn, length in ((0, 8), (60, 12), (120, 16)):
        seeds = (rng.random((h, w)) < 0.015 * cloud) * rng.uniform(0.2, 1, (h, w))
        both = sum(along(seeds, length, length / 2, first + turn + half) for half in (0, 180))
        needles = np.maximum(needles, length / 2 * both)
    ice = 0.25 + 0.4 * cloud + 0.5 * np.clip(needles, 0, 1)
    return np.clip(ice[..., None] * FROST_COLOUR, 0, 1)
