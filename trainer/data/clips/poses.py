"""Calibration and pose files of KITTI odometry (A. Geiger et al., CVPR 2012, and its development kit)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.data.clips.intrinsics import Array, is_camera
from trainer.runtime.errors import DataError
from trainer.runtime.files import read_file

_UNPACK = "Unpack the calibration archive of the benchmark"


@dataclass(frozen=True)
class Rig:
    """The cameras of a sequence: 0 and 1 grey, 2 and 3 colour, left and right."""

    path: Path
    P: dict[int, Array]  # (3 4) rectified camera 0, metres -> homogeneous pixels
    T_velo: Array | None  # (3 4) LiDAR -> rectified camera 0, metres

    def camera(self, number: int) -> Array:
        """Return the projection (3 4) of a camera. Raises DataError when the file lacks it."""
        if number not in self.P:
            known = ", ".join(f"P{n}" for n in self.P) or "no camera"
            raise DataError(f"{self.path}: has no P{number}, only {known}. Choose other dataset.pictures")
        return self.P[number]

    def K(self, number: int) -> Array:
        """Return the intrinsics (3 3) in pixels of the recording."""
        return self.camera(number)[:, :3]

    def from_camera_0(self, number: int) -> Array:
        """Return the motion camera 0 -> this camera (4 4), metres: rectified cameras differ by a shift."""
        T = np.eye(4)
        T[:3, 3] = np.linalg.inv(self.K(number)) @ self.camera(number)[:, 3]
        return T

    def lidar_to_pixels(self, number: int) -> Array:
        """Return the (3 4) projection of LiDAR points, metres, to homogeneous pixels. Raises DataError without Tr."""
        if self.T_velo is None:
            raise DataError(f"{self.path}: has no Tr (LiDAR -> camera). Set dataset.use_depth: false")
        return self.camera(number) @ np.vstack([self.T_velo, [0, 0, 0, 1]])


def read_rig(path: Path) -> Rig:
    """Read calib.txt: lines `P0: ...` to `P3: ...` and `Tr: ...` of 12 numbers, all optional. Raises DataError."""
    try:
        rows = dict(row.split(":", 1) for row in read_file(path).decode().splitlines() if ":" in row)
        values = {key.strip(): np.array([float(n) for n in row.split()]) for key, row in rows.items()}
        matrices = {key: row.reshape(3, 4) for key, row in values.items()}
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). {_UNPACK}") from error
    P = {int(key[1]): matrix for key, matrix in matrices.items() if key in ("P0", "P1", "P2", "P3")}
    for name, matrix in matrices.items():
        if not np.isfinite(matrix).all():
            raise DataError(f"{path}: {name} is not finite. {_UNPACK}")
    for number, matrix in P.items():
        if not is_camera(matrix[:, :3]):
            expected = "fx s cx ., 0 fy cy ., 0 0 1 . with positive focal lengths"
            raise DataError(f"{path}: P{number} is no camera: expected {expected}")
    if "Tr" in matrices and not are_motions(matrices["Tr"][None])[0]:
        raise DataError(f"{path}: Tr is no rotation with a shift. {_UNPACK}")
    return Rig(path, P, matrices.get("Tr"))


def are_motions(T: Array, rounded: float = 1e-2) -> Array:
    """Tell which of T (n 3+ 4) are a rotation, `rounded` in the entries of R times its transpose, and a shift."""
    R = T[:, :3, :3]
    with np.errstate(all="ignore"):  # NaN, infinite and enormous entries
        difference = np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2), initial=0)
        turns: Array = (difference < rounded) & (np.linalg.det(R) > 0)  # NaN is not less; -1 is a mirror
    return turns & np.isfinite(T).all(axis=(1, 2))


def read_poses(path: Path) -> Array:
    """Read poses, one frame per line as 12 (3x4) or 16 numbers (4x4) by rows: (n 4 4) camera -> world, metres.

    Raises DataError naming the first other line.
    """
    poses = []
    try:
        rows = read_file(path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Copy it again") from error
    for i, row in enumerate(rows, 1):
        try:
            numbers = [float(word) for word in row.split()]
        except ValueError:
            numbers = []
        if row.strip() and len(numbers) not in (12, 16):
            raise DataError(f"{path}:{i}: expected 12 or 16 numbers of a pose, got {row[:40]!r}")
        if numbers:
            poses.append(np.vstack([np.reshape(numbers[:12], (3, 4)), [0, 0, 0, 1]]))
    return np.array(poses).reshape(-1, 4, 4)
