"""Colour of what the rays hit: materials, the table of faces, and one pass over the pixels.

Light is Lambertian and fixed to the scene: a surface point has one colour, whatever camera looks at it. Self-supervised
training assumes exactly that (photo-consistency).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainer.data._raycast import BACKGROUND, FIRST_BOX, Boxes, View
from trainer.data._texture import FINEST, noise, pulse

F32 = NDArray[np.float32]
Colour = tuple[float, float, float]  # linear RGB, 0..1

CONTACT_HEIGHT = 0.35  # metres: scale of the darkening where something meets the ground
_GRAIN_ANISOTROPY_LIMIT = 1e-4  # of the squared ray length: a surface seen edge-on has no footprint


@dataclass(frozen=True)
class Material:
    """How a surface looks: a colour, fine noise, stretched noise, and a pattern of rectangles.

    Wavelengths and periods are metres; the surface's u runs sideways, v upwards (on flat faces: along the street).
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
    contact: float = 0.45  # darkening at the foot, 0 = none


@dataclass(frozen=True)
class Sky:
    """The background wall: sky above, a hazy tree line below."""

    horizon: Colour
    zenith: Colour
    hills: Colour
    hill_height: float  # metres
    clouds: float  # standard deviation relative to the colour
    offset: float  # metres: which part of the noise is seen


@dataclass(frozen=True)
class Light:
    """One distant lamp and an even glow."""

    towards: tuple[float, float, float]  # unit vector to the lamp, world axes
    ambient: float  # brightness of a surface turned away from the lamp, 0..1

    def on(self, normals: NDArray[np.float64]) -> NDArray[np.float64]:
        """Brightness of surfaces with these outward normals (... 3)."""
        facing = np.maximum(normals @ np.array(self.towards), 0.0)
        return self.ambient + (1.0 - self.ambient) * facing


ROWS = (
    "u_x u_z v_x v_y v_z u_0 v_0 grain streak_u streak_v grain_amount streak_amount tint_r tint_g tint_b shift "
    "rate_u rate_v duty_u duty_v r g b pattern_r pattern_g pattern_b contact"
).split()
FaceTable = dict[str, F32]  # one value per face and row: surface coordinates are u = u_x x + u_z z + u_0, v likewise


def face_table(boxes: Boxes, materials: Sequence[Material], ground: Material, light: Light, seed: int) -> FaceTable:
    """Tabulate what `shade` needs of every face. `materials` has one entry per box; `seed` places the noise."""
    n_faces = FIRST_BOX + 6 * len(materials)
    table = {row: np.zeros(n_faces, np.float32) for row in ROWS}
    shifts = np.random.default_rng(seed).uniform(0.0, 500.0, n_faces)
    up = light.on(np.array([0.0, -1.0, 0.0]))
    for face in (0, BACKGROUND):
        _fill(table, face, replace(ground, contact=0.0), float(up), shifts[face])
    table["u_x"][0] = table["v_z"][0] = 1.0
    table["rate_u"][0], table["rate_v"][0] = 1 / ground.period[0], 1 / ground.period[1]
    table["duty_u"][0], table["duty_v"][0] = ground.duty
    for i_box, material in enumerate(materials):
        for axis in range(3):
            for side in range(2):
                face = FIRST_BOX + 6 * i_box + 2 * axis + side
                normal = boxes.axes[i_box, axis] * (2 * side - 1)
                _fill(table, face, material, float(light.on(normal)), shifts[face])
                _place(table, face, boxes, i_box, axis, material)
    return table


