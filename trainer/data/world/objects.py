"""Things of known size on the ground: cars, trucks, people, poles, trees. One to three boxes each."""

from __future__ import annotations

import numpy as np

from trainer.data.world.materials import Rng, paint
from trainer.data.world.scenes import Stage
from trainer.data.world.shading import Material

Velocity = tuple[float, float]  # along (x, z), metres per frame
STILL: Velocity = (0.0, 0.0)


def car(rng: Rng, stage: Stage, x: float, z: float, heading: int, velocity: Velocity = STILL) -> None:
    """Add a car of 3.9 m to 4.6 m with its middle over (x, z).

    heading: 1 = away from the camera, -1 = towards it.
    """
    yaw = rng.normal(0.0, 0.02)
    length = rng.uniform(3.9, 4.6)
    lacquer = paint(rng)
    glass = Material(
        (0.04, 0.045, 0.05), grain=0.2, grain_amount=0.2, streak=(1.0, 0.3), streak_amount=0.25,
        period=(9.0, 9.0), duty=(1.0, 0.8), pattern=(0.05, 0.06, 0.08), contact=0.0,
    )  # fmt: skip
    body = Material(
        lacquer, grain=0.25, grain_amount=0.12, streak=(1.5, 0.2), streak_amount=0.18,
        period=(9.0, 9.0), duty=(1.0, 0.3), pattern=(0.03, 0.03, 0.03), contact=0.8,
    )  # fmt: skip
    stage.add(body, x, z, (1.75, 0.88, length), yaw=yaw, velocity=velocity)
    back = -0.25 * heading
    x, z = x + back * np.sin(yaw), z + back * np.cos(yaw)
    stage.add(glass, x, z, (1.5, 0.55, 0.55 * length), 0.88, yaw, velocity)


def truck(rng: Rng, stage: Stage, x: float, z: float, heading: int, velocity: Velocity = STILL) -> None:
    """Add a van or truck, 2.3 m to 3.4 m high, with its middle over (x, z)."""
    size = (rng.uniform(2.0, 2.5), rng.uniform(2.3, 3.4), rng.uniform(5.5, 9.0))
    lacquer = paint(rng)
    box = Material(
        lacquer, grain=0.2, streak=(0.6, 0.6), streak_amount=0.16, tint=(1.0, 0.9, 0.7),
        period=(9.0, 9.0), duty=(1.0, 0.16), pattern=(0.03, 0.03, 0.03), contact=0.8,
    )  # fmt: skip
    stage.add(box, x, z, size, yaw=rng.normal(0.0, 0.03) + np.pi * (heading < 0), velocity=velocity)


def person(rng: Rng, stage: Stage, x: float, z: float, velocity: Velocity = STILL) -> None:
    """Add a person 1.6 m to 1.85 m tall: legs, jacket, head."""
    height = rng.uniform(1.6, 1.85)
    yaw = rng.uniform(0.0, np.pi)
    layers = [(0.0, 0.47, 0.3, paint(rng)), (0.47, 0.38, 0.48, paint(rng)), (0.85, 0.15, 0.2, (0.5, 0.34, 0.25))]
    for start, share, width, colour in layers:
        cloth = Material(colour, grain=0.08, grain_amount=0.25, streak=(0.3, 0.15), contact=0.3)
        stage.add(cloth, x, z, (width, share * height, 0.25), start * height, yaw, velocity)


def pole(rng: Rng, stage: Stage, x: float, z: float) -> None:
    """Add a lamp post or the post of a sign."""
    grey = rng.uniform(0.1, 0.35)
    metal = Material((grey, grey, grey), grain=0.1, grain_amount=0.2, streak=(0.2, 0.5))
    width = rng.uniform(0.12, 0.22)
    stage.add(metal, x, z, (width, rng.uniform(2.5, 8.0), width))


def tree(rng: Rng, stage: Stage, x: float, z: float) -> None:
    """Add a trunk that carries a crown."""
    trunk, crown = rng.uniform(1.5, 3.0), rng.uniform(2.2, 4.5)
    bark = Material((0.11, 0.08, 0.05), grain=0.1, grain_amount=0.3, streak=(0.1, 0.8), streak_amount=0.3)
    green = rng.uniform(0.05, 0.14)
    leaves = Material(
        (green * rng.uniform(0.5, 1.2), green, green * 0.3), grain=0.25, grain_amount=0.4,
        streak=(1.2, 1.0), streak_amount=0.35, tint=(1.2, 1.0, 0.5), contact=0.0,
    )  # fmt: skip
    width = rng.uniform(0.2, 0.4)
    stage.add(bark, x, z, (width, trunk, width))
    stage.add(leaves, x, z, (crown, crown * rng.uniform(0.8, 1.3), crown), trunk, rng.uniform(0.0, 1.5))
