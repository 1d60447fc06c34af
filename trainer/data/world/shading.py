"""Shading: materials, the table of faces, and one pass over the pixels.

Light is Lambertian and fixed to the scene: a surface point has one colour in all views, as self-supervised training
assumes (photo-consistency).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainer.data.world.raycast import BACKGROUND, F32, FIRST_BOX, Boxes, View
from trainer.data.world.texture import FINEST, noise, pulse

Colour = tuple[float, float, float]  # linear RGB, 0..1

CONTACT_HEIGHT = 0.35  # metres: scale of the darkening where something meets the ground
_EDGE_ON = 1e-4  # least squared cosine between ray and normal, for a finite footprint


@dataclass(frozen=True)
class Material:
    """The appearance of a surface: a colour, fine noise, stretched noise, and a pattern of rectangles.

    Wavelengths and periods are metres. On a surface, u runs sideways and v upwards, or along the street.
    """

    colour: Colour
    grain: float = 0.15  # shortest wavelength of the fine noise
    grain_amount: float = 0.16  # standard deviation relative to the colour
    streak: tuple[float, float] = (0.8, 0.4)  # shortest wavelengths of the stretched noise along u and v
    streak_amount: float = 0.14
    tint: Colour = (1.0, 1.0, 1.0)  # of the stretched noise: unequal values change the hue
    period: tuple[float, float] = (1.0, 1.0)  # of the pattern along u and v
    duty: tuple[float, float] = (0.0, 0.0)  # covered fraction of a period; 0 = no pattern
    pattern: Colour = (0.0, 0.0, 0.0)
    pattern_on: Literal["sides", "flat", "all"] = "sides"
    sill: float = 0.0  # height above the foot where the pattern of the sides begins, metres
    contact: float = 0.45  # darkening at the foot, 0 = none


@dataclass(frozen=True)
class Sky:
    """The background wall: sky above, a hazy tree line below."""

    horizon: Colour
    zenith: Colour
    hills: Colour
    hill_height: float  # metres
    clouds: float  # standard deviation relative to the colour
    offset: float  # metres, of the noise


@dataclass(frozen=True)
class Light:
    """One distant lamp and an even glow."""

    towards: tuple[float, float, float]  # unit vector to the lamp, world axes
    ambient: float  # brightness of a surface turned away from the lamp, 0..1

    def on(self, normals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the brightness of surfaces with these outward normals (... 3)."""
        facing = np.maximum(normals @ np.array(self.towards), 0.0)
        return self.ambient + (1.0 - self.ambient) * facing


FaceTable = dict[str, F32]
"""What `shade` looks up by face number, one array per property. A point of a face has the surface coordinates
u = u_x x + u_z z + u_0 and v = v_x x + v_y y + v_z z + v_0 in metres; noise rates are texels per metre."""


