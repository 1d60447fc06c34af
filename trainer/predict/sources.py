"""Where pictures come from: files, a folder, a film, a camera, or a stream on stdin."""

from __future__ import annotations

import glob
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.data.clips.clips import PICTURES, natural
from trainer.data.clips.video import VIDEOS, Film, pixels
from trainer.predict.predictor import as_rgb
from trainer.runtime.errors import DataError, UserError, listed
from trainer.runtime.optional import require

SUFFIXES = (*PICTURES, ".tif", ".tiff")
NEAR = 250  # frames: looked-at frames of a film that are nearer are decoded on the way, else jumped to
DIGITS = 7  # of frame numbers
_PIPED = "Send JPEG or PNG frames: ffmpeg -i VIDEO -f image2pipe -c:v mjpeg -q:v 2 - | monodepth predict MODEL -"


@dataclass(frozen=True)
class Item:
    """A frame that is read when it is needed: `load` returns it as RGB, and raises DataError where it is broken."""

    name: str  # of its outputs, without suffix; may hold folders
    load: Callable[[], Image.Image]
    time: float  # seconds since the first
    duration: float | None = None  # seconds that it is shown, where that is known


class Source(ABC):
    """Frames in order.

    Args:
        label: names a film made of them, and their numbers.
        total: how many there are, None = not known.
        fps: frames per second.
    """

    is_film = True  # they follow each other in time
    is_stream = False  # they come once

    def __init__(self, label: str, total: int | None, fps: float, every: int = 1, limit: int | None = None):
        self.label, self.every, self.limit = label, every, limit
        self.fps = fps / every
        known = None if total is None else -(-total // every)
        self.total = min((count for count in (known, limit) if count is not None), default=None)

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Go through all frames."""

    def samples(self, count: int) -> Iterator[Item]:
        """Go through `count` frames spread over all of them; a stream has none."""
        return iter(())

    @property
    def inputs(self) -> list[Path]:
        """Files that are read."""
        return []

    def _name(self, number: int) -> str:
        """Name a frame by its number."""
        return f"{self.label}_{number:0{DIGITS}d}"


class Pictures(Source):
    """Picture files; a folder is read with all folders in it, in natural order (frame2 before frame10)."""

    is_film = False

    def __init__(self, paths: Sequence[Path], label: str, fps: float, every: int = 1, limit: int | None = None):
        self._paths = list(islice(paths, 0, None, every))[:limit]
        self.names = names_of(paths)[::every][:limit]
        super().__init__(label, len(paths), fps * every, every, limit)  # a film of them shows as many per second

    def items(self) -> Iterator[Item]:
        return (self._item(i) for i in range(len(self._paths)))

    def samples(self, count: int) -> Iterator[Item]:
        return (self._item(i) for i in _spread(len(self._paths), count))

    @property
    def inputs(self) -> list[Path]:
        return self._paths

    def _item(self, i: int) -> Item:
        return Item(self.names[i], partial(as_rgb, self._paths[i]), i / self.fps)


class FilmFile(Source):
    """A video file, or with "-" frames or a video on stdin, in any format that FFmpeg reads from a pipe."""

    def __init__(self, path: Path, fps: float | None = None, every: int = 1, limit: int | None = None):
        self.is_stream = str(path) == "-"
        self._path = Path("pipe:0") if self.is_stream else path
        self._given_fps = fps if self.is_stream else None
        self._film = Film(self._path, "stdin", _PIPED) if self.is_stream else Film(self._path)
        label = "stdin" if self.is_stream else path.stem
        super().__init__(label, self._film.announced or None, self._given_fps or self._film.fps or 25, every, limit)

    def items(self) -> Iterator[Item]:
        film, first, number, latest = self._film, None, -1, -1.0
        with film:
            for number, frame in enumerate(islice(film, self.limit and self.limit * self.every)):
                if frame is not None and first is None:
                    first = frame.time or 0.0
                if number % self.every:
                    continue
                name = self._name(number)
                if frame is None:
                    yield Item(name, partial(_lost, f"{film.name}: frame {number} cannot be decoded"), latest)
                    continue
                counted = number / (self.fps * self.every)
                known = frame.time is not None and self._given_fps is None
                latest = max(frame.time - (first or 0.0) if known else counted, latest + 1e-4)
                lasts = frame.duration * frame.time_base * self.every if known and frame.duration else None
                yield Item(name, partial(_picture, frame), latest, lasts and float(lasts))
        if number < 0:
            raise UserError(f"{film.name}: holds no frame")

    def samples(self, count: int) -> Iterator[Item]:
        if self.is_stream or not self.total:
            return
        places = _spread(self.total, count)
        with Film(self._path) as film:
            if len(places) < 2 or (places[1] - places[0]) * self.every <= NEAR:
                wanted = {place * self.every for place in places}
                frames: Iterator[tuple[str, Any]] = (
                    (self._name(i), frame) for i, frame in enumerate(film) if i in wanted
                )
            else:  # the numbers of key frames are not known
                frames = (
                    (f"{i}", frame)
                    for i, frame in enumerate(film.at(place * self.every / film.fps for place in places))
                )
            for name, frame in frames:
                if frame is not None:
                    yield Item(name, partial(_picture, frame), 0.0)

    @property
    def inputs(self) -> list[Path]:
        return [] if self.is_stream else [self._path]


class Camera(Source):
    """A camera of this machine, by its number, until it is stopped."""

    is_stream = True

    def __init__(self, number: int, every: int = 1, limit: int | None = None):
        cv2 = require("cv2", "hints", f"Reading camera {number}")
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise UserError(f"camera {number} cannot be opened: it is absent, in use, or not yours to read")
        self._number = number
        super().__init__(f"camera{number}", None, self._capture.get(cv2.CAP_PROP_FPS) or 30, every, limit)

    def items(self) -> Iterator[Item]:
        start = None
        for number in range(self.every * self.limit if self.limit else 1 << 62):
            is_there, bgr = self._capture.read()
            now = time.monotonic()
            start = now if start is None else start
            name = self._name(number)
            if not is_there:
                yield Item(name, partial(_lost, f"camera {self._number} gives no frames any more"), now - start)
                break
            if number % self.every == 0:
                rgb = bgr[..., ::-1].copy()
                yield Item(name, partial(Image.fromarray, rgb), now - start)
        self._capture.release()


def open_source(
    words: Sequence[str],
    *,
    apart: Path | None = None,
    fps: float | None = None,
    every: int = 1,
    limit: int | None = None,
) -> Source:
    """Open what the words name: pictures, one pattern of them, one folder, one film, a camera's number, or "-".

    Args:
        apart: a folder whose files are no pictures to read, that of the outputs.
        fps: frames per second of pictures and of stdin (None = 25).
        every: take every n-th frame. limit: take so many at most.

    Raises UserError for what is none of these, and for `fps` of a film or camera, which have their own.
    """
    source = _open(words, apart, fps, every, limit)
    if fps and (isinstance(source, Camera) or (isinstance(source, FilmFile) and not source.is_stream)):
        raise UserError(f"--fps is for stdin and for films of pictures: {words[0]} has a rate of its own")
    return source


def _open(words: Sequence[str], apart: Path | None, fps: float | None, every: int, limit: int | None) -> Source:
    if len(words) == 1:
        word, path = words[0], Path(words[0]).expanduser()
        if word == "-":
            return FilmFile(Path("-"), fps, every, limit)
        if word.isdecimal() and not os.path.exists(path):
            return Camera(int(word), every, limit)
        if os.path.isdir(path):
            return Pictures(_in_folder(path, apart), path.resolve().name, fps or 25, every, limit)
        if not os.path.exists(path) and glob.has_magic(word):
            words = sorted(glob.glob(str(path), recursive=True), key=natural)
            if not words:
                raise UserError(f"{word}: no file has such a name")
    paths = [Path(word).expanduser() for word in words]
    for path in paths:
        if not os.path.isfile(path):
            problem = "is a folder: give it alone" if os.path.isdir(path) else "no such file or folder"
            raise UserError(f"{path}: {problem}")
    films = [path for path in paths if path.suffix.lower() in VIDEOS]
    if len(paths) == 1 and (films or paths[0].suffix.lower() not in SUFFIXES):
        return FilmFile(paths[0], None, every, limit)
    if films:
        raise UserError(f"{films[0]}: a film is predicted alone, not together with other files. Give one at a time")
    label = paths[0].stem if len(paths) == 1 else "pictures"
    return Pictures(paths, label, fps or 25, every, limit)


def names_of(paths: Sequence[Path]) -> list[str]:
    """Name the outputs of files: their paths below the folder they have in common, without suffix where that is unique.

    Names that differ only in the case of letters count as equal: some disks do not tell them apart.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    common = Path(os.path.commonpath([path.parent for path in absolute])) if paths else Path()
    whole = [path.relative_to(common).as_posix() for path in absolute]
    short = [os.path.splitext(name)[0] for name in whole]
    often = Counter(name.lower() for name in short)
    names = [a if often[a.lower()] == 1 else b for a, b in zip(short, whole, strict=True)]
    return names if len({name.lower() for name in names}) == len(names) else whole


def _in_folder(folder: Path, apart: Path | None) -> list[Path]:
    """List the pictures in a folder and the folders in it, hidden ones and `apart` excepted, in natural order."""
    found, films, other = [], [], apart and apart.resolve()
    if other == folder.resolve():
        raise UserError(f"--out {apart}: is the folder that is read: its pictures would be inputs of the next run")
    for place, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and Path(place, f).resolve() != other]
        seen = [Path(place, name) for name in files if not name.startswith(".")]
        found += [path for path in seen if path.suffix.lower() in SUFFIXES]
        films += [path for path in seen if path.suffix.lower() in VIDEOS]
    if not found:
        hint = f". It holds films, which are given one at a time: {listed(films)}" if films else ""
        raise UserError(f"{folder}: no pictures ({' '.join(SUFFIXES)}) in it{hint}")
    return sorted(found, key=lambda path: [natural(part) for part in path.relative_to(folder).parts])


def _spread(total: int, count: int) -> list[int]:
    """Choose `count` of `total` places, the middle of as many equal parts."""
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def _picture(frame: object) -> Image.Image:
    return Image.fromarray(pixels(frame))


def _lost(message: str) -> Image.Image:
    raise DataError(message)
