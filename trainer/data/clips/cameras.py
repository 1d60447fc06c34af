"""Cameras in files of other programs: intrinsics, and the pose where the file has one."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.clips.intrinsics import Array, is_camera, read_intrinsics
from trainer.data.clips.poses import are_motions, read_poses
from trainer.data.files.depth import DPT_TAG
from trainer.runtime.errors import DataError
from trainer.runtime.files import read_file

CAM = struct.Struct("<f9d12d")  # tag; K row by row; [R t], world -> camera: MPI Sintel (D. Butler et al., ECCV 2012)


class Camera(NamedTuple):
    """A camera of one picture."""

    K: Array  # (3 3) pixels
    T_world: Array | None = None  # (4 4) camera -> world, metres; None = the file has none


def read_camera(path: Path) -> Camera:
    """Read a camera: `.cam` of MPI Sintel, `.json` of Cityscapes (arXiv:1604.01685), or text as `read_intrinsics`.

    Raises UserError naming the file.
    """
    match path.suffix.lower():
        case ".cam":
            return _read_cam(path)
        case ".json":
            return _read_json(path)
    return Camera(read_intrinsics(path))


def read_world_poses(path: Path) -> Array:
    """Read poses (n 4 4) camera -> world, metres: of a `.cam` file its one, of text as `read_poses`. DataError."""
    poses = np.asarray(_read_cam(path).T_world)[None] if path.suffix.lower() == ".cam" else read_poses(path)
    broken = np.flatnonzero(~are_motions(poses))
    if broken.size or not len(poses):
        what = f"pose {broken[0]} is no rotation with a shift" if broken.size else "there is no pose in it"
        raise DataError(f"{path}: {what}. Copy it again")
    return poses


def _read_cam(path: Path) -> Camera:
    content = _read(path)
    numbers = np.array(CAM.unpack(content) if len(content) == CAM.size else [0.0] * 22)
    K, motion = numbers[1:10].reshape(3, 3), np.vstack([numbers[10:].reshape(3, 4), [0, 0, 0, 1]])
    if numbers[0] != DPT_TAG or not is_camera(K) or not are_motions(motion[None])[0]:
        raise DataError(f"{path} is no camera of MPI Sintel, or was cut short ({len(content)} bytes). Copy it again")
    return Camera(K, np.linalg.inv(motion))


def _read_json(path: Path) -> Camera:
    try:
        inner = json.loads(_read(path))["intrinsic"]
        fx, fy, cx, cy = (float(inner[key]) for key in ("fx", "fy", "u0", "v0"))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected intrinsic: {{fx, fy, u0, v0}} ({error!r}). Copy it again") from error
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    if not is_camera(K):
        raise DataError(f"{path}: {K.tolist()} is no camera. Copy it again")
    return Camera(K)


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). Copy it again") from error
