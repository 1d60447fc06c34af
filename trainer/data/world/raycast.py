"""Ray casting of boxes on a ground plane: the face that a pixel sees, and its depth. No colour here.

World axes: x right, y DOWN, z along the street; the ground is y = 0, so heights are negative y. Camera axes
as in KITTI. Depth is z-depth in metres: the distance along the optical axis, not along the ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

GROUND, BACKGROUND, FIRST_BOX = 0, 1, 2  # face numbers; box b owns FIRST_BOX + 6 b + 2 axis + side
NEAR = 0.05  # metres: boxes are clipped here before their outline in the image is found

_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_EDGES = np.array([(i, i | bit) for bit in (1, 2, 4) for i in range(8) if not i & bit])


@dataclass(frozen=True)
class Boxes:
    """Upright boxes. Local axes: x, y (down), z; yaw turns about y, from local z towards local x."""

    centre: NDArray[np.float64]  # (n 3) metres
    half: NDArray[np.float64]  # (n 3) half extents along the local axes, metres
    yaw: NDArray[np.float64]  # (n,) radians

    @cached_property
    def axes(self) -> NDArray[np.float64]:
        """Local axes in world coordinates, (n 3 3): row i is axis i."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        axes = np.zeros((len(self.yaw), 3, 3))
        axes[:, 0, 0], axes[:, 0, 2] = cos, -sin
        axes[:, 1, 1] = 1.0
        axes[:, 2, 0], axes[:, 2, 2] = sin, cos
        return axes

    @cached_property
    def corners(self) -> NDArray[np.float64]:
        """World coordinates of the corners, (n 8 3)."""
        return self.centre[:, None] + np.einsum("kc,ncd->nkd", _SIGNS, self.half[:, :, None] * self.axes)


@dataclass(frozen=True)
class View:
    """A camera with its pose."""

    T_world: NDArray[np.float64]  # (4 4) camera -> world
    K: NDArray[np.float64]  # (3 3) pixels, pixel centres at integers
    size: tuple[int, int]  # (width, height)

    @property
    def origin(self) -> NDArray[np.float64]:
        return self.T_world[:3, 3]

    @cached_property
    def rays(self) -> tuple[F32, F32, F32]:
        """World directions of the pixels, three (h w) arrays; 1 along the optical axis."""
        x, y = _pixel_grid(self.K[0, 0], self.K[0, 2], self.K[1, 1], self.K[1, 2], self.size)
        R = self.T_world[:3, :3].astype(np.float32)
        dx, dy, dz = ((R[i, 0] * x)[None, :] + (R[i, 1] * y + R[i, 2])[:, None] for i in range(3))
        return dx, dy, dz


@lru_cache(maxsize=8)
def _pixel_grid(fx: float, cx: float, fy: float, cy: float, size: tuple[int, int]) -> tuple[F32, F32]:
    x = (np.arange(size[0]) - cx) / fx
    y = (np.arange(size[1]) - cy) / fy
    return x.astype(np.float32), y.astype(np.float32)


def cast(view: View, boxes: Boxes, z_background: float) -> tuple[F32, NDArray[np.intp]]:
    """Find the nearest surface in every pixel: ground, box, or background wall (world z = `z_background`).

    Returns depth (h w) in metres and face numbers (h w). A box that holds the camera is not drawn.
    """
    dx, dy, dz = view.rays
    origin = view.origin
    inverse = tuple(_inverse(d) for d in (dx, dy, dz))
    depth = np.float32(z_background - origin[2]) * inverse[2]
    face = np.full(depth.shape, BACKGROUND, np.intp)
    ground = np.float32(-origin[1]) * inverse[1]
    below = (ground > 0) & (ground < depth)
    np.copyto(depth, ground, where=below)
    face[below] = GROUND

    near, outline = _outlines(view, boxes)
    local_origin = np.einsum("nij,nj->ni", boxes.axes, origin - boxes.centre)
    for i_box in np.argsort(near):
        left, top, right, bottom = outline[i_box]
        if left >= right or top >= bottom:
            continue
        window = (slice(top, bottom), slice(left, right))
        if near[i_box] >= depth[window].max():  # hidden by what is nearer
            continue
        slopes = [d[window] for d in inverse]
        if boxes.yaw[i_box] != 0.0:
            cos, sin = np.float32(boxes.axes[i_box, 0, 0]), np.float32(boxes.axes[i_box, 2, 0])
            x, z = dx[window], dz[window]
            slopes[0] = _inverse(cos * x - sin * z)
            slopes[2] = _inverse(sin * x + cos * z)
        first_face = FIRST_BOX + 6 * i_box
        _draw_box(depth[window], face[window], slopes, local_origin[i_box], boxes.half[i_box], first_face)
    return depth, face