def face_table(boxes: Boxes, materials: Sequence[Material], ground: Material, light: Light, seed: int) -> FaceTable:
    """Tabulate all faces in the order of `raycast`. One material per box; `seed` places the noise."""
    n = len(materials)
    looks = [replace(ground, contact=0.0)] * FIRST_BOX + [m for m in materials for _ in range(6)]
    axis = np.concatenate([[1] * FIRST_BOX, np.tile([0, 0, 1, 1, 2, 2], n)])
    flat = axis == 1
    upwards = np.tile([[0.0, -1.0, 0.0]], (FIRST_BOX, 1))
    normals = np.concatenate([upwards, (boxes.axes[:, :, None] * np.array([[-1.0], [1.0]])).reshape(-1, 3)])
    axes = np.concatenate([np.tile(np.eye(3), (FIRST_BOX, 1, 1)), np.repeat(boxes.axes, 6, axis=0)])  # (faces 3 3)
    along_u = np.where((axis == 0)[:, None], axes[:, 2], axes[:, 0])
    along_v = np.where(flat[:, None], axes[:, 2], [0.0, -1.0, 0.0])

    colour = np.array([look.colour for look in looks])
    pattern = np.array([look.pattern for look in looks])
    tint = np.array([look.tint for look in looks])
    brightness = light.on(normals)[:, None]
    streak = FINEST / np.array([look.streak for look in looks])
    placed = np.array([look.pattern_on for look in looks])
    shown = (placed == "all") | (placed == np.where(flat, "flat", "sides"))
    shown[:FIRST_BOX] = True
    period = np.array([look.period for look in looks])
    extent = 2 * _half_extents(boxes)
    period[FIRST_BOX:] = extent / np.maximum(1, np.rint(extent / period[FIRST_BOX:]))  # whole periods fit the face
    duty = np.array([look.duty for look in looks]) * shown[:, None]
    columns = {
        "u_x": along_u[:, 0], "u_z": along_u[:, 2],
        "v_x": along_v[:, 0], "v_y": along_v[:, 1], "v_z": along_v[:, 2],
        "grain": FINEST / np.array([look.grain for look in looks]),
        "streak_u": streak[:, 0], "streak_v": streak[:, 1],
        "grain_amount": [look.grain_amount for look in looks],
        "streak_amount": [look.streak_amount for look in looks],
        "shift": np.random.default_rng(seed).uniform(0.0, 500.0, len(looks)),
        "contact": [look.contact for look in looks],
        "sill": np.where(flat, 0.0, [look.sill for look in looks]),
        "rate_u": 1 / period[:, 0], "rate_v": 1 / period[:, 1], "duty_u": duty[:, 0], "duty_v": duty[:, 1],
    }  # fmt: skip
    for i, channel in enumerate("rgb"):
        columns |= {channel: (colour * brightness)[:, i], f"tint_{channel}": tint[:, i]}
        columns |= {f"pattern_{channel}": (pattern * brightness)[:, i]}
    table = {name: np.asarray(column, np.float32) for name, column in columns.items()}
    return table | surface_origins(table, boxes)


def surface_origins(table: FaceTable, boxes: Boxes) -> FaceTable:
    """Return the rows u_0, v_0 for the places of the boxes. u, v start at an edge of the face and move with it."""
    x, y, z = np.repeat(boxes.centre, 6, axis=0).T
    half = _half_extents(boxes)
    row = {name: table[name][FIRST_BOX:] for name in ("u_x", "u_z", "v_x", "v_y", "v_z")}
    u_0 = half[:, 0] - row["u_x"] * x - row["u_z"] * z
    v_0 = half[:, 1] - table["sill"][FIRST_BOX:] - row["v_x"] * x - row["v_y"] * y - row["v_z"] * z
    fixed = np.zeros(FIRST_BOX)  # ground and background count from the origin of the world
    return {
        "u_0": np.concatenate([fixed, u_0]).astype(np.float32),
        "v_0": np.concatenate([fixed, v_0]).astype(np.float32),
    }


def _half_extents(boxes: Boxes) -> NDArray[np.float64]:
    """Return half sizes of the box faces along u and v, (6 n, 2) metres."""
    x, y, z = boxes.half.T
    sides, flats, fronts = np.stack([z, y], 1), np.stack([x, z], 1), np.stack([x, y], 1)
    return np.stack([sides, sides, flats, flats, fronts, fronts], axis=1).reshape(-1, 2)


def shade(view: View, depth: F32, face: NDArray[np.intp], table: FaceTable, sky: Sky) -> NDArray[np.uint8]:
    """Colour the faces (h w) that `cast` found at depth (h w), metres. Returns RGB (h w 3)."""
    dx, dy, dz = (d.ravel() for d in view.rays)
    z, faces = depth.ravel(), face.ravel()
    pixel = z * np.float32(1.0 / min(view.K[0, 0], view.K[1, 1]))  # metres per pixel, seen face-on
    colours = _surface_colour(view, table, faces, z, pixel, (dx, dy, dz))
    behind = np.flatnonzero(faces == BACKGROUND)
    if len(behind):
        far = z[behind]
        x = far * dx[behind] + np.float32(view.origin[0] + sky.offset)
        height = -(far * dy[behind] + np.float32(view.origin[1]))
        for channel, painted in zip(colours, _sky_colour(sky, x, height, pixel[behind]), strict=True):
            channel[behind] = painted
    image = np.empty((*depth.shape, 3), np.uint8)
    for i, channel in enumerate(colours):
        np.sqrt(np.clip(channel, 0, 1, out=channel), out=channel)  # gamma 2 is near enough to sRGB
        image[..., i] = np.rint(channel * np.float32(255)).reshape(depth.shape)
    return image


