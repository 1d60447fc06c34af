"""KITTI recordings as LMDB databases: one per drive and sensor, one of calibrations per date."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.files.damage import TAIL, find_damaged, is_whole
from trainer.data.files.lmdb import FILE, Content, Database
from trainer.data.files.pictures import open_picture
from trainer.data.kitti_raw.calibration import CAMERA_SHAPES, LIDAR_SHAPES, Calibration, make_calibration
from trainer.data.kitti_raw.files import Frame, Recordings
from trainer.data.kitti_raw.hints import resized_hints
from trainer.runtime.errors import DataError


class DatabaseListing(Recordings):
    """The databases of a KITTI folder: a place is `<database>/<entry>`. Hints are databases as well, or files."""

    def __init__(self, raw: Path, hints: Path | None = None):
        super().__init__(raw, hints=hints)
        self._databases: dict[str, Database | None] = {}

    def annotated_depth(self, frame: Frame) -> str | None:
        drive = f"{self.raw}/depth_benchmark/{frame.drive}"
        return self._find(f"{drive}/proj_depth/groundtruth/image_0{frame.camera}", frame.number, ())

    def hint(self, frame: Frame) -> str | None:
        if self.hints is None:
            return None
        place = self._find(f"{self.hints}/{frame.drive}/image_0{frame.camera}", frame.number, ())
        file = f"{self.hints}/{frame.stem}.npy"
        return place or (file if os.path.isfile(file) else None)

    def open(self, place: str) -> Content:
        folder, key = place.rsplit("/", 1)
        return Content(self._present(folder).read(key), place)

    def read_points(self, place: str) -> NDArray[Any]:
        points = self._array(place)  # the fourth column means nothing
        if points.ndim != 2 or points.shape[1] != 4 or not len(points) or points.dtype.kind != "f":
            found = f"{points.dtype} of shape {points.shape}"
            raise DataError(f"{place} is not a LiDAR scan: {found}. Write the database again")
        return points

    def read_hints(self, place: str, size: tuple[int, int]) -> NDArray[Any]:
        if place.endswith(".npy"):
            return super().read_hints(place, size)
        return resized_hints(self._array(place), size, place)

    def read_calibration(self, date: str) -> Calibration:
        database = self._present(f"{self.raw}/{date}/calibration")
        values = {}
        for group, shapes in {"cam2cam": CAMERA_SHAPES, "velo2cam": LIDAR_SHAPES}.items():
            for key, shape in shapes.items():
                array = _array(database, f"{group}/{key}")
                if key.startswith("P_rect") and array.shape == (4, 4):
                    array = array[:3]
                if array.size != np.prod(shape) or array.dtype.kind not in "iuf":
                    found = f"{array.dtype} of shape {array.shape}"
                    raise DataError(f"{database.path}/{group}/{key}: {found}, expected numbers {shape}")
                values[key] = array.astype(np.float64).reshape(shape)
        return make_calibration(values, database.path)

    def has_calibration(self, date: str) -> bool:
        return self._database(f"{self.raw}/{date}/calibration") is not None

    def find_damaged(self, pictures: Sequence[str], arrays: Sequence[str]) -> tuple[list[str], int]:
        cut, left = find_damaged(pictures, self._cut_picture)
        files, files_left = find_damaged(place for place in arrays if place.endswith(".npy"))
        return cut + files, left + files_left

    def _cut_picture(self, place: str) -> str:  # as earlier code may have stored them
        folder, key = place.rsplit("/", 1)
        try:
            if is_whole(self._present(folder).tail(key, TAIL)):
                return ""
            fix = "Write the database again or remove its items"
            with open_picture(self.open(place), "picture", fix) as picture:
                picture.load()  # other bytes may follow the end
        except DataError as error:
            return str(error)
        return ""

    def _list(self, folder: str, suffixes: Sequence[str]) -> dict[int, str]:
        database = self._database(folder)
        keys = database.keys() if database else ()
        return {int(key): "" for key in keys if len(key) == 10 and key.isdecimal()}

    def _array(self, place: str) -> NDArray[Any]:
        folder, key = place.rsplit("/", 1)
        return _array(self._present(folder), key)

    def _present(self, folder: str) -> Database:
        database = self._database(folder)
        if database is None:
            raise DataError(f"{folder} is missing: no {FILE} in it. Copy or write the database again")
        return database

    def _database(self, folder: str) -> Database | None:
        if folder not in self._databases:
            there = os.path.isfile(f"{folder}/{FILE}")
            self._databases[folder] = Database(folder) if there else None
        return self._databases[folder]


def _array(database: Database, key: str) -> NDArray[Any]:
    value = database.value(key)
    if not isinstance(value, np.ndarray):
        kind = type(value).__name__
        raise DataError(f"{database.path}/{key}: expected an array, got {kind}. Write the database again")
    return value
