"""How fast a camera moved, as a file of its user says: one line per frame."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.data.clips.clips import Clip
from trainer.data.files.splits import read_rows, shown
from trainer.runtime.errors import UserError

EXPECTED = "`<frame>, <metres per second>[, <time in seconds>]`"
_COMMA = re.compile(r"\s*[,;\t]\s*")


@dataclass(frozen=True)
class Speeds:
    """Speed in m/s, and time in seconds or None, of frames by what a file calls them."""

    path: Path
    rows: Mapping[str, tuple[float, float | None]]
    fps: float | None  # for frames without a time

    def way(self, clip: Clip, number: int, other: int) -> float:
        """Return the metres from one frame of a clip to another, forwards or backwards; 0 = not known.

        That is the mean of both speeds, times the time between.
        """
        here, there = self._of(clip, number), self._of(clip, other)
        if here is None or there is None:
            return 0.0
        (speed, time), (other_speed, other_time) = here, there
        if time is not None and other_time is not None:
            seconds = abs(other_time - time)
        else:
            seconds = abs(other - number) / (clip.step * (self.fps or math.inf))
        return (abs(speed) + abs(other_speed)) / 2 * seconds

    def _of(self, clip: Clip, number: int) -> tuple[float, float | None] | None:
        picture = Path(clip.frames.get(number, ""))
        names = [name for name in (picture.name, picture.stem, str(number)) if name]
        return next(
            (self.rows[key] for name in names for key in (f"{clip.name}/{name}", name) if key in self.rows), None
        )


def read_speeds(path: Path, fps: float | None) -> Speeds:
    """Read the speeds of frames. Raises UserError naming the first wrong line, and where there are no times."""
    rows: dict[str, tuple[float, float | None]] = {}
    for position, (i, row) in enumerate(read_rows(path, EXPECTED, "file of speeds", "dataset.speeds")):
        name, *words = _COMMA.split(row) if _COMMA.search(row) else row.split()
        numbers = [_number(word) for word in words]
        if position == 0 and words and all(map(math.isnan, numbers)):  # titles of columns
            continue
        if len(numbers) not in (1, 2) or not all(map(math.isfinite, numbers)):
            raise UserError(f"{path}:{i}: {shown(row)}: expected {EXPECTED}")
        if name in rows:
            raise UserError(f"{path}:{i}: {name} has a line before. Put the clip before the frame, <clip>/<frame>")
        if len(numbers) == 1 and fps is None:
            raise UserError(f"{path}:{i}: {name} has no time. Add a third column of seconds, or set dataset.fps")
        rows[name] = numbers[0], numbers[1] if len(numbers) == 2 else None
    return Speeds(path, rows, fps)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan
