"""KITTI recordings as LMDB databases: one per drive and sensor, one of calibrations per date."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.base import UNREADABLE, DataError
from trainer.data.files.damage import TAIL, find_damaged, is_whole
from trainer.data.files.lmdb import FILE, Content, Database
from trainer.data.kitti_raw.calibration import Calibration, make_calibration
from trainer.data.kitti_raw.files import Frame, Recordings
from trainer.data.kitti_raw.hints import read_hints, resized_hints

CALIBRATION = {  # entry -> shape; P_rect may have a fourth row
    "cam2cam/P_rect_02": (3, 4), "cam2cam/P_rect_03": (3, 4), "cam2cam/R_rect_00": (3, 3),
    "cam2cam/S_rect_02": (2,), "cam2cam/S_rect_03": (2,), "velo2cam/R": (3, 3), "velo2cam/T": (3,),
}  # fmt: skip


class DatabaseListing(Recordings):
    """The databases of a KITTI folder. Hints are databases as well, or files."""

    def __init__(self, raw: Path, hints: Path | None = None):
        super().__init__(raw, hints)
        self._databases: dict[str, Database | None] = {}

    def annotated_depth(self, frame: Frame) -> str | None:
        drive = f"{self.raw}/depth_benchmark/{frame.drive}"
        return self._find(f"{drive}/proj_depth/groundtruth/image_0{frame.camera}", frame.number)

    def hint(self, frame: Frame) -> str | None:
        if self.hints is None:
            return None
        place = self._find(f"{self.hints}/{frame.drive}/image_0{frame.camera}", frame.number)
        file = f"{self.hints}/{frame.stem}.npy"
        return place or (file if os.path.isfile(file) else None)

    def open(self, place: str) -> Content:
        folder, key = place.rsplit("/", 1)
        return Content(self._present(folder).read(key), place)

    def read_points(self, place: str) -> NDArray[Any]:
        points = self._array(place)  # the fourth column means nothing
        if points.ndim != 2 or points.shape[1] != 4 or not len(points) or points.dtype.kind != "f":
            raise DataError(
                f"{place} is not a LiDAR scan: {points.dtype} of shape {points.shape}. Write the database again"
            )
        return points

    def read_hints(self, place: str, size: tuple[int, int]) -> NDArray[Any]:
        if place.endswith(".npy"):
            return read_hints(place, size)
        return resized_hints(self._array(place), size, place)

    def read_calibration(self, date: str) -> Calibration:
        database = self._present(f"{self.raw}/{date}/calibration")
        values = {}
        for key, shape in CALIBRATION.items():
            array = _array(database, key)
            if key.startswith("cam2cam/P") and array.shape == (4, 4):
                array = array[:3]
            if array.size != np.prod(shape) or array.dtype.kind not in "iuf":
                raise DataError(
                    f"{database.path}/{key}: {array.dtype} of shape {array.shape}, expected numbers {shape}"
                )
            values[key] = array.astype(np.float64).reshape(shape)
        return make_calibration(
            {c: values[f"cam2cam/S_rect_0{c}"] for c in (2, 3)},
            {c: values[f"cam2cam/P_rect_0{c}"] for c in (2, 3)},
            values["cam2cam/R_rect_00"],
            np.hstack([values["velo2cam/R"], values["velo2cam/T"].reshape(3, 1)]),
            database.path,
        )

    def has_calibration(self, date: str) -> bool:
        return self._database(f"{self.raw}/{date}/calibration") is not None

    def find_damaged(self, pictures: Sequence[str], arrays: Sequence[str]) -> tuple[list[str], int]:
        cut, left = find_damaged(pictures, self._cut_pictures)
        files, files_left = find_damaged(place for place in arrays if place.endswith(".npy"))
        return cut + files, left + files_left

    def _cut_pictures(self, places: Sequence[str]) -> list[str]:  # as earlier code may have stored them
        return list(filter(None, map(self._cut_picture, places)))

    def _cut_picture(self, place: str) -> str:
        folder, key = place.rsplit("/", 1)
        try:
            if is_whole(self._present(folder).tail(key, TAIL)):
                return ""
            with Image.open(self.open(place)) as picture:  # other bytes may follow the end
                picture.load()
        except DataError as error:
            return str(error)
        except UNREADABLE as error:
            return f"{place} is cut short or damaged ({error}). Write the database again or remove its items"
        return ""

    def _numbers(self, folder: str, suffixes: Sequence[str] = ()) -> list[int]:
        database = self._database(folder)
        return [int(key) for key in database.keys() if key.isdecimal()] if database else []  # noqa: SIM118

    def _find(self, folder: str, number: int, suffixes: Sequence[str] = ()) -> str | None:
        database, key = self._database(folder), f"{number:010d}"
        return f"{folder}/{key}" if database and key in database.keys() else None  # noqa: SIM118

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
        raise DataError(
            f"{database.path}/{key}: expected an array, got {type(value).__name__}. Write the database again"
        )
    return value
