"""Corruptions by noise of a sensor. Pictures x are (h w 3) in [0, 1]; the results are clipped by who calls.

Every value of every channel has a draw of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[Any]
ISO_PHOTONS, ISO_SHARE = 25, 0.7
DARK_PHOTONS, DARK_SHARE = 10, 0.1  # of the numbers that shot noise and Gaussian noise have


def gaussian(x: Picture, rng: np.random.Generator, sigma: float) -> Picture:
    """Add N(0, sigma)."""
    return x + rng.normal(0, sigma, x.shape)


def impulse(x: Picture, rng: np.random.Generator, share: float) -> Picture:
    """Set a share of the values to 0 or 1, with equal odds."""
    drawn = rng.random(x.shape)
    return np.where(drawn < share / 2, 0, np.where(drawn < share, 1, x))


def shot(x: Picture, rng: np.random.Generator, photons: float) -> Picture:
    """Count photons: Poisson(x photons) / photons."""
    return np.clip(rng.poisson(x * photons) / photons, 0, 1)


def iso(x: Picture, rng: np.random.Generator, sigma: float) -> Picture:
    """Count 25 photons, and add N(0, 0.7 sigma)."""
    return gaussian(shot(x, rng, ISO_PHOTONS), rng, ISO_SHARE * sigma)


def dark(x: Picture, rng: np.random.Generator, brightest: float, photons: float, sigma: float) -> Picture:
    """Square the picture, stretched to [0, 1], scale it to `brightest`, count 10 photons times as many, add noise."""
    low, high = x.min(), x.max()
    stretched = (x - low) / (high - low) if high > low else np.zeros_like(x)
    return gaussian(shot(brightest * stretched**2, rng, DARK_PHOTONS * photons), rng, DARK_SHARE * sigma)
