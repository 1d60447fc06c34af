"""How far the car went between two frames of a KITTI drive: from its GPS and inertial unit, "OXTS".

A. Geiger et al., IJRR 2013; the velocities supervise PackNet-SfM, arXiv:1905.02693.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import numpy as np

from trainer.data.kitti_raw.files import Frame
from trainer.runtime.errors import DataError

VELOCITY = slice(8, 11)  # of 30 numbers: forward, leftward, upward, m/s


class Speedometer:
    """The records of drives: `<raw>/<date>/<drive>/oxts/data/<10 digits>.txt` and `oxts/timestamps.txt`."""

    def __init__(self, raw: Path):
        self.raw = raw
        self._times: dict[str, np.ndarray] = {}

    def knows(self, drive: str) -> bool:
        """Tell whether a drive, `<date>/<drive>`, has records."""
        return os.path.isfile(f"{self.raw}/{drive}/oxts/timestamps.txt")

    def way(self, frame: Frame, other: Frame) -> float:
        """Return the metres between two frames of a drive: mean of both speeds, times the time between.

        0 where a record is missing. Raises DataError for one that cannot be read.
        """
        if not self.knows(frame.drive):
            return 0.0
        speeds, times = [self._speed(f) for f in (frame, other)], self._times_of(frame.drive)
        if None in speeds or not 0 <= max(frame.number, other.number) < len(times):
            return 0.0
        seconds = abs(float(times[other.number] - times[frame.number]))
        return float(np.mean(speeds)) * seconds  # type: ignore[arg-type]

    def _speed(self, frame: Frame) -> float | None:
        path = Path(f"{self.raw}/{frame.drive}/oxts/data/{frame.number:010d}.txt")
        if frame.number < 0 or not os.path.isfile(path):
            return None
        try:
            velocity = np.array([float(word) for word in path.read_text().split()][VELOCITY])
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}). Copy it again") from error
        if len(velocity) < 3 or not np.isfinite(velocity).all():
            raise DataError(f"{path} is no record of 30 numbers. Copy it again")
        return float(np.linalg.norm(velocity))

    def _times_of(self, drive: str) -> np.ndarray:
        """Return the seconds of all frames since the first."""
        if drive not in self._times:
            path = Path(f"{self.raw}/{drive}/oxts/timestamps.txt")
            try:
                stamps = [
                    datetime.fromisoformat(row.strip()[:26]) for row in path.read_text().splitlines() if row.strip()
                ]
            except (OSError, ValueError) as error:
                raise DataError(f"{path} cannot be read ({error}). Copy it again") from error
            self._times[drive] = np.array([(stamp - stamps[0]).total_seconds() for stamp in stamps])
        return self._times[drive]
