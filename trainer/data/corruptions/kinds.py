"""The 18 corruptions of KITTI-C by name, with the values of their five levels.

Kong et al., *RoboDepth*, arXiv:2310.15171, of which dark, color_quant and iso_noise are their own; the others are those
of Michaelis et al., arXiv:1907.07484, after Hendrycks & Dietterich, arXiv:1903.12261.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models_zoo.registry import did_you_mean
from trainer.data.corruptions import blur, digital, noise, weather
from trainer.data.corruptions.digital import as_bytes

VERSION = 1  # rises when the same arguments give another picture
LEVELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """How a kind changes a picture."""

    rule: Callable[..., NDArray[Any]]  # picture (h w 3) in [0, 1], generator, values of the level -> the like
    values: Sequence[tuple[float, ...]]  # of levels 1 to 5
    is_random: bool = True
    has_pictures: bool = False  # takes pictures of frost


def _each(*values: float) -> list[tuple[float, ...]]:
    return [(value,) for value in values]


_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
_PHOTONS = (60, 25, 12, 5, 3)

CORRUPTIONS = {
    "brightness": Corruption(digital.brightness, _each(0.1, 0.2, 0.3, 0.4, 0.5), is_random=False),
    "dark": Corruption(noise.dark, list(zip((0.6, 0.5, 0.4, 0.3, 0.2), _PHOTONS, _NOISE, strict=True))),
    "fog": Corruption(weather.fog, [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)]),
    "frost": Corruption(weather.frost, [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)], has_pictures=True),
    "snow": Corruption(
        weather.snow,
        [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
    ),
    "contrast": Corruption(digital.contrast, _each(0.4, 0.3, 0.2, 0.1, 0.05), is_random=False),
    "defocus_blur": Corruption(blur.defocus, [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)], is_random=False),
    "glass_blur": Corruption(blur.glass, [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)]),
    "motion_blur": Corruption(blur.motion, [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)]),
    "zoom_blur": Corruption(
        blur.zoom, [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)], is_random=False
    ),
    "elastic_transform": Corruption(digital.elastic, _each(0.05, 0.065, 0.085, 0.1, 0.12)),
    "color_quant": Corruption(digital.quantise, _each(5, 4, 3, 2, 1), is_random=False),
    "gaussian_noise": Corruption(noise.gaussian, _each(*_NOISE)),
    "impulse_noise": Corruption(noise.impulse, _each(0.03, 0.06, 0.09, 0.17, 0.27)),
    "shot_noise": Corruption(noise.shot, _each(*_PHOTONS)),
    "iso_noise": Corruption(noise.iso, _each(*_NOISE)),
    "pixelate": Corruption(digital.pixelate, _each(0.6, 0.5, 0.4, 0.3, 0.25), is_random=False),
    "jpeg_compression": Corruption(digital.jpeg, _each(25, 18, 15, 10, 7), is_random=False),
}
KINDS = tuple(CORRUPTIONS)


def corrupt(
    image: NDArray[np.uint8],
    kind: str,
    level: int,
    *,
    seed: int,
    index: int,
    frost_pictures: Sequence[NDArray[np.uint8]] = (),
) -> NDArray[np.uint8]:
    """Corrupt a picture. The result is a function of the arguments and of nothing else.

    Args:
        image: (h w 3) RGB.
        kind: one of `KINDS`.
        level: 1 (least) to 5.
        seed, index: of the random draws, with the kind and the level; `index` is that of the item, both >= 0.
        frost_pictures: (H W 3) RGB, for `frost`; none = a texture of our own.

    Returns (h w 3). Raises ValueError for another kind, level or form of picture.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"{kind!r} is not a corruption. {did_you_mean(kind, KINDS)}")
    if level not in LEVELS:
        raise ValueError(f"level {level} of {kind}: levels are 1 to 5")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected a picture (h, w, 3) of bytes, got {image.dtype} of shape {image.shape}")
    chosen = CORRUPTIONS[kind]
    rng = np.random.default_rng([seed, index, zlib.crc32(kind.encode()), level])
    extra = {"pictures": frost_pictures} if chosen.has_pictures else {}
    return as_bytes(chosen.rule(image / 255, rng, *chosen.values[level - 1], **extra))
