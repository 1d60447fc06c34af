"""KITTI calibration files and what follows from them: intrinsics, and LiDAR points as a depth map.

A. Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013, sections IV and V.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.clips.intrinsics import is_camera, resized
from trainer.data.clips.poses import are_motions
from trainer.data.files.scans import Array
from trainer.runtime.errors import DataError
from trainer.runtime.files import read_file

# Entries of calib_cam_to_cam.txt and of calib_velo_to_cam.txt.
CAMERA_SHAPES = {"S_rect_02": (2,), "S_rect_03": (2,), "P_rect_02": (3, 4), "P_rect_03": (3, 4), "R_rect_00": (3, 3)}
LIDAR_SHAPES = {"R": (3, 3), "T": (3,)}
_LARGEST = 10_000  # pixels of a side
_ROUNDED = 1e-3  # entries of a rotation times its transpose; KITTI rounds to seven digits


@dataclass(frozen=True)
class Calibration:
    """Calibration of one recording date. Cameras are 2 (left colour) and 3 (right colour)."""

    sizes: dict[int, tuple[int, int]]  # (width, height) of the rectified images
    P_rect: dict[int, Array]  # (3 4) rectified camera 0 -> homogeneous pixels; column 4 holds the baseline
    R_rect: Array  # (3 3) rotation of camera 0 that rectifies all cameras
    T_velo: Array  # (3 4) LiDAR -> camera 0, metres

    def intrinsics(self, camera: int, size: tuple[int, int]) -> Array:
        """Return K (3 3) in pixels of images resized to `size` (w, h)."""
        return resized(self.P_rect[camera][:, :3], self.sizes[camera], size)

    def velodyne_to_pixels(self, camera: int) -> Array:
        """Return the (3 4) projection of LiDAR points, metres, to homogeneous pixels times depth."""
        R, T = np.eye(4), np.eye(4)
        R[:3, :3], T[:3] = self.R_rect, self.T_velo
        return self.P_rect[camera] @ R @ T


def read_calibration(folder: Path) -> Calibration:
    """Read calib_cam_to_cam.txt and calib_velo_to_cam.txt of a date folder. Raises DataError."""
    cameras, lidar = folder / "calib_cam_to_cam.txt", folder / "calib_velo_to_cam.txt"
    return make_calibration(_read(cameras, CAMERA_SHAPES) | _read(lidar, LIDAR_SHAPES), f"{cameras} or {lidar.name}")


def make_calibration(values: Mapping[str, Array], place: str) -> Calibration:
    """Put the entries of both files together. Raises DataError naming `place` unless they describe cameras."""
    sizes, P_rect = ({c: values[f"{name}_0{c}"] for c in (2, 3)} for name in ("S_rect", "P_rect"))
    R_rect, T_velo = values["R_rect_00"], np.hstack([values["R"], values["T"].reshape(3, 1)])
    if not all(np.isfinite(array).all() for array in values.values()):
        wrong = "not all numbers are finite"
    elif any(size.min() < 1 or size.max() > _LARGEST for size in sizes.values()):
        wrong = f"S_rect must be (width, height) from 1 to {_LARGEST}"
    elif not all(is_camera(P[:, :3]) for P in P_rect.values()):
        wrong = "P_rect must be (fx s cx ., 0 fy cy ., 0 0 1 .) with positive focal lengths"
    elif not are_motions(np.stack([np.hstack([R_rect, np.zeros((3, 1))]), T_velo]), _ROUNDED).all():
        wrong = "R_rect_00 and R must be rotations"
    else:
        whole = {c: (int(w), int(h)) for c, (w, h) in sizes.items()}
        return Calibration(whole, P_rect, R_rect, T_velo)
    raise DataError(f"{place} is damaged: {wrong}. Unpack the calibration archive again")


def project_points(
    points: Array, projection: Array, size: tuple[int, int], forward: bool = False
) -> NDArray[np.float32]:
    """Draw LiDAR points into a depth map: metres along the optical axis, 0 = none, the nearest point wins.

    Args:
        points: (n 3+) x, y, z in metres, x forward; points behind the LiDAR or the camera, or not finite, are dropped.
        projection: (3 4) of `Calibration.velodyne_to_pixels`.
        size: (width, height) of the map.
        forward: give metres ahead of the LiDAR instead, as the targets of Eigen et al. (arXiv:1406.2283) have them.

    Returns (height width). Pixels are round(u) - 1, round(v) - 1 as in KITTI's development kit, which
    counts them from 1.
    """
    width, height = size
    kept = (points[:, 0] >= 0) & np.isfinite(points[:, :3]).all(axis=1)
    ahead = points[kept, :3].astype(np.float64)
    q = ahead @ projection[:, :3].T + projection[:, 3]
    before = q[:, 2] > 0
    ahead, q = ahead[before], q[before]
    z = q[:, 2]
    values = ahead[:, 0] if forward else z
    u = np.round(q[:, 0] / z) - 1
    v = np.round(q[:, 1] / z) - 1
    seen = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    nearest = np.full((height, width), np.inf, dtype=np.float32)
    np.minimum.at(nearest, (v[seen].astype(np.intp), u[seen].astype(np.intp)), values[seen].astype(np.float32))
    nearest[np.isinf(nearest)] = 0
    return nearest


def read_numbers(path: Path) -> dict[str, list[float]]:
    """Read lines `key: number number ...`; lines with anything else behind the colon (dates) are left out."""
    try:
        lines = read_file(path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Unpack the calibration archive of its date") from error
    values = {}
    for line in lines:
        key, _, numbers = line.partition(":")
        try:
            values[key.strip()] = [float(number) for number in numbers.split()]
        except ValueError:
            continue
    return values


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    values, found = read_numbers(path), {}
    for key, shape in shapes.items():
        numbers = values.get(key)
        if numbers is None or len(numbers) != np.prod(shape):
            wrong = "is missing" if numbers is None else f"has {len(numbers)} numbers"
            raise DataError(f"{path}: {key} {wrong}, expected {np.prod(shape)}. Unpack the calibration archive again")
        found[key] = np.array(numbers).reshape(shape)
    return found
