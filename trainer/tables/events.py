"""What a run recorded for TensorBoard: its scalars, and its latest sheets of pictures.

TensorBoard's own reader checks every byte in Python, at 3.5 MB a second, and a damaged file ends it for all later ones.
Here lengths and scalars are checked, not pictures, and damage costs the rest of one file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.metrics.validation import ONCE_PER_CENT
from trainer.runtime import files

TRACKED = ("train", "val")  # groups of scalars that hold the metrics of validation
SHEETS = ("val/overview", "train/overview")  # the pictures that are kept
CHECKED = 16_384  # bytes up to which a record is checked: all scalars, no pictures
Curve = tuple[np.ndarray, np.ndarray]  # steps (n,), values (n,)


@dataclass(frozen=True)
class Picture:
    """An encoded picture and the optimizer step at which it was drawn."""

    step: int
    encoded: bytes = field(repr=False)


@dataclass
class Events:
    """The records of one run; `problems` says which files are damaged."""

    points: dict[str, list[tuple[int, float, float]]] = field(default_factory=dict)  # step, value, time (s since 1970)
    pictures: dict[str, Picture] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    first: float = 0.0  # times of the first and the latest record; 0 = none
    last: float = 0.0

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """The scalars by tag. Metrics of earlier versions, `val_metrics/AbsRel` in per cent, come as they are now."""
        joined: dict[str, list[tuple[int, float]]] = {}
        for tag in sorted(self.points, key=lambda tag: "_metrics/" not in tag):  # the older part comes first
            now, factor = _as_now(tag)
            joined.setdefault(now, []).extend((step, factor * value) for step, value, _ in self.points[tag])
        return {tag: (np.array([s for s, _ in p]), np.array([v for _, v in p])) for tag, p in joined.items()}

    def times(self, tag: str) -> dict[int, float]:
        """When the points of a scalar were written: step -> seconds since 1970."""
        return {step: time for step, _, time in self.points.get(tag, ())}

    def _read(self, path: Path) -> None:
        try:
            for event in _records(path):
                self._add(event)
        except (OSError, ValueError) as error:
            self.problems.append(f"{path}: {error}. What comes after that place in it is left out")

    def _add(self, event: Any) -> None:
        self.first, self.last = self.first or event.wall_time, max(self.last, event.wall_time)
        if event.HasField("session_log") and event.session_log.status == event.session_log.START:
            self._forget(event.step)
        for value in event.summary.value if event.HasField("summary") else ():
            if value.HasField("simple_value"):
                self.points.setdefault(value.tag, []).append((event.step, value.simple_value, event.wall_time))
            elif value.HasField("image") and value.tag in SHEETS:
                self.pictures[value.tag] = Picture(event.step, value.image.encoded_image_string)

    def _forget(self, step: int) -> None:
        """Drop what a run that continues at `step` writes again."""
        kept = {tag: [point for point in points if point[0] < step] for tag, points in self.points.items()}
        self.points = {tag: points for tag, points in kept.items() if points}


def read_events(run: Path) -> Events:
    """Read the event files at the root of a run folder, each step once, although a resumed run may write it twice."""
    found = Events()
    for path in sorted(run.glob("events.out.tfevents.*")):
        found._read(path)
    return found


def read_curves(run: Path) -> dict[str, Curve]:
    """Read the scalars of a run folder by tag; see `Events.curves`."""
    return read_events(run).curves


def _records(path: Path) -> Iterator[Any]:
    """Yield the events of a file; one whose last record is cut short is still being written, or its writer was killed.

    A record is its length (8 bytes) and bytes, each with a checksum. Raises ValueError at one that is damaged.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    with files.open_file(path) as file:
        while len(head := file.read(12)) == 12:
            length, checksum = struct.unpack("<QI", head)
            if masked_crc32c(head[:8]) != checksum:
                raise ValueError(f"damaged at byte {file.tell() - 12:,}")
            content = file.read(length + 4)
            if len(content) < length + 4:
                return
            content, checksum = content[:-4], struct.unpack("<I", content[-4:])[0]
            try:
                if length <= CHECKED and masked_crc32c(content) != checksum:
                    raise DecodeError
                event = Event.FromString(content)
            except DecodeError as error:
                raise ValueError(f"damaged at byte {file.tell() - length - 4:,}") from error
            yield event


def _as_now(tag: str) -> tuple[str, float]:
    """Return today's name of a scalar, and the factor to today's unit."""
    group, _, name = tag.rpartition("/")
    if group not in [f"{now}_metrics" for now in TRACKED]:
        return tag, 1.0
    return f"{group.removesuffix('_metrics')}/{name}", 0.01 if name in ONCE_PER_CENT else 1.0


class Average(NamedTuple):
    """Curves of several seeds at the steps that most of them have; sd is the sample's, NaN for one seed. All (n,)."""

    steps: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    seeds: np.ndarray  # how many of them


def average(curves: Sequence[Curve]) -> Average:
    """Average curves at the steps that most of them have, so that one that stopped early does not end the mean."""
    found: dict[int, list[float]] = {}
    for steps, values in curves:
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            found.setdefault(step, []).append(value)
    chosen = sorted(step for step, values in found.items() if 2 * len(values) > len(curves))
    columns = [np.array(found[step]) for step in chosen]
    with np.errstate(invalid="ignore"):  # infinite values
        mean = np.array([v.mean() for v in columns])
        sd = np.array([v.std(ddof=1) if len(v) > 1 else math.nan for v in columns])
    return Average(np.array(chosen), mean, sd, np.array([len(v) for v in columns]))
