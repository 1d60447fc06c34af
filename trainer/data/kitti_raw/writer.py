"""Synthetic drives stored as KITTI raw recordings: pictures, LiDAR, annotated depth, calibration, splits.

A. Geiger et al., IJRR 2013 (layout), arXiv:1708.06500 (annotated depth). A file appears under its name
only when it is complete, so a run that was stopped is continued by the same command.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.clips.intrinsics import average_intrinsics
from trainer.data.kitti_raw.files import MANIFEST
from trainer.data.world.layouts import SceneKind, check_drive_options, draw_scene
from trainer.runtime.errors import UserError
from trainer.types import STEREO_BASELINE_M

DATE = "2011_09_26"  # readers know KITTI's dates only
CAMERAS = (2, 3)  # left and right colour
MAX_RANGE = 80.0  # metres: LiDAR scans and annotated depth end here
DRIVE_SEED = 3  # after the modes of `synthetic`: written drives are new scenes

# Camera 0, the reference, stands 6 cm to the right of camera 2; the LiDAR is behind and above it (x forward,
# y left, z up). Rounded from the calibration of 2011_09_26, without its rotations.
CAMERA_X = {0: 0.0, 1: -STEREO_BASELINE_M, 2: 0.06, 3: 0.06 - STEREO_BASELINE_M}  # shift of the scene, metres
R_VELO = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
T_VELO = np.array([0.0, -0.08, -0.27])
BEAMS = np.deg2rad(np.linspace(2.0, -24.8, 64))  # elevations of a Velodyne HDL-64E
COLUMN_STEP = 2  # pixels between scan points


@dataclass(frozen=True)
class Recording:
    """Options of a recording; a folder whose `MANIFEST` has the same values is continued."""

    drives: int = 4
    frames: int = 100  # per drive
    size: tuple[int, int] = (1242, 375)  # (width, height)
    seed: int = 0
    format: Literal["png", "jpg"] = "png"  # jpg: quality 92, 4:2:0, as Monodepth2 converts KITTI
    lidar: bool = True
    annotated: bool = False
    scene: SceneKind = "road"
    motion: float = 0.8  # metres per frame
    rotation: float = 1.0  # degrees
    moving_objects: int = 0
    standing: float = 0.0
    split: str = "synthetic"

    def __post_init__(self) -> None:
        if self.frames < (shortest := 3 if self.drives >= 3 else 5):
            reason = "each mode needs a frame with both neighbours (3 are enough with 3 drives)"
            raise UserError(f"--frames must be at least {shortest}: {reason}, got {self.frames}")
        for name, value, least in (("drives", self.drives, 1), ("seed", self.seed, 0)):
            if value < least:
                raise UserError(f"--{name} must be at least {least}, got {value}")
        check_drive_options(lambda key: f"--{key}".replace("_", "-"), self.drive)
        if min(self.size) < 16:
            raise UserError(f"--size must be at least 16x16, got {self.size[0]}x{self.size[1]}")

    @property
    def drive(self) -> dict[str, Any]:
        """Arguments of `draw_scene`."""
        return {key: getattr(self, key) for key in ("motion", "rotation", "moving_objects", "standing")}


class Moment(NamedTuple):
    """One frame of one drive."""

    i_drive: int
    frame: int


class KittiWriter:
    """Write a recording into `out`, frame by frame. Raises UserError when a file cannot be written.

    Use: `writer.prepare()`, then `writer.write(moment)` for every moment of `writer.missing()`.
    """

    def __init__(self, out: Path, recording: Recording):
        self.out = out
        self.recording = recording
        self.K = average_intrinsics(recording.size)

    def prepare(self) -> None:
        """Claim the folder; write calibration, splits and timestamps. Raises UserError when it is not ours."""
        self._claim()
        for name, text in calibration_files(self.K, self.recording.size).items():
            self._store(self.out / DATE / name, text.encode())
        for mode, lines in split_lines(self.recording).items():
            path = self.out / "splits" / self.recording.split / f"{mode}_files.txt"
            self._store(path, "".join(f"{line}\n" for line in lines).encode())
        start = datetime(2011, 9, 26, 13, 0)
        for i_drive in range(self.recording.drives):
            times = (start + timedelta(minutes=i_drive, seconds=0.1 * frame) for frame in range(self.recording.frames))
            text = "".join(f"{time:%Y-%m-%d %H:%M:%S.%f}000\n" for time in times)
            for sensor in ("image_02", "image_03", *(["velodyne_points"] if self.recording.lidar else [])):
                self._store(self._drive(i_drive) / sensor / "timestamps.txt", text.encode())

    def missing(self) -> list[Moment]:
        """List the moments that are not complete on disk, drive by drive."""
        moments = (Moment(d, f) for d in range(self.recording.drives) for f in range(self.recording.frames))
        return [moment for moment in moments if not all(os.path.isfile(path) for path in self.paths(moment).values())]

    def paths(self, moment: Moment) -> dict[str, Path]:
        """Name the files of a moment: image_02, image_03; if wanted velodyne, depth_02, depth_03."""
        name = f"{moment.frame:010d}"
        drive = self._drive(moment.i_drive)
        suffix = self.recording.format
        paths = {f"image_0{c}": drive / f"image_0{c}" / "data" / f"{name}.{suffix}" for c in CAMERAS}
        if self.recording.lidar:
            paths["velodyne"] = drive / "velodyne_points" / "data" / f"{name}.bin"
        if self.recording.annotated:
            truth = self.out / "depth_benchmark" / DATE / drive.name / "proj_depth" / "groundtruth"
            paths |= {f"depth_0{c}": truth / f"image_0{c}" / f"{name}.png" for c in CAMERAS}
        return paths

    def write(self, moment: Moment) -> None:
        """Render and store a moment."""
        r = self.recording
        scene = draw_scene((r.seed, DRIVE_SEED, moment.i_drive), r.scene, r.frames, **r.drive)
        paths = self.paths(moment)
        for camera in CAMERAS:
            view = scene.view(moment.frame, camera == 3, self.K, self.recording.size)
            image, depth, background = scene.render(moment.frame, view)
            depth[background | (depth > MAX_RANGE)] = 0
            if self.recording.lidar and camera == 2:
                self._store(paths["velodyne"], lidar_scan(depth, image, self.K).tobytes())
            if self.recording.annotated:
                self._store(paths[f"depth_0{camera}"], _encode(np.rint(depth * 256).astype(np.uint16), "png"))
            self._store(paths[f"image_0{camera}"], _encode(image, self.recording.format))

    def _drive(self, i_drive: int) -> Path:
        return self.out / drive_name(i_drive)

    def _claim(self) -> None:
        """Make the folder ours, or check that it is. Raises UserError for other contents or other values."""
        values = json.loads(json.dumps(asdict(self.recording)))
        manifest = self.out / MANIFEST
        if not os.path.isfile(manifest):
            if os.path.exists(self.out) and (not os.path.isdir(self.out) or any(self.out.iterdir())):
                raise UserError(f"{self.out} is not empty and was not written by this command. Choose another --out")
            self._store(manifest, json.dumps(values, indent=2).encode())
            return
        try:
            found: dict[str, Any] = json.loads(manifest.read_text())
            differing = {key for key in values.keys() | found.keys() if values.get(key) != found.get(key)}
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"{manifest} cannot be read ({error}). Choose another --out or remove the folder"
            ) from error
        if differing:
            changes = ", ".join(f"{key} {found.get(key)} -> {values.get(key)}" for key in sorted(differing))
            raise UserError(
                f"{self.out} holds a recording with other values: {changes}. Choose another --out, "
                "remove the folder, or give the same values to continue it"
            )

    def _store(self, path: Path, content: bytes) -> None:
        """Write a file in one step: a reader sees all of it or nothing. Existing files stay."""
        if os.path.isfile(path):
            return
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(content)
            os.replace(unfinished, path)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror or error}. Make room or choose another --out; "
                "the same command continues where this one stopped"
            ) from error


def drive_name(i_drive: int) -> str:
    """`<date>/<date>_drive_<dddd>_sync`, counting from 1."""
    return f"{DATE}/{DATE}_drive_{i_drive + 1:04d}_sync"


def split_lines(recording: Recording) -> dict[str, list[str]]:
    """Lines `<drive> <frame> <l|r>` of each mode, for frames that have both neighbours.

    With three drives or more, modes share no drive: a tenth, at least one, for val and for test. Otherwise
    the end of each drive is held out.
    """
    modes: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    frames = range(1, recording.frames - 1)
    by_drive = recording.drives >= 3
    held_out = max(1, (recording.drives if by_drive else len(frames)) // 10)
    for i_drive in range(recording.drives):
        for i_frame, frame in enumerate(frames):
            i, n = (i_drive, recording.drives) if by_drive else (i_frame, len(frames))
            mode = "test" if i >= n - held_out else "val" if i >= n - 2 * held_out else "train"
            modes[mode] += [f"{drive_name(i_drive)} {frame} {side}" for side in "lr"]
    return modes


def lidar_scan(depth: NDArray[np.float32], image: NDArray[np.uint8], K: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scan what the left camera sees along the `BEAMS`: (n 4) x forward, y left, z up in metres, reflectance.

    depth (h w) metres, 0 = nothing returned; image (h w 3). Points are exact, at the centres of pixels.
    """
    rows = np.unique(np.rint(K[1, 2] - K[1, 1] * np.tan(BEAMS)).astype(np.intp))
    rows = rows[(rows >= 0) & (rows < len(depth))]
    v, u = (grid.ravel() for grid in np.meshgrid(rows, np.arange(0, depth.shape[1], COLUMN_STEP), indexing="ij"))
    seen = depth[v, u] > 0
    v, u = v[seen], u[seen]
    z = depth[v, u].astype(np.float64)
    camera_2 = np.stack([(u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z, z], axis=1)
    camera_0 = camera_2 - [CAMERA_X[2], 0.0, 0.0]
    points = (camera_0 - T_VELO) @ R_VELO  # inverse of camera = R_VELO velo + T_VELO
    return np.column_stack([points, image[v, u].mean(axis=1) / 255]).astype(np.float32)


def calibration_files(K: NDArray[np.float64], size: tuple[int, int]) -> dict[str, str]:
    """Text of the three calibration files by name. K (3 3) counts pixels from 0, size is (w, h).

    P_rect counts from 1, because tools that draw scans into pictures subtract 1 from what it gives.
    """
    cameras: dict[str, Any] = {"corner_dist": [0.0995]}
    for camera, x in CAMERA_X.items():
        P = np.zeros((3, 4))
        P[:, :3] = K
        P[:2, 2] += 1
        P[0, 3] = K[0, 0] * x
        cameras |= {
            f"S_0{camera}": size, f"K_0{camera}": K, f"D_0{camera}": np.zeros(5), f"R_0{camera}": np.eye(3),
            f"T_0{camera}": [x, 0.0, 0.0], f"S_rect_0{camera}": size, f"R_rect_0{camera}": np.eye(3),
            f"P_rect_0{camera}": P,
        }  # fmt: skip
    velo = {"R": R_VELO, "T": T_VELO, "delta_f": [0.0, 0.0], "delta_c": [0.0, 0.0]}
    imu = {"R": np.eye(3), "T": [-0.81, 0.32, -0.8]}
    texts = {}
    for name, values in {"cam_to_cam": cameras, "velo_to_cam": velo, "imu_to_velo": imu}.items():
        rows = {key: " ".join(f"{number:.9e}" for number in np.ravel(value)) for key, value in values.items()}
        lines = ["calib_time: 26-Sep-2011 13:00:00\n", *(f"{key}: {row}\n" for key, row in rows.items())]
        texts[f"calib_{name}.txt"] = "".join(lines)
    return texts


def _encode(picture: NDArray[Any], suffix: str) -> bytes:
    buffer = io.BytesIO()
    options = {"format": "JPEG", "quality": 92, "subsampling": "4:2:0"} if suffix == "jpg" else {"format": "PNG"}
    Image.fromarray(picture).save(buffer, **options)
    return buffer.getvalue()
