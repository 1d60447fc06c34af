"""Frames of a video file, decoded once into a folder of pictures: only these can be read in any order.

Seeking in a video decodes everything since the last key frame; workers that read shuffled items would decode the film
again and again.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat
from tqdm import tqdm

from trainer.data.files.paths import cache_folder
from trainer.runtime.errors import UserError
from trainer.runtime.optional import require

VIDEOS = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".3gp", ".wmv", ".flv"),
    *(".ogv", ".mxf", ".vob"),
)
_THREADS = 4  # of the decoder: an error near the end of a film loses at most as many frames behind it
_CONVERT = "Copy it again or convert it: ffmpeg -i VIDEO -c:v libx264 -crf 18 video.mp4"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # some network file systems
_log = logging.getLogger(__name__)


def extract_frames(video: Path, cache: Path) -> Path:
    """Decode a video into `<cache>/<name>-<digest>/<7 digits>.jpg`, unless it is complete, and return the folder.

    The digest is that of path, size and time of the file. Of several processes one decodes, the others wait. A folder
    that was interrupted or lost frames is completed. Raises UserError when the file is no video or cannot be cached.
    """
    try:
        facts = video.stat()
        digest = hashlib.sha256(f"{video.resolve()}|{facts.st_size}|{facts.st_mtime_ns}".encode()).hexdigest()
        folder = cache / f"{video.stem}-{digest[:12]}"
        if _is_whole(folder):
            return folder
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f".{folder.name}.lock"):
            if not _is_whole(folder):
                part = cache / f".{folder.name}.part"
                if folder.is_dir():
                    os.replace(folder, part)
                part.mkdir(exist_ok=True)
                _decode(video, part)
                os.replace(part, folder)
    except OSError as error:
        raise UserError(
            f"{video}: its frames cannot be kept in {cache} ({error}). Choose another folder with dataset.cache"
        ) from error
    return folder


def _decode(video: Path, folder: Path) -> None:
    """Write the frames that `folder` lacks; a frame that cannot be decoded leaves a gap in the numbers."""
    done = max((int(path.stem) for path in folder.glob("*.jpg")), default=0)  # the last may be cut short
    number = 0
    with Film(video) as film, tqdm(total=film.announced or None, desc=video.name, disable=None) as bar:
        for number, frame in enumerate(film, 1):
            path = folder / f"{number - 1:07d}.jpg"
            if frame is not None and (number > done or not path.is_file()):
                path.write_bytes(jpeg(pixels(frame)))
            bar.update()
    written = sorted(folder.glob("*.jpg"))
    if not written:
        raise UserError(f"{video}: no frame can be decoded. Copy the file again")
    if all(_is_flat(written[place]) for place in (0, len(written) // 2, -1)):
        raise UserError(f"{video}: its frames are blank. Choose another film")
    (folder / "frames.txt").write_text(f"{len(written)} {max(film.announced, number)}\n")


class Film(AbstractContextManager["Film"]):
    """A video file, to be decoded once from its beginning. Use it in a `with` block.

    PyAV and not OpenCV: the pixels are the same, but OpenCV stops at the first frame that it cannot decode and returns
    uninitialised memory for interlaced films.

    name, fix: for messages: what is read, and what to do when it is no video.

    Raises UserError when FFmpeg cannot open the file.
    """

    def __init__(self, path: Path, name: str = "", fix: str = _CONVERT):
        self.name = name or str(path)  # in messages
        self._av = require("av", "video", f"Reading {name or f'the video {path}'}")
        try:
            self._container = self._av.open(str(path))
        except self._av.FFmpegError as error:
            why = error.strerror
            raise UserError(f"{self.name} is not a video that FFmpeg can decode ({why}). {fix}") from error
        stream = self._container.streams.best("video")
        if stream is None:
            self._container.close()
            raise UserError(f"{self.name} has no video in it. {fix}")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = _THREADS
        self._stream = stream
        self.fps = float(stream.average_rate or 0)
        seconds = (self._container.duration or 0) / self._av.time_base
        self.announced: int = max(stream.frames or round(seconds * self.fps), 0)

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Any]:
        """Yield every frame (`av.VideoFrame`) in order of presentation, and None for one that cannot be decoded."""
        lost, late = 0, 0.0
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except self._av.FFmpegError:
                    lost += 1
                    continue
                for frame in frames:
                    # Where frames are reordered, the error comes before frames ahead of the gap.
                    if lost and (frame.time is None or frame.time > late):
                        yield from [None] * lost
                        lost = 0
                    late = (frame.time or 0.0) + 1.5 / (self.fps or 25)
                    yield frame
        except self._av.FFmpegError as error:
            _log.debug("%s ends early: %s", self._container.name, error)
        yield from [None] * lost

    def at(self, seconds: Iterable[float]) -> Iterator[Any]:
        """Yield the key frames before these times after the beginning; a place that cannot be reached is left out."""
        start = self._stream.start_time or 0
        for second in seconds:
            with suppress(self._av.FFmpegError):
                self._container.seek(start + int(second / self._stream.time_base), stream=self._stream)
                yield from islice(self._container.decode(self._stream), 1)


def pixels(frame: Any) -> NDArray[np.uint8]:
    """Convert a frame of a `Film` to RGB (h w 3), upright as its rotation tag says."""
    rgb = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90))) if frame.rotation else rgb


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """Encode RGB (h w 3) as JPEG of quality 95, 4:2:0."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=95, subsampling="4:2:0")
    return buffer.getvalue()


def _is_whole(folder: Path) -> bool:
    """Return whether no frame is missing: old files on scratch disks may be deleted."""
    summary = folder / "frames.txt"
    count = str(len(list(folder.glob("*.jpg"))))
    match summary.read_text().split() if summary.is_file() else ():
        case [written, announced] if written == count and announced.isdecimal():
            return True
    return False


def _is_flat(path: Path) -> bool:
    with Image.open(path, formats=["JPEG"]) as picture:
        return all(low == high for low, high in ImageStat.Stat(picture).extrema)


def lost_frames(folder: Path) -> int:
    """Count the frames that the video announced but did not hold; a few are common, many mean a damaged file."""
    decoded, announced = map(int, (folder / "frames.txt").read_text().split())
    return max(announced - decoded, 0)


def unfinished(folder: Path) -> list[str]:
    """List the videos that a stopped `prepare video` wrote only in part into `folder`, and how to finish them."""
    return [note for manifest in sorted(folder.glob(".*.json")) if (note := _unfinished(manifest))]


def _unfinished(manifest: Path) -> str:
    try:
        match json.loads(manifest.read_text()):
            case {"facts": {"video": str(video), "every": int(every)} as facts, "survey": None}:
                option = f" --every {every}" if every != 1 else ""
                command = f"monodepth prepare video {facts.get('given', video)} --out {manifest.parent}{option}"
                return f"{video} was not decoded to its end. Finish it: {command}"
    except (OSError, ValueError) as error:
        _log.debug("%s is not of prepare video: %s", manifest, error)
    return ""


def default_cache() -> Path:
    """Return `$XDG_CACHE_HOME/monodepth_trainer/frames`, or that in ~/.cache."""
    return cache_folder("frames")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that dies with its process; warn where the file system has no locks."""
    with open(lock, "w") as file:
        try:
            import fcntl  # POSIX only

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            _log.warning("%s: no file locks here; let only one process decode this video", lock.parent)
        yield
