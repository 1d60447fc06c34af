"""Corruptions that blur: lens, glass, motion, zoom. Pictures x are (h w 3) in [0, 1], layers (h w).

What lies outside of a picture is its nearest pixel; for the lens it is mirrored about the pixel of the border.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Picture = NDArray[Any]
DISK_WINDOW = 8  # least radius of the window that holds the disk, pixels
WIDE_DISK = 8  # radius above which the disk is smoothed over 5 pixels instead of 3
MOTION_DEGREES = (-45.0, 45.0)


def defocus(x: Picture, _: np.random.Generator, radius: int, sigma: float) -> Picture:
    """Average over a disk with a smoothed rim."""
    reach = max(radius, DISK_WINDOW)
    place = np.arange(-reach, reach + 1)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).astype(float)
    taps = np.arange(3) - 1.0 if radius <= WIDE_DISK else np.arange(5) - 2.0
    smooth = np.exp(-(taps**2) / (2 * sigma**2))
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, smooth / smooth.sum(), axis, mode="mirror")
    return _filtered(x, disk / disk.sum())


def _filtered(x: Picture, kernel: NDArray[Any]) -> Picture:
    """Correlate with a symmetric kernel (k k), k odd, through frequencies: hundreds of taps cost as much as one."""
    reach = len(kernel) // 2
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    size = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, size)[..., None]
    return np.fft.irfft2(spectrum, size, axes=(0, 1))[2 * reach :, 2 * reach :]


def glass(x: Picture, rng: np.random.Generator, sigma: float, reach: int, rounds: int) -> Picture:
    """Smooth, exchange every pixel with one nearby, from bottom right to top left, several times, and smooth again.

    Pixels nearer to the border than `reach` begin no exchange.
    """
    h, w, _ = x.shape
    smoothed = _smoothed(x, sigma)
    places = np.arange(h * w).reshape(h, w)
    starts = places[reach : h - reach, reach : w - reach][::-1, ::-1]
    order = places.ravel().tolist()
    for _round in range(rounds):
        dy, dx = rng.integers(-reach, reach, (2, *starts.shape))
        pairs = zip(starts.ravel().tolist(), (starts + dy * w + dx).ravel().tolist(), strict=True)
        for here, there in pairs:  # one after the other: an exchange moves what an earlier one has left
            order[here], order[there] = order[there], order[here]
    return _smoothed(smoothed.reshape(h * w, 3)[order].reshape(h, w, 3), sigma)


def _smoothed(x: Picture, sigma: float) -> Picture:
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest", truncate=4)


def motion(x: Picture, rng: np.random.Generator, radius: int, sigma: float) -> Picture:
    """Blur along a direction of -45 to 45 degrees."""
    return along(x, radius, sigma, rng.uniform(*MOTION_DEGREES))


def along(x: Picture, radius: int, sigma: float, degrees: float) -> Picture:
    """Blur x (h w) or (h w 3) to one side: 2 radius + 1 taps a pixel apart, at 0, 1, .. times the direction."""
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    angle, reach = math.radians(degrees), 2 * radius
    h, w = x.shape[:2]
    padded = np.pad(x, ((reach, reach), (reach, reach)) + ((0, 0),) * (x.ndim - 2), mode="edge")
    blurred = np.zeros_like(x)
    for tap, weight in zip(taps, weights, strict=True):
        top, left = reach + round(tap * math.sin(angle)), reach + round(tap * math.cos(angle))
        blurred += weight * padded[top : top + h, left : left + w]
    return blurred


def zoom(x: Picture, _: np.random.Generator, end: float, step: float) -> Picture:
    """Average the picture and its enlargements by 1, 1 + step, .. below `end`."""
    count = math.ceil(round((end - 1) / step, 6))
    return (x + sum(enlarged(x, 1 + i * step) for i in range(count))) / (count + 1)


def enlarged(x: Picture, factor: float) -> Picture:
    """Enlarge about the centre, bilinearly, and keep the size. x (h w) or (h w 3); factor >= 1."""
    for axis in (0, 1):
        length = x.shape[axis]
        centre = (length - 1) / 2
        place = centre + (np.arange(length) - centre) / factor
        before = np.clip(np.floor(place).astype(int), 0, max(length - 2, 0))
        share = (place - before).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        after = np.minimum(before + 1, length - 1)
        x = (1 - share) * x.take(before, axis) + share * x.take(after, axis)
    return x
