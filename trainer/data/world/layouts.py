"""Furnish scenes: streets and corridors whose widths, heights and contents differ widely.

Sizes of things (storeys, cars, people, doors) hardly vary, and everything stands on the ground, seen from a
nearly constant height: cues that a network can carry over to new scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np

from trainer.data.world.drive import Drive
from trainer.data.world.materials import Rng, facade, grass, grey, painted, paving, wall_paint
from trainer.data.world.objects import car, person, pole, tree, truck
from trainer.data.world.scenes import Scene, Stage
from trainer.data.world.shading import Light, Material, Sky
from trainer.runtime.errors import UserError

ROAD_CAMERA_HEIGHT = 1.65  # metres, KITTI (Geiger, IJRR 2013)
CORRIDOR_CAMERA_HEIGHT = 1.5
CORRIDOR_PACE = 0.4  # speed indoors relative to the road
VIEW_DISTANCE = 90.0  # metres of furnished street beyond the end of the drive
LANE_HALF = 1.7  # metres kept free on both sides of the camera's path

SceneKind = Literal["road", "corridor", "mixed"]
Layout = Callable[[Rng, int, float, float, int, float], Scene]

_RANGES = {"motion": (0, 10), "rotation": (0, 20), "moving_objects": (0, 100), "standing": (0, 1), "clutter": (0, 2)}


def check_drive_options(name_of: Callable[[str], str], values: Mapping[str, float]) -> None:
    """Raise UserError when a value of `_RANGES` is out of range; `name_of` turns its key into its option."""
    for key, value in values.items():
        low, high = _RANGES[key]
        if not low <= value <= high:
            raise UserError(f"{name_of(key)} must be between {low} and {high}, got {value}")


@lru_cache(maxsize=512)  # about 60 kB each
def draw_scene(
    seed: tuple[int, ...], kind: SceneKind, frames: int, motion: float, rotation: float, moving_objects: int,
    standing: float, clutter: float = 1.0,
) -> Scene:  # fmt: skip
    """Draw a scene for a drive of `frames` frames, a function of the arguments alone.

    motion: mean metres per frame on the road; rotation: degrees; standing: probability of a camera that does not move;
    clutter: density of objects, 1 = as usual.
    """
    rng = np.random.default_rng(list(seed))
    indoors = rng.random() < 0.5
    stands = rng.random() < standing
    speed = motion * rng.uniform(0.5, 1.5)
    return LAYOUTS[kind][indoors](rng, frames, 0.0 if stands else speed, rotation, moving_objects, clutter)


def road(rng: Rng, frames: int, speed: float, rotation: float, moving_objects: int, clutter: float) -> Scene:
    """Furnish a street. speed in metres per frame; rotation: largest angle of the camera, degrees."""
    drive = Drive.draw(rng, ROAD_CAMERA_HEIGHT + rng.normal(0.0, 0.03), speed, rotation)
    start, end = drive.reach(frames)
    edges = -2.0 * 4.0 ** rng.uniform(), 2.0 * 3.0 ** rng.uniform()  # of the carriageway
    stage = _outdoors(rng, end + VIEW_DISTANCE + 10.0)
    for side, edge in zip((-1, 1), edges, strict=True):
        _street_side(rng, stage, side, edge, start - 25.0, end + VIEW_DISTANCE, clutter)
    # beyond the moving objects
    _obstacles(rng, stage, edges, end + (25.0 if moving_objects else 5.0), clutter)
    for _ in range(moving_objects):
        _moving_road_user(rng, stage, edges, drive, frames)
    return Scene.finish(stage, drive, int(rng.integers(2**31)))


def corridor(rng: Rng, frames: int, speed: float, rotation: float, walkers: int, clutter: float) -> Scene:
    """Furnish a corridor; the camera moves at `CORRIDOR_PACE` of the speed."""
    drive = Drive.draw(rng, CORRIDOR_CAMERA_HEIGHT + rng.normal(0.0, 0.05), CORRIDOR_PACE * speed, rotation)
    start, end = drive.reach(frames)
    z_wall = end + 2.0 * 20.0 ** rng.uniform()
    walls = -0.9 * 6.0 ** rng.uniform(), 1.3 * 4.0 ** rng.uniform()
    stage = _indoors(rng, z_wall + 10.0)
    ceiling = rng.uniform(2.4, 4.5)
    middle, length = (start + z_wall) / 2 - 5.0, z_wall - start + 30.0
    lamps = Material(
        grey(rng, 0.35, 0.6), grain=0.3, period=(walls[1] - walls[0], rng.uniform(2.5, 5.0)),
        duty=(0.35, 0.3), pattern=(1.0, 1.0, 0.9), pattern_on="flat", contact=0.0,
    )  # fmt: skip
    stage.add(lamps, 0.0, middle, (40.0, 1.0, length), base=ceiling)
    stage.add(wall_paint(rng), 0.0, z_wall + 0.5, (40.0, ceiling, 1.0))
    for side, wall in zip((-1, 1), walls, strict=True):
        _corridor_side(rng, stage, side, wall, start - 4.0, z_wall, ceiling, clutter)
    free = [wall - side * 0.4 for side, wall in zip((-1, 1), walls, strict=True)]
    for _ in range(round(clutter * rng.integers(0, 4))):
        if end + 2.0 < z_wall - 1.0:
            _loose_thing(rng, stage, rng.uniform(*free), rng.uniform(end + 2.0, z_wall - 1.0))
    for _ in range(walkers):  # people who keep ahead and cross the corridor around a random frame
        ahead = rng.uniform(2.0, np.clip(z_wall - end - 0.5, 2.1, 9.0))
        pace = rng.uniform(0.05, 0.12) * rng.choice([-1, 1])
        x = rng.uniform(*free) - pace * rng.uniform(0.0, frames - 1.0)
        person(rng, stage, x, ahead, velocity=(pace, drive.speed))
    return Scene.finish(stage, drive, int(rng.integers(2**31)))


# Layouts of each kind of scene: outdoors, indoors.
LAYOUTS: dict[SceneKind, tuple[Layout, Layout]] = {
    "road": (road, road),
    "corridor": (corridor, corridor),
    "mixed": (road, corridor),
}


def _outdoors(rng: Rng, z_background: float) -> Stage:
    lane = rng.uniform(3.0, 3.8)
    asphalt = rng.uniform(0.07, 0.22)
    ground = Material(
        (asphalt, asphalt * 0.98, asphalt * rng.uniform(0.9, 1.05)),
        grain=rng.uniform(0.12, 0.3), grain_amount=rng.uniform(0.1, 0.2),
        streak=(rng.uniform(0.25, 0.5), rng.uniform(3.0, 6.0)), streak_amount=rng.uniform(0.1, 0.2),
        period=(lane, rng.uniform(6.0, 12.0)), duty=(0.14 / lane, rng.choice([0.35, 0.5, 1.0])),
        pattern=(0.6, 0.6, 0.55),
    )  # fmt: skip
    haze = rng.uniform(0.45, 0.85)
    blue = rng.uniform(0.0, 0.35)
    green = rng.uniform(0.05, 0.16)
    sky = Sky(
        horizon=(haze, haze, min(haze + 0.1, 1.0)),
        zenith=(haze - blue, haze - 0.5 * blue, min(haze + 0.1, 1.0)),
        hills=(green * rng.uniform(0.7, 1.2), green * 1.1, green * rng.uniform(0.6, 1.2)),
        hill_height=rng.uniform(2.5, 9.0), clouds=rng.uniform(0.06, 0.14), offset=rng.uniform(0.0, 1e3),
    )  # fmt: skip
    bearing, height = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.5, 1.3)
    towards = np.sin(bearing) * np.cos(height), -np.sin(height), np.cos(bearing) * np.cos(height)
    return Stage(ground, sky, Light(towards, rng.uniform(0.45, 0.75)), z_background)


def _indoors(rng: Rng, z_background: float) -> Stage:
    floor = Material(
        grey(rng, 0.15, 0.5), grain=0.1, streak=(0.5, 1.5), streak_amount=rng.uniform(0.08, 0.16),
        period=(rng.uniform(0.5, 1.2),) * 2, duty=(0.94, 0.94), pattern=grey(rng, 0.1, 0.5),
    )  # fmt: skip
    dark = (0.1, 0.1, 0.1)  # never seen: the end wall hides it
    sky = Sky(dark, dark, dark, 1.0, 0.1, 0.0)
    towards = 0.3 * rng.choice([-1, 1]), -0.5, -0.81
    return Stage(floor, sky, Light(towards, rng.uniform(0.55, 0.75)), z_background)


def _street_side(
    rng: Rng, stage: Stage, side: int, edge: float, z_start: float, z_end: float, clutter: float,
) -> None:  # fmt: skip
    """Furnish one side: kerb, then a front of houses or trees behind a hedge, parked cars, poles, people."""
    walk = 0.4 * 50.0 ** rng.uniform()  # 0.4 m to 20 m between carriageway and front: lanes and squares
    front = abs(edge) + walk
    kerb = rng.uniform(0.05, 0.16)
    pavement = paving(rng) if rng.random() < 0.6 else grass(rng)
    middle, length = (z_start + z_end) / 2, z_end - z_start
    stage.add(pavement, side * (abs(edge) + 30.0), middle, (60.0, kerb, length + 60.0))
    if rng.random() < 0.65:
        _houses(rng, stage, side, front, z_start, z_end)
    else:
        _park(rng, stage, side, front, z_start, z_end)
    rarity = 1.0 / max(clutter, 1e-3)
    cars = rng.choice([2.0, 8.0, 20.0, 1e3]) * rarity  # mean gap between parked cars, metres
    room_on_road = abs(edge) - LANE_HALF > 2.0
    parked = abs(edge) + (-1.0 if room_on_road else min(1.1, 0.4 + walk / 2))
    if room_on_road or walk > 2.0:
        z = z_start + 20.0 + rng.exponential(cars)
        while z < z_end - 25.0:
            put = car if rng.random() < 0.75 else truck
            put(rng, stage, side * parked, z, heading=rng.choice([-1, 1]))
            z += 6.0 * rarity + rng.exponential(cars)
    for z in np.arange(z_start + rng.uniform(15.0, 40.0), z_end - 20.0, rarity * rng.uniform(14.0, 40.0)):
        pole(rng, stage, side * (abs(edge) + min(0.5, 0.5 * walk)), float(z))
    for _ in range(rng.poisson(2.0 * clutter)):
        x = rng.uniform(max(LANE_HALF, abs(edge) - 0.5), front - 0.2)
        person(rng, stage, side * x, rng.uniform(z_start + 30.0, z_end - 40.0))


def _houses(rng: Rng, stage: Stage, side: int, front: float, z_start: float, z_end: float) -> None:
    palette = [facade(rng) for _ in range(4)]
    gaps, storeys = rng.uniform(0.0, 0.5), rng.integers(1, 5)
    z = z_start
    while z < z_end:
        length = rng.uniform(6.0, 22.0)
        setback = rng.choice([0.0, rng.uniform(0.3, 4.0)])
        height = 3.0 * (storeys + rng.integers(0, 3)) + rng.uniform(0.3, 1.2)
        depth = rng.uniform(8.0, 14.0)
        x = side * (front + setback + depth / 2)
        stage.add(palette[rng.integers(4)], x, z + length / 2, (depth, height, length))
        z += length + (rng.uniform(3.0, 20.0) if rng.random() < gaps else 0.0)


def _park(rng: Rng, stage: Stage, side: int, front: float, z_start: float, z_end: float) -> None:
    if rng.random() < 0.6:
        border = replace(grass(rng), contact=0.5) if rng.random() < 0.5 else paving(rng)
        middle, length = (z_start + z_end) / 2, z_end - z_start
        stage.add(border, side * (front + 0.3), middle, (0.5, rng.uniform(0.7, 2.2), length))
    spacing = rng.uniform(6.0, 18.0)
    for z in np.arange(z_start + rng.uniform(5.0, 15.0), z_end, spacing):
        tree(rng, stage, side * (front + rng.uniform(0.8, 5.0)), float(z) + rng.uniform(-1.0, 1.0))


def _obstacles(rng: Rng, stage: Stage, edges: tuple[float, float], z_free: float, clutter: float) -> None:
    """Add, at random, a vehicle in the lane and a house across the street."""
    if rng.random() < 0.6 * clutter:
        put = car if rng.random() < 0.6 else truck
        put(rng, stage, rng.uniform(edges[0] + 1.0, edges[1] - 1.0), z_free + rng.exponential(8.0), heading=1)
    if rng.random() < 0.5 * clutter:
        z = z_free + rng.exponential(18.0)
        front, x = facade(rng), rng.uniform(-10.0, 10.0)
        stage.add(front, x, z + 5.0, (rng.uniform(20.0, 60.0), rng.uniform(5.0, 14.0), 10.0))


def _moving_road_user(rng: Rng, stage: Stage, edges: tuple[float, float], drive: Drive, frames: int) -> None:
    """Add a car ahead at the camera's pace, an oncoming car, or a crossing person, in view around a random frame."""
    pace = max(drive.speed, 0.3)
    frame = rng.uniform(0.0, frames - 1.0)
    kind = rng.integers(3)
    ahead = rng.uniform(9.0, 22.0) + drive.speed * (frame if kind else 0.0)
    if kind == 0:
        speed = drive.speed * rng.uniform(1.0, 1.15) if drive.speed > 0 else rng.uniform(0.1, 0.3)
        car(rng, stage, rng.uniform(-0.4, 0.4), ahead, heading=1, velocity=(0.0, speed))
    elif kind == 1:
        speed = -pace * rng.uniform(0.5, 1.0)
        car(rng, stage, min(edges[0] / 2, -3.0), ahead - speed * frame, heading=-1, velocity=(0.0, speed))
    else:
        across = rng.uniform(0.08, 0.2) * rng.choice([-1, 1])
        person(rng, stage, rng.uniform(-2.0, 2.0) - across * frame, ahead, velocity=(across, 0.0))


