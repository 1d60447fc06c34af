"""Pack KITTI folders into LMDB databases: which files go into which database, and how a file becomes an entry."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.files.arrays import array_bytes
from trainer.data.files.lmdb import FILE, Content, Database
from trainer.data.files.pictures import open_picture
from trainer.data.files.scans import read_points
from trainer.data.kitti_raw.calibration import read_numbers
from trainer.data.kitti_raw.files import IMAGE_SUFFIXES, list_frames
from trainer.data.kitti_raw.hints import SIZE, read_hints
from trainer.runtime.errors import DataError

_CALIBRATIONS = {
    "cam2cam": "calib_cam_to_cam.txt", "velo2cam": "calib_velo_to_cam.txt", "imu2velo": "calib_imu_to_velo.txt",
}  # fmt: skip
_SHAPES = {"R": (3, 3), "K": (3, 3), "P": (3, 4)}  # by first letter; everything else is a vector


class Package(NamedTuple):
    """A folder of files that becomes one database."""

    folder: str  # of the files
    database: str  # relative to the folder of databases
    kind: str  # a key of `_PACKERS`


def list_packages(raw: Path, annotated: Path | None, hints: Path | None) -> list[Package]:
    """List packages: pictures, scans, positions, calibration; annotated depth and hints of the drives."""
    packages = []
    for drive in sorted(raw.glob("[0-9]*_[0-9]*_[0-9]*/*_drive_*")):
        name = f"{drive.parent.name}/{drive.name}"
        for sensor, kind in _SENSORS.items():
            packages.append(Package(f"{drive}/{sensor}/data", f"{name}/{sensor}/data", kind))
        for camera in ("image_02", "image_03"):
            truth = f"proj_depth/groundtruth/{camera}"
            for part in (drive.parent.name, "train", "val") if annotated else ():
                folder = f"{annotated}/{part}/{drive.name}/{truth}"
                packages.append(Package(folder, f"depth_benchmark/{name}/{truth}", "picture"))
            if hints:
                packages.append(Package(f"{hints}/{name}/{camera}", f"depth_hints/{name}/{camera}", "hints"))
    dates = sorted(raw.glob("[0-9]*_[0-9]*_[0-9]*"))
    packages += [Package(str(date), f"{date.name}/calibration", "calibration") for date in dates]
    there: dict[str, Package] = {}  # annotated depth may be there twice, by date and as the archive
    for package in packages:
        if package.database not in there and _files(package):
            there[package.database] = package
    return list(there.values())


def is_packed(package: Package, out: Path) -> bool:
    """Tell whether a readable database has an entry for each file."""
    path = out / package.database
    if not os.path.isfile(path / FILE):
        return False
    try:
        keys = Database(str(path)).keys()
    except DataError:
        return False
    return package.kind == "calibration" or keys >= {Path(file).stem for file in _files(package)}


def capacity(package: Package) -> int:
    """Upper bound of the bytes of its entries."""
    if package.kind in ("calibration", "position"):
        return 1 << 20
    return sum(os.path.getsize(file) + 1024 for file in _files(package))


def read_entries(package: Package, problems: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the entries of a database; broken files are left out and listed in `problems`."""
    for file in _files(package):
        try:
            entries = list(_PACKERS[package.kind](file))
        except (DataError, OSError) as error:  # noqa: PERF203 - the next file may be whole
            problems.append(str(error))
        else:
            yield from entries


def _files(package: Package) -> list[str]:
    if package.kind == "calibration":
        there = [f"{package.folder}/{name}" for name in _CALIBRATIONS.values()]
        return [file for file in there if os.path.isfile(file)]
    found = list_frames(package.folder, _SUFFIXES[package.kind])
    return [f"{package.folder}/{number:010d}{suffix}" for number, suffix in sorted(found.items())]


def _picture(file: str) -> Iterator[tuple[str, bytes]]:
    content = Path(file).read_bytes()
    with open_picture(Content(content, file)) as picture:
        picture.load()
    yield Path(file).stem, content


def _scan(file: str) -> Iterator[tuple[str, bytes]]:
    yield Path(file).stem, array_bytes(read_points(file))


def _hints(file: str) -> Iterator[tuple[str, bytes]]:
    read_hints(file, SIZE)
    yield Path(file).stem, Path(file).read_bytes()


def _position(file: str) -> Iterator[tuple[str, bytes]]:
    try:
        yield Path(file).stem, array_bytes(np.array(Path(file).read_text().split(), np.float64))
    except ValueError as error:
        raise DataError(f"{file} does not consist of numbers ({error}). Copy or download it again") from error


def _calibration(file: str) -> Iterator[tuple[str, bytes]]:
    group = next(group for group, name in _CALIBRATIONS.items() if file.endswith(f"/{name}"))
    for key, numbers in read_numbers(Path(file)).items():
        array = np.array(numbers)
        shape = _SHAPES.get(key[:1], array.shape)
        if array.size != np.prod(shape):
            raise DataError(f"{file}: {key} has {array.size} numbers, expected {np.prod(shape)}")
        yield f"{group}/{key}", array_bytes(array.reshape(shape))


_SENSORS = {"image_02": "picture", "image_03": "picture", "velodyne_points": "scan", "oxts": "position"}
_SUFFIXES = {"picture": IMAGE_SUFFIXES, "scan": (".bin",), "position": (".txt",), "hints": (".npy",)}
_PACKERS: dict[str, Callable[[str], Iterator[tuple[str, bytes]]]] = {
    "picture": _picture, "scan": _scan, "position": _position, "hints": _hints, "calibration": _calibration
}  # fmt: skip
