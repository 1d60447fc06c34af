"""A folder of frames, or a video, of a camera that moves through a still world.

Nothing else needs to be known. Unknown intrinsics are replaced by a guessed field of view, which distorts depth beyond
the scale that a single camera leaves open; `net.pose.learn_K` learns them instead (Gordon et al., arXiv:1904.04998).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from trainer.data import DATASETS
from trainer.data.clips.clips import PICTURES, Line, list_clip
from trainer.data.clips.dataset import ClipDataset, doubt, refuse_hints, refuse_stereo
from trainer.data.clips.intrinsics import from_field_of_view, read_intrinsics, resized
from trainer.data.clips.speeds import Speeds, read_speeds
from trainer.data.clips.video import VIDEOS, default_cache, extract_frames, lost_frames, unfinished
from trainer.data.files.paths import data_roots
from trainer.data.files.splits import counted
from trainer.data.options import CommonOptions
from trainer.data.raw_item import RawItem
from trainer.runtime.errors import UserError

GUESSED_FOV = 60.0  # degrees, horizontal: between a phone (about 65) and a camcorder (about 55)
_LEAST_FOV = 5.0  # degrees; a lens of 400 mm on full frame. Less is an angle in radians


@DATASETS.register("folder")
class FrameFolder(ClipDataset):
    """Frames or a video file of one's own; no ground truth.

    `path` is a folder of pictures, a video file, or a folder of such folders and videos, each of them a clip.
    Intrinsics: `fov`, else `K.txt` in the folder of the clip or in `path` (3x3 numbers or `fx fy cx cy`, in pixels of
    the pictures, pixel centres at integers), else a guess of 60 degrees, reported in the log; `net.pose.learn_K` needs
    none of them. Videos are decoded once,
    into JPEG files of quality 95 in `cache`: about 0.2 MB for each frame of 1280x720.

    Args:
        path: folder or video file; a relative path is also looked for in the usual places.
        split_file: lines `<clip> <frame>`; null = all frames that have their neighbours, divided by `val_every`.
        val_every: every n-th block of frames is for val and test, with a gap around it; 0 = all frames in all modes.
        frame_gap: frames from one neighbour to the next, for films that move little: offset -1 is so many back.
        supp_range: [least, most] factor of the offsets of supports, drawn per item in training (arXiv:2307.10713).
        fov: horizontal field of view in degrees; null = that of K.txt, or else a guess of 60.
        cache: folder for the frames of videos; null = in the user's cache folder.
        speeds: file for `use_speed`, lines `<frame>, <metres per second>[, <time in seconds>]`, a frame being the name
            or number of a picture, after `<clip>/` where there are several clips; also looked for in `path`.
        fps: frames per second, for lines without a time.

    The other arguments are those of `DepthDataset`, where

    use_depth: without effect: there is none.
    """

    source: ClassVar[str] = "made for this project"
    defaults: ClassVar[CommonOptions] = {"use_depth": False}
    measures_speed = True

    def __init__(
        self,
        path: str,
        split_file: str | None = None,
        val_every: int = 10,
        frame_gap: int = 1,
        supp_range: tuple[int, int] = (1, 1),
        fov: float | None = None,
        cache: str | None = None,
        speeds: str | None = None,
        fps: float | None = None,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(**common | {"use_depth": False})
        refuse_hints(self.use_hints, "a folder of frames")
        refuse_stereo(self.supp_idxs, "a folder of frames")
        if fov is not None and not _LEAST_FOV <= fov <= 170:
            radians = f". Is it in radians? Then dataset.fov: {math.degrees(fov):.1f}" if 0 < fov < math.pi else ""
            raise UserError(
                f"dataset.fov must be a horizontal angle of {_LEAST_FOV:g} to 170 degrees, got {fov}{radians}"
            )
        self.frame_gap, self.supp_range, self.fov = frame_gap, supp_range, fov
        self.path = _find(path)
        self._cache = Path(cache).expanduser() if cache else default_cache()
        self._notes = unfinished(self.path)
        folders = self._clip_folders()
        clips = {name: list_clip(folder, name) for name, folder in folders.items()}
        self._K = {name: self._read_K(self._sources[name]) for name in clips}
        self._choose_items(clips, split_file, val_every, self.path)
        self._speeds = self._open_speeds(speeds, fps) if self.use_speed else None

    @property
    def home(self) -> Path:
        return self.path

    @classmethod
    def field_of_view(cls, arguments: Mapping[str, Any]) -> float | None:
        return arguments.get("fov")

    def notes(self) -> list[str]:
        notes = super().notes() + self._notes
        if self._speeds is not None and (without := len(self) - self._known_ways):
            notes.append(f"{self._speeds.path}: the way of {without} of {len(self)} items is not known, or is 0")
        notes += filter(None, (doubt(K, self._native_size(name), name) for name, K in self._K.items() if K is not None))
        if guessed := ", ".join(self._guessed):
            notes.append(
                f"{guessed}: the camera is not known; net.pose.learn_K learns it"
                if self.K_is_learned
                else f"{guessed}: the camera is not known, {GUESSED_FOV:g} degrees of horizontal field of view are"
                " assumed. Depth will have a wrong shape where that is wrong: set dataset.fov or write K.txt, or learn"
                " it with net.pose.learn_K: focal"
            )
        return notes

    @property
    def guesses_K(self) -> bool:
        return bool(self._guessed)

    @property
    def _guessed(self) -> list[str]:
        """Clips whose camera is a guess."""
        return [name for name, K in self._K.items() if K is None] if self.fov is None else []

    def load(self, index: int, factor: int = 0) -> RawItem:
        line, target, supports = self._read(index, factor)
        native, K = self._native_size(line.clip), self._K[line.clip]
        if K is None:
            K = from_field_of_view(native, GUESSED_FOV if self.fov is None else self.fov)
        way = None if self._speeds is None else self._way(self._speeds, line, factor)
        return RawItem(target, supports, resized(K, native, self.size), travelled=way)

    def check(self) -> list[str]:
        """List what is wrong with the pictures, and say when no way between them is known."""
        known = self._known_ways
        if known or self._speeds is None:
            return super().check()
        frames = f"such as {self.label_name(0)}"
        return [
            *super().check(),
            f"{self._speeds.path}: no line is about a frame of {self.path}, {frames}, and its supports",
        ]

    @cached_property
    def _known_ways(self) -> int:
        """Number of items with a support to which the way is known."""
        lines = [line for line in self.lines if self._speeds and not line.problem and line.clip in self.clips]
        return sum(bool(self._way(self._speeds, line).any()) for line in lines if self._speeds)

    def _way(self, speeds: Speeds, line: Line, factor: int = 0) -> NDArray[Any]:
        """Return the metres (n,) from the frame of an item to its supports, 0 = not known."""
        clip = self.clips[line.clip]
        places = [self._support(line, offset)[1] for offset in self._offsets(factor)]
        return np.array([speeds.way(clip, line.number, number) for number in places])

    def _open_speeds(self, speeds: str | None, fps: float | None) -> Speeds:
        if speeds is None:
            raise UserError(
                "dataset.use_speed: true needs dataset.speeds, a file with lines `<frame>, <metres per second>[, <time"
                " in seconds>]`, and dataset.fps where it has no times"
            )
        if fps is not None and not 0 < fps < math.inf:
            raise UserError(f"dataset.fps must be frames per second, above 0, got {fps}")
        home = self.path if os.path.isdir(self.path) else self.path.parent
        places = [Path(speeds).expanduser(), home / speeds]
        found = next((place for place in places if os.path.isfile(place)), None)
        if found is None:
            raise UserError(f"dataset.speeds: there is no file {' or '.join(map(str, places))}")
        return read_speeds(found, fps)

    def _read_K(self, source: Path) -> NDArray[Any] | None:
        home = source if os.path.isdir(source) else source.parent
        places = dict.fromkeys([home / "K.txt", (self.path if os.path.isdir(self.path) else home) / "K.txt"])
        place = next((place for place in places if os.path.isfile(place)), None)
        if place is None:
            return None
        if self.fov is None:
            return read_intrinsics(place)
        note = f"{place} is not read: dataset.fov: {self.fov:g} wins. Set it to null to take K.txt"
        self._notes += [] if note in self._notes else [note]
        return None

    def _clip_folders(self) -> dict[str, Path]:
        """Map the names of clips to folders of pictures; videos are decoded. Raises UserError when there are none."""
        sources = [self.path]
        if os.path.isdir(self.path):
            inner = sorted(p for p in self.path.iterdir() if _is_clip(p) and not p.name.startswith("."))
            if not _has_pictures(self.path):
                sources = inner
            elif inner:
                self._notes.append(
                    f"{self.path} has pictures of its own, which are the only clip: {len(inner)} folders and videos in"
                    f" it are not read ({inner[0].name}, ...). Move the pictures away to read those"
                )
        if not sources:
            raise UserError(
                f"dataset.path {self.path}: no pictures ({' '.join(PICTURES)}) and no videos ({' '.join(VIDEOS)}) in "
                "it or in the folders in it"
            )
        self._sources = {source.name if os.path.isdir(source) else source.stem: source for source in sources}
        if len(self._sources) < len(sources):
            raise UserError(f"dataset.path {self.path}: two clips have the same name. Rename one")
        return {name: self._pictures(source) for name, source in self._sources.items()}

    def _pictures(self, source: Path) -> Path:
        if os.path.isdir(source):
            return source
        folder = extract_frames(source, self._cache)
        if lost := lost_frames(folder):
            self._notes.append(f"{source}: {counted(lost, 'frame')} that it announces could not be decoded")
        return folder


def _is_clip(path: Path) -> bool:
    return _is_video(path) or (os.path.isdir(path) and _has_pictures(path))


def _is_video(path: Path) -> bool:
    return os.path.isfile(path) and path.suffix.lower() in VIDEOS


def _has_pictures(folder: Path) -> bool:
    return any(p.suffix.lower() in PICTURES and not p.name.startswith(".") for p in folder.iterdir())


def _find(path: str) -> Path:
    """Find the folder or video as given, or in one of the usual places. Raises UserError listing them."""
    given = Path(path).expanduser()
    places = [given] if given.is_absolute() else [given, *(root / given for root, _ in data_roots(None))]
    for place in places:
        if os.path.isdir(place) or _is_video(place):
            return Path(place)
        if os.path.isfile(place):
            raise UserError(f"dataset.path {place} is no video: known are {' '.join(VIDEOS)}")
    looked = "".join(f"\n  {place.absolute()}" for place in places)
    raise UserError(
        f"dataset.path: there is no such folder or video:{looked}\nName yours: --set dataset.path=<folder or film.mp4>"
    )