def _inverse(direction: F32) -> F32:
    """Return 1 / direction; for 0 a large number, not infinity, which times 0 is NaN."""
    return np.float32(1.0) / np.where(direction == 0, np.float32(1e-12), direction)


def _draw_box(
    depth: F32, face: NDArray[np.intp], slopes: list[F32], origin: NDArray, half: NDArray, first_face: int
) -> None:
    """Test one box against the rays of one window by slabs; write where the box is nearest.

    slopes: inverse ray directions along the box's axes; origin: the camera in box coordinates, metres.
    """
    enter: F32 | None = None
    leave: F32 | None = None
    code: NDArray | int = 0
    for axis in range(3):
        low = np.float32(-half[axis] - origin[axis]) * slopes[axis]
        high = np.float32(half[axis] - origin[axis]) * slopes[axis]
        side = int(origin[axis] > 0)
        if abs(origin[axis]) < half[axis]:  # between the two planes: they only bound the way out
            out = np.maximum(low, high)
        else:
            into, out = (high, low) if side else (low, high)
            this = first_face + 2 * axis + side
            if enter is None:
                enter, code = into, this
            else:
                code = np.where(into > enter, this, code)
                enter = np.maximum(enter, into)
        leave = out if leave is None else np.minimum(leave, out)
    if enter is None or leave is None:
        return
    hit = (enter <= leave) & (enter < depth) & (enter > 0)
    np.copyto(depth, enter, where=hit)
    np.copyto(face, code, where=hit)


def _outlines(view: View, boxes: Boxes) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the nearest depth (n,) of every box and its window (n 4): left, top, right, bottom, half-open, clipped."""
    width, height = view.size
    points = (boxes.corners - view.origin) @ view.T_world[:3, :3]  # (n 8 3) camera coordinates
    z = points[..., 2]
    near = np.maximum(z.min(axis=1), 0.0)
    pixels = _project(view, points)
    low = np.where(z[..., None] > NEAR, pixels, np.inf).min(axis=1)
    high = np.where(z[..., None] > NEAR, pixels, -np.inf).max(axis=1)
    cut = np.flatnonzero((z.min(axis=1) <= NEAR) & (z.max(axis=1) > NEAR))
    if len(cut):  # the clipped box has new corners where its edges cross the near plane
        a, b = points[cut][:, _EDGES[:, 0]], points[cut][:, _EDGES[:, 1]]
        crosses = (a[..., 2] > NEAR) != (b[..., 2] > NEAR)
        step = np.where(crosses, b[..., 2] - a[..., 2], 1.0)
        pixels = _project(view, a + ((NEAR - a[..., 2]) / step)[..., None] * (b - a))
        low[cut] = np.minimum(low[cut], np.where(crosses[..., None], pixels, np.inf).min(axis=1))
        high[cut] = np.maximum(high[cut], np.where(crosses[..., None], pixels, -np.inf).max(axis=1))
    limit = np.array([width, height])
    start = np.clip(np.ceil(low), 0, limit)
    stop = np.clip(np.floor(high) + 1, 0, limit)
    return near, np.concatenate([start, stop], axis=1).astype(np.int64)


def _project(view: View, points: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = np.array([view.K[0, 0], view.K[1, 1]])
    centre = np.array([view.K[0, 2], view.K[1, 2]])
    return points[..., :2] / np.maximum(points[..., 2:], NEAR) * scale + centre