def _corridor_side(
    rng: Rng, stage: Stage, side: int, wall: float, z_start: float, z_end: float, ceiling: float, clutter: float
) -> None:  # fmt: skip
    """Furnish one side of a corridor: wall pieces with niches, cupboards and crates along them."""
    paint, niches = wall_paint(rng), rng.uniform(0.0, 0.6)
    z = z_start
    while z < z_end:
        length = rng.uniform(2.0, 7.0)
        setback = rng.uniform(0.2, 2.0) if rng.random() < niches else 0.0
        stage.add(paint, side * (abs(wall) + setback + 5.0), z + length / 2, (10.0, ceiling, length))
        z += length
    rarity = 1.0 / max(clutter, 1e-3)
    z = z_start + rarity * rng.exponential(4.0)
    while z < z_end - 1.0:
        width, length = rng.uniform(0.3, 0.6), rng.uniform(0.5, 1.6)
        if abs(wall) - width > 0.75:
            size = (width, float(rng.choice([0.8, 1.1, 1.9])), length)
            stage.add(painted(rng), side * (abs(wall) - width / 2), z + length / 2, size)
        z += length + rarity * rng.exponential(5.0)


def _loose_thing(rng: Rng, stage: Stage, x: float, z: float) -> None:
    if rng.random() < 0.4:
        person(rng, stage, x, z)
    else:
        size = tuple(rng.uniform(0.35, 1.0, 3).tolist())
        stage.add(painted(rng), x, z, size, yaw=rng.uniform(-0.7, 0.7))
