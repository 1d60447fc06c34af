"""A KITTI folder of two tiny drives on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainer.data import DATASETS

DATE = "2011_09_26"
DRIVE = f"{DATE}/{DATE}_drive_0001_sync"
JPG_DRIVE = f"{DATE}/{DATE}_drive_0002_sync"
WIDTH, HEIGHT = 40, 12

CAM_TO_CAM = """calib_time: 09-Jan-2012 13:57:47
S_rect_02: 40 12
R_rect_00: 1 0 0 0 1 0 0 0 1
P_rect_02: 20 0 20 0 0 20 6 0 0 0 1 0
S_rect_03: 40 12
P_rect_03: 20 0 20 -10 0 20 6 0 0 0 1 0
"""
VELO_TO_CAM = """calib_time: 15-Mar-2012 11:37:16
R: 0 -1 0 0 0 -1 1 0 0
T: 0 0 0
"""


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), value, np.uint8)).save(path)


def frame(raw: Path, drive: str, camera: int, number: int, suffix: str = ".png") -> Path:
    return raw / drive / f"image_0{camera}" / "data" / f"{number:010d}{suffix}"


def write_lines(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return str(path)


def write_raw(folder: Path) -> Path:
    """A KITTI folder of two drives, frames 0-4: the grey level is 40 * frame + camera."""
    for number in range(5):
        for camera in (2, 3):
            picture(frame(folder, DRIVE, camera, number), 40 * number + camera)
            picture(frame(folder, JPG_DRIVE, camera, number, ".jpg"), 40 * number + camera)
    (folder / DATE / "calib_cam_to_cam.txt").write_text(CAM_TO_CAM)
    (folder / DATE / "calib_velo_to_cam.txt").write_text(VELO_TO_CAM)
    scan = folder / DRIVE / "velodyne_points" / "data" / f"{2:010d}.bin"
    scan.parent.mkdir(parents=True)
    np.array([[10, 0, 0, 0.3], [5, 0, 0, 0.3]], np.float32).tofile(scan)  # both straight ahead
    write_lines(folder / "splits" / "mini" / "train_files.txt", f"{DRIVE} 1 l", f"{DRIVE} 0000000002 r")
    return folder


def kitti(raw: Path | None, **options):
    given = {"size": (20, 6), "split": "mini", **options}
    return DATASETS.create("kitti", root=None if raw is None else str(raw), **given)


def grey(image: torch.Tensor) -> int:
    return round(255 * float(image.mean()))


def annotate(raw: Path, values: np.ndarray, base: str = f"depth_benchmark/{DATE}") -> Path:
    """Annotated depth of frame 2, right."""
    path = raw / base / DRIVE.split("/")[1] / "proj_depth/groundtruth/image_03" / f"{2:010d}.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(values).save(path)
    return path


def write_hints(root: Path, number: int, side: int, values) -> Path:
    path = root / DRIVE / f"image_0{side}" / f"{number:010d}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return path


def cut(path: Path, keep: int) -> Path:
    path.write_bytes(path.read_bytes()[:keep])
    return path