def _surface_colour(
    view: View, table: FaceTable, faces: NDArray[np.intp], z: F32, pixel: F32, rays: tuple[F32, F32, F32]
) -> list[F32]:
    """Return linear colours of ground and boxes, three (p,) arrays; rays are world directions of the pixels."""
    dx, dy, dz = rays
    x, y, depth_axis = (np.float32(part) for part in view.origin)
    u_start = x * table["u_x"] + depth_axis * table["u_z"] + table["u_0"]
    v_start = x * table["v_x"] + y * table["v_y"] + depth_axis * table["v_z"] + table["v_0"]
    d_u = table["u_x"].take(faces) * dx + table["u_z"].take(faces) * dz
    d_v = table["v_x"].take(faces) * dx + table["v_y"].take(faces) * dy + table["v_z"].take(faces) * dz
    length2 = dx * dx + dy * dy + dz * dz
    u, v = u_start.take(faces) + z * d_u, v_start.take(faces) + z * d_v
    # A pixel is a disc across the ray; on the surface it is longer by sqrt(1 + (d_u / d_n)^2) along u
    # (offset = disc - ray * (disc . n) / (ray . n)), and likewise along v.
    d_u *= d_u
    d_v *= d_v
    d_n = np.maximum(length2 - d_u - d_v, np.float32(_EDGE_ON) * length2)
    foot_u = pixel * np.sqrt(1 + d_u / d_n)
    foot_v = pixel * np.sqrt(1 + d_v / d_n)

    shift = table["shift"].take(faces)
    grain = table["grain"].take(faces)
    fine = noise((u + shift) * grain, v * grain, np.maximum(foot_u, foot_v) * grain)
    fine *= table["grain_amount"].take(faces)
    streak_u, streak_v = table["streak_u"].take(faces), table["streak_v"].take(faces)
    rough = noise((u - shift) * streak_u, v * streak_v, np.maximum(foot_u * streak_u, foot_v * streak_v))
    rough *= table["streak_amount"].take(faces)
    rate_u, rate_v = table["rate_u"].take(faces), table["rate_v"].take(faces)
    cover = pulse(u * rate_u, table["duty_u"].take(faces), foot_u * rate_u)
    cover *= pulse(v * rate_v, table["duty_v"].take(faces), foot_v * rate_v)

    height = z * -dy
    height -= y
    shadow = 1 - table["contact"].take(faces) * np.exp(height * np.float32(-1 / CONTACT_HEIGHT))
    fine += 1
    fine *= shadow
    rough *= shadow
    colours = []
    for key in ("r", "g", "b"):
        base = table[key].take(faces)
        base += cover * (table[f"pattern_{key}"].take(faces) - base)
        base *= fine + table[f"tint_{key}"].take(faces) * rough
        colours.append(base)
    return colours


def _sky_colour(sky: Sky, x: F32, height: F32, pixel: F32) -> list[F32]:
    """Return linear colours of background points, three (p,) arrays. x, height: metres; pixel: metres per pixel."""
    texels = np.float32(FINEST / 5.0)
    clouds = noise(x * np.float32(FINEST / 12.0), height * np.float32(FINEST / 5.0), pixel * texels)
    leaves = noise(x * texels, height * texels, pixel * texels)
    ridge = noise(x * texels, np.zeros_like(x), pixel * texels)
    top = np.float32(sky.hill_height) * (1 + np.float32(0.35) * ridge)
    below = np.clip((top - height) / (np.float32(1.5) * pixel) + np.float32(0.5), 0, 1)
    upward = np.clip(height * np.float32(1 / 28.0), 0, 1)
    colours = []
    for horizon, zenith, hills in zip(sky.horizon, sky.zenith, sky.hills, strict=True):
        base = np.float32(horizon) + np.float32(zenith - horizon) * upward
        base *= 1 + np.float32(sky.clouds) * clouds
        base += below * (np.float32(hills) * (1 + np.float32(0.3) * leaves) - base)
        colours.append(base)
    return colours
