"""The path of the camera: forward at a steady pace, swaying and turning a little; a formula of the frame number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PAD = 5  # frames before the first and after the last frame of a drive that supports may take


@dataclass(frozen=True)
class Drive:
    """The path of a left camera along the street. Frame numbers may be any real number."""

    height: float  # metres above the ground
    speed: float  # metres per frame, 0 = standing
    sway: float  # metres to the sides
    turn: NDArray[np.float64]  # (3 2) amplitudes of yaw, pitch, roll: two waves each, radians
    period: NDArray[np.float64]  # (3 2) frames
    phase: NDArray[np.float64]  # (3 2) radians

    @classmethod
    def draw(cls, rng: np.random.Generator, height: float, speed: float, rotation: float) -> Drive:
        """Draw a drive. rotation: largest angle reached, degrees; a drive at speed 0 does not turn either."""
        share = np.array([[1.0], [0.7], [0.5]]) * np.array([0.7, 0.3])  # yaw more than pitch and roll
        amplitude = np.deg2rad(rotation) * share * rng.uniform(0.5, 1.0, (3, 2))
        moves = speed > 0
        return cls(
            height=height,
            speed=speed,
            sway=moves * rng.uniform(0.0, 0.25),
            turn=moves * amplitude,
            period=rng.uniform(np.array([12.0, 5.0]), np.array([25.0, 10.0]), (3, 2)),
            phase=rng.uniform(0.0, 2 * np.pi, (3, 2)),
        )

    def pose(self, frame: float) -> NDArray[np.float64]:
        """Return the camera-to-world motion (4 4) of the left camera, metres."""
        yaw, pitch, roll = (self.turn * np.sin(2 * np.pi * frame / self.period + self.phase)).sum(axis=1)
        side = self.sway * np.sin(2 * np.pi * frame / 15.0 + self.phase[0, 0])
        T = np.eye(4)
        T[:3, :3] = _rotation(1, yaw) @ _rotation(0, pitch) @ _rotation(2, roll)
        T[:3, 3] = side, -self.height, self.speed * frame
        return T

    def reach(self, frames: int) -> tuple[float, float]:
        """Return the first and last z of the camera over `frames` frames and their supports, metres."""
        return -PAD * self.speed, (frames - 1 + PAD) * self.speed


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    R = np.eye(3)
    R[i, i] = R[j, j] = np.cos(angle)
    R[i, j], R[j, i] = -np.sin(angle), np.sin(angle)
    return R
