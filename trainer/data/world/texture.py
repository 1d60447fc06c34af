"""Procedural texture: tileable noise and pulse patterns, band-limited by the footprint of the pixel.

A texture finer than the pixel grid looks different from every view, and no depth explains it. So all textures are
filtered with the footprint of the pixel on the surface.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

TILE = 256  # texels: period of the noise
FINEST = 6.0  # texels: shortest wavelength in the noise, long enough for bilinear interpolation
LEVELS = 6  # level l holds wavelengths >= FINEST * 2**l; one more level holds nothing
PIXELS_PER_WAVE = 2.5  # shortest wavelength shown, in pixel footprints
NOISE_SEED = 20110926  # the same noise everywhere; scenes differ by offset and scale


@lru_cache(maxsize=1)
def noise_pyramid() -> F32:
    """Return the noise table, flat ((LEVELS + 1) * TILE * TILE,): mean 0, standard deviation 1 at level 0.

    White noise shaped to equal energy per octave between 64 texels and `FINEST`, then low-passed per level.
    """
    rng = np.random.default_rng(NOISE_SEED)
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
    freq = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :])  # cycles per texel
    shape = np.maximum(freq, 1 / 64) ** -1.0
    shape[0, 0] = 0.0
    levels = []
    for level in range(LEVELS):
        cut = 1.0 / (FINEST * 2.0**level)
        keep = np.clip(2.0 - 2.0 * freq / cut, 0.0, 1.0)  # full up to half the cut, nothing beyond it
        levels.append(np.fft.irfft2(spectrum * shape * keep, s=(TILE, TILE)))
    levels = [*(level / levels[0].std() for level in levels), np.zeros((TILE, TILE))]
    return np.stack(levels).astype(np.float32).ravel()


def noise(u: F32, v: F32, footprint: F32) -> F32:
    """Sample the noise at (u, v) texels, keeping wavelengths of at least `PIXELS_PER_WAVE` footprints.

    footprint: texels per pixel. All have the shape of the result: mean 0, standard deviation <= 1.
    """
    table = noise_pyramid()
    level = np.log2(np.maximum(footprint * np.float32(PIXELS_PER_WAVE / FINEST), np.float32(1.0)))
    np.minimum(level, np.float32(LEVELS - 1e-3), out=level)
    level_low = level.astype(np.int32)
    blend = level - level_low
    u_low, v_low = np.floor(u), np.floor(v)
    du, dv = u - u_low, v - v_low
    i_u, i_v = u_low.astype(np.int32), v_low.astype(np.int32)
    left, right = i_u & (TILE - 1), (i_u + 1) & (TILE - 1)
    base = level_low * (TILE * TILE)
    top = base + (i_v & (TILE - 1)) * TILE
    bottom = base + ((i_v + 1) & (TILE - 1)) * TILE
    value = _bilinear(table, top, bottom, left, right, du, dv)
    top += TILE * TILE
    bottom += TILE * TILE
    value += blend * (_bilinear(table, top, bottom, left, right, du, dv) - value)
    return value


def _bilinear(table: F32, top: I32, bottom: I32, left: I32, right: I32, du: F32, dv: F32) -> F32:
    a, b = table.take(top + left), table.take(top + right)
    a += du * (b - a)
    c, d = table.take(bottom + left), table.take(bottom + right)
    c += du * (d - c)
    a += dv * (c - a)
    return a


def pulse(x: F32, duty: F32, footprint: F32) -> F32:
    """Cover a pixel with a wave of pulses: 1 in [0, duty) of every period, box-filtered over two footprints.

    x and footprint in periods, duty in [0, 1]. Returns coverage in [0, 1]: `duty` for a period of two pixels.
    """
    width = np.clip(footprint * np.float32(2.0), np.float32(1e-4), np.float32(1.0))
    low = x - np.float32(0.5) * width
    high = low + width
    return (_pulse_integral(high, duty) - _pulse_integral(low, duty)) / width


def _pulse_integral(x: F32, duty: F32) -> F32:
    whole = np.floor(x)
    return whole * duty + np.minimum(x - whole, duty)
