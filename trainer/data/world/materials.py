"""Random materials of walls, grounds and furniture."""

from __future__ import annotations

import numpy as np

from trainer.data.world.shading import Colour, Material

Rng = np.random.Generator


def grey(rng: Rng, low: float, high: float) -> Colour:
    """Draw a nearly neutral colour with a brightness between `low` and `high`."""
    level = rng.uniform(low, high)
    r, g, b = level * rng.uniform(0.85, 1.15, 3)
    return r, g, b


def facade(rng: Rng) -> Material:
    """Draw a house front with windows, a storey every 3 m."""
    glass = rng.uniform(0.02, 0.12)
    colour = [
        (0.5, 0.46, 0.36), (0.36, 0.16, 0.1), (0.55, 0.55, 0.52), (0.42, 0.32, 0.18), (0.25, 0.26, 0.28)
    ]  # fmt: skip
    r, g, b = np.array(colour[rng.integers(len(colour))]) * rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)
    return Material(
        (r, g, b), grain=rng.uniform(0.12, 0.3), grain_amount=rng.uniform(0.12, 0.22),
        streak=(rng.uniform(0.5, 3.0), rng.uniform(0.25, 1.0)), streak_amount=rng.uniform(0.1, 0.2),
        tint=(1.1, 1.0, 0.8), period=(rng.uniform(1.8, 3.6), 3.0),
        duty=(rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.6)), sill=0.9,
        pattern=(glass, glass * 1.1, glass * 1.3),
    )  # fmt: skip


def wall_paint(rng: Rng) -> Material:
    """Draw a corridor wall, perhaps with doors."""
    return Material(
        grey(rng, 0.2, 0.6), grain=rng.uniform(0.08, 0.16),
        streak=(rng.uniform(0.3, 1.0), rng.uniform(0.3, 1.0)),
        tint=(1.2, 1.0, 0.7), period=(rng.uniform(1.8, 4.0), 9.0), duty=(0.3, rng.choice([0.0, 0.7])),
        pattern=grey(rng, 0.08, 0.3),
    )  # fmt: skip


def paving(rng: Rng) -> Material:
    """Draw slabs of stone."""
    side = rng.uniform(0.5, 1.2)
    return Material(
        grey(rng, 0.15, 0.35), grain=0.15, streak=(0.4, 1.2), period=(side, side), duty=(0.92, 0.92),
        pattern=grey(rng, 0.15, 0.35), pattern_on="all",
    )  # fmt: skip


def grass(rng: Rng) -> Material:
    """Draw a lawn."""
    green = rng.uniform(0.12, 0.3)
    return Material(
        (green * rng.uniform(0.6, 0.95), green, green * 0.35), grain=0.12, grain_amount=0.25,
        streak=(0.8, 1.6), streak_amount=0.25, tint=(1.3, 0.9, 0.6),
    )  # fmt: skip


def painted(rng: Rng) -> Material:
    """Draw a crate or cupboard with panels."""
    r, g, b = rng.uniform(0.05, 0.5, 3)
    return Material((r, g, b), grain=0.08, streak=(0.5, 0.15), period=(0.5, 0.4), duty=(0.9, 0.85), pattern=(r, b, g))


def paint(rng: Rng) -> Colour:
    """Draw the colour of a car or a coat: grey every second time."""
    if rng.random() < 0.5:
        grey = rng.uniform(0.04, 0.6)
        return grey, grey, grey
    r, g, b = rng.uniform(0.03, 0.45, 3)
    return r, g, b