def _fill(table: FaceTable, face: int, material: Material, light: float, shift: float) -> None:
    """Write what does not depend on where the face is. Wavelengths become texels per metre."""
    values = {
        "grain": FINEST / material.grain,
        "streak_u": FINEST / material.streak[0],
        "streak_v": FINEST / material.streak[1],
        "grain_amount": material.grain_amount,
        "streak_amount": material.streak_amount,
        "shift": shift,
        "contact": material.contact,
    }
    values |= dict(zip(("tint_r", "tint_g", "tint_b"), material.tint, strict=True))
    values |= {key: light * part for key, part in zip(("r", "g", "b"), material.colour, strict=True)}
    values |= {f"pattern_{key}": light * part for key, part in zip("rgb", material.pattern, strict=True)}
    for row, value in values.items():
        table[row][face] = value


def _place(table: FaceTable, face: int, boxes: Boxes, i_box: int, axis: int, material: Material) -> None:
    """Write the surface coordinates of a box face; they start at 0 in a corner, so that patterns fit the face."""
    axes, half = boxes.axes[i_box], boxes.half[i_box]
    i_u = 2 if axis == 0 else 0
    flat = axis == 1
    table["u_x"][face], table["u_z"][face] = axes[i_u, 0], axes[i_u, 2]
    if flat:
        table["v_x"][face], table["v_z"][face] = axes[2, 0], axes[2, 2]
    else:
        table["v_y"][face] = -1.0
    extent_u, extent_v = 2 * half[i_u], 2 * (half[2] if flat else half[1])
    if material.pattern_on in ("all", "flat" if flat else "sides"):
        table["rate_u"][face] = max(1, round(extent_u / material.period[0])) / extent_u
        table["rate_v"][face] = max(1, round(extent_v / material.period[1])) / extent_v
        table["duty_u"][face], table["duty_v"][face] = material.duty
    place_offsets(table, boxes, i_box, (axis,))


def place_offsets(table: FaceTable, boxes: Boxes, i_box: int, axes: Sequence[int] = (0, 1, 2)) -> None:
    """Tie the surface coordinates of a box to where it is now (u_0, v_0): its texture moves with it."""
    x, y, z = boxes.centre[i_box]
    half = boxes.half[i_box]
    for axis in axes:
        for face in (FIRST_BOX + 6 * i_box + 2 * axis, FIRST_BOX + 6 * i_box + 2 * axis + 1):
            along_u = table["u_x"][face] * x + table["u_z"][face] * z
            along_v = table["v_x"][face] * x + table["v_y"][face] * y + table["v_z"][face] * z
            table["u_0"][face] = half[2 if axis == 0 else 0] - along_u
            table["v_0"][face] = half[2 if axis == 1 else 1] - along_v


def shade(view: View, depth: F32, face: NDArray[np.intp], table: FaceTable, sky: Sky) -> NDArray[np.uint8]:
    """Paint what `cast` found. depth (h w) metres, face (h w). Returns (h w 3) RGB."""
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
    """Linear colour of ground and boxes, three (p,) arrays; rays are the pixels' directions in world axes."""
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
    d_n = np.maximum(length2 - d_u - d_v, np.float32(_GRAIN_ANISOTROPY_LIMIT) * length2)
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
    """Linear colour of background points x, height (metres), three (p,) arrays; pixel = metres per pixel there."""
    texels = np.float32(FINEST / 5.0)
    clouds = noise(x * np.float32(FINEST / 12.0), height * np.float32(FINEST / 5.0), pixel * texels)
    leaves = noise(x * texels, height * texels, pixel * texels)
    ridge = noise(x * texels, np.zeros_like(x), pixel * texels)
    top = np.float32(sky.hill_height) * (1 + np.float32(0.35) * ridge)
    below = np.clip((top - height) / (np.float32(1.5) * pixel) + np.float32(0.5), 0, 1)
    upward = np.clip(height * np.float32(1 / 28.0), 0, 1)
    colours = []
    for horizon, zenith, hills in zip(sky.horizon, sky.zenith, sky.hills, strict=True):
        base = (np.float32(horizon) + np.float32(zenith - horizon) * upward) * (1 + np.float32(sky.clouds) * clouds)
        base += below * (np.float32(hills) * (1 + np.float32(0.3) * leaves) - base)
        colours.append(base)
    return colours
