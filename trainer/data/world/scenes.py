"""A scene: boxes on a ground plane, their materials, and the drive through them; renders any frame.

`layouts` furnishes scenes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trainer.data.world.drive import Drive
from trainer.data.world.raycast import BACKGROUND, F32, FIRST_BOX, Boxes, View, cast
from trainer.data.world.shading import FaceTable, Light, Material, Sky, face_table, shade, surface_origins
from trainer.types import STEREO_BASELINE_M

LARGEST_THING = (5.0, 9.5)  # metres, of a footprint: trees are as wide, trucks as long; houses and walls are not


@dataclass
class Stage:
    """A scene while it is being furnished. World axes as in `raycast`; sizes in metres."""

    ground: Material
    sky: Sky
    light: Light
    z_background: float
    centres: list[tuple[float, float, float]] = field(default_factory=list)
    halves: list[tuple[float, float, float]] = field(default_factory=list)
    yaws: list[float] = field(default_factory=list)
    velocities: list[tuple[float, float]] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)

    def add(
        self, material: Material, x: float, z: float, size: tuple[float, float, float], base: float = 0.0,
        yaw: float = 0.0, velocity: tuple[float, float] = (0.0, 0.0),
    ) -> None:  # fmt: skip
        """Put a box of size (width, height, length) over (x, z), with its foot at height `base`.

        yaw in radians, about the vertical; velocity along (x, z) in metres per frame, around frame 0.
        """
        width, height, length = size
        self.centres.append((x, -(base + height / 2), z))
        self.halves.append((width / 2, height / 2, length / 2))
        self.yaws.append(yaw)
        self.velocities.append(velocity)
        self.materials.append(material)


@dataclass(frozen=True)
class Scene:
    """A finished scene; every picture of it is a function of the frame number and the camera."""

    boxes: Boxes  # at frame 0
    velocity: NDArray[np.float64]  # (n 3) metres per frame
    table: FaceTable
    sky: Sky
    z_background: float
    drive: Drive

    @classmethod
    def finish(cls, stage: Stage, drive: Drive, seed: int) -> Scene:
        """Freeze a furnished stage; `seed` places the noise on the faces."""
        n = len(stage.yaws)
        centres, halves = (np.array(values).reshape(n, 3) for values in (stage.centres, stage.halves))
        boxes = Boxes(centres, halves, np.array(stage.yaws))
        velocity = np.zeros((n, 3))
        velocity[:, ::2] = np.array(stage.velocities).reshape(n, 2)
        table = face_table(boxes, stage.materials, stage.ground, stage.light, seed)
        return cls(boxes, velocity, table, stage.sky, stage.z_background, drive)

    def view(self, frame: int, right: bool, K: NDArray[np.float64], size: tuple[int, int]) -> View:
        """Return a camera of `frame`; the right one is `STEREO_BASELINE_M` to the right of the left one."""
        T = self.drive.pose(frame)
        T[:3, 3] += right * STEREO_BASELINE_M * T[:3, 0]
        return View(T, K, size)

    def render(self, frame: int, view: View) -> tuple[NDArray[np.uint8], F32, NDArray[np.bool_]]:
        """Return RGB (h w 3), depth (h w) in metres, and a mask of the background (h w)."""
        boxes, table = self._at(frame)
        depth, face = cast(view, boxes, self.z_background)
        return shade(view, depth, face, table, self.sky), depth, face == BACKGROUND

    def faces(self, frame: int, view: View) -> NDArray[np.intp]:
        """Return the face number (h w) that each pixel sees; those of `table`."""
        return cast(view, self._at(frame)[0], self.z_background)[1]

    def things(self, frame: int, view: View) -> NDArray[np.bool_]:
        """Mark pixels (h w) of what stands about: cars, people, poles, trees, crates; not of houses, walls, kerbs."""
        box = (self.faces(frame, view) - FIRST_BOX) // 6
        footprint = np.sort(2 * self.boxes.half[:, ::2], axis=1)
        small = np.append((footprint <= LARGEST_THING).all(axis=1), False)  # the last is for what is no box
        return small[np.where(box >= 0, box, len(footprint))]

    def _at(self, frame: int) -> tuple[Boxes, FaceTable]:
        if not self.velocity.any():
            return self.boxes, self.table
        boxes = Boxes(self.boxes.centre + frame * self.velocity, self.boxes.half, self.boxes.yaw)
        return boxes, self.table | surface_origins(self.table, boxes)
