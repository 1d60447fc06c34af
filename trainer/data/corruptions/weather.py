"""Corruptions by weather: fog, frost, snow. Pictures x are (h w 3) in [0, 1]."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.corruptions.blur import along, enlarged
from trainer.data.files.pictures import read_rgb
from trainer.runtime.errors import DataError, UserError

Picture = NDArray[Any]
GREY = (0.299, 0.587, 0.114)
SNOW_DEGREES = (-135.0, -45.0)
FROST_FILES, MOST_FROST_FILES = re.compile(r"frost\d\.(?:png|jpe?g)", re.I), 5
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
    ice = pictures[rng.integers(len(pictures))]
    scale = FROST_MARGIN * max(1, h / ice.shape[0], w / ice.shape[1])
    height, width = (math.ceil(side * scale) for side in ice.shape[:2])
    ice = np.asarray(Image.fromarray(ice).resize((width, height), Image.Resampling.BICUBIC))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    return kept * x + added * ice[top : top + h, left : left + w] / 255


def frost_texture(rng: np.random.Generator, h: int, w: int) -> Picture:
    """Draw ice (h w 3) in [0, 1]: needles in three directions, denser where a cloud is, on a bluish veil."""
    size = 1 << math.ceil(math.log2(max(h, w, 2)))
    cloud = plasma(rng, size, 1.6)[:h, :w]
    turn = rng.uniform(0, 60)
    needles = np.zeros((h, w))
    for i in range(3):
        seeds = (rng.random((h, w)) < 0.02 * cloud) * rng.random((h, w))
        both = along(seeds, 12, 8, turn + 60 * i) + along(seeds, 12, 8, turn + 60 * i + 180)
        needles = np.maximum(needles, 9 * both)
    ice = 0.55 * cloud + 0.75 * np.clip(needles, 0, 1)
    return np.clip(ice[..., None] * np.array([0.86, 0.95, 1.0]), 0, 1)


def read_frost(folder: Path) -> list[NDArray[np.uint8]]:
    """Read the pictures of frost of the package `imagecorruptions` from a folder: the first five in order of name.

    Raises UserError when there are none, or one is not readable.
    """
    files = sorted(path for path in folder.glob("*") if FROST_FILES.fullmatch(path.name))[:MOST_FROST_FILES]
    if len(files) < MOST_FROST_FILES:
        raise UserError(
            f"{folder}: holds {len(files)} of the pictures of frost, frost1.png to frost5.jpg of the package"
            " imagecorruptions (its folder `frost`). Name the folder that has them, or leave out --frost-pictures"
        )
    try:
        return [read_rgb(path) for path in files]
    except DataError as error:
        raise UserError(f"{error}") from error
