"""Frames of a video file: decoded once into a folder of pictures, because only those can be read in any order.

Seeking in a video decodes everything since the last key frame, and is not exact with every codec; several workers
reading shuffled items would decode the film again and again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageStat
from tqdm import tqdm

from trainer.runtime.errors import UserError
from trainer.runtime.optional import require

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp", ".wmv")
_QUALITY = 95  # of the JPEG files
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # some network file systems
_log = logging.getLogger(__name__)


def extract_frames(video: Path, cache: Path) -> Path:
    """Decode a video into `<cache>/<name>-<digest>/<7 digits>.jpg` and return the folder; at once if it is there.

    The digest is that of path, size and time of the file. Several processes may call this together: one decodes, the
    others wait. What was interrupted, or has lost frames, is completed. Raises UserError when the file is no video or
    cannot be cached.
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
    """Write the frames that `folder` does not have yet."""
    cv2 = require("cv2", "hints", f"reading the video {video}")
    film = cv2.VideoCapture(str(video))
    try:
        done = max((int(path.stem) for path in folder.glob("*.jpg")), default=0)  # the last may be cut short
        announced = int(film.get(cv2.CAP_PROP_FRAME_COUNT)) if film.isOpened() else 0
        with tqdm(total=max(announced, 0) or None, desc=f"frames of {video.name}", disable=None) as bar:
            number = 0
            while film.grab():
                path = folder / f"{number:07d}.jpg"
                if number >= done or not path.is_file():
                    _keep(film, path)
                number += 1
                bar.update()
    finally:
        film.release()
    written = sorted(folder.glob("*.jpg"))
    if not written:
        raise UserError(f"{video}: not one frame can be decoded. Is it a video, and whole?")
    if all(_is_flat(written[place]) for place in (0, len(written) // 2, -1)):
        raise UserError(
            f"{video}: its frames come out empty, as those of some interlaced films do. Convert it:"
            f" ffmpeg -i {video.name} -vf yadif -c:v libx264 -crf 18 video.mp4"
        )
    (folder / "frames.txt").write_text(f"{len(written)} {max(announced, number)}\n")


def _keep(film: Any, path: Path) -> None:
    """Write the grabbed frame; one that cannot be decoded leaves a gap. Raises OSError, which says why."""
    cv2 = require("cv2", "hints", "reading videos")
    okay, frame = film.retrieve()
    if okay:
        path.write_bytes(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes())


def _is_whole(folder: Path) -> bool:
    """Tell whether all frames are there: disks for scratch files are cleaned of what is old."""
    summary = folder / "frames.txt"
    count = str(len(list(folder.glob("*.jpg"))))
    match summary.read_text().split() if summary.is_file() else ():
        case [written, announced] if written == count and announced.isdecimal():
            return True
    return False


def _is_flat(path: Path) -> bool:
    with Image.open(path) as picture:
        return all(low == high for low, high in ImageStat.Stat(picture).extrema)


def lost_frames(folder: Path) -> int:
    """Tell how many frames the video announced but did not hold; a few are common, many mean a damaged file."""
    decoded, announced = map(int, (folder / "frames.txt").read_text().split())
    return max(announced - decoded, 0)


def unfinished(folder: Path) -> list[str]:
    """Name the videos that `prepare video` began to write into `folder` and was stopped in, and how to finish them."""
    return [told for manifest in sorted(folder.glob(".*.json")) if (told := _unfinished(manifest))]


def _unfinished(manifest: Path) -> str:
    try:
        match json.loads(manifest.read_text()):
            case {"facts": {"video": str(video), "every": int(every)}, "survey": None}:
                option = f" --every {every}" if every != 1 else ""
                return (
                    f"{video} was not decoded to its end. Finish it: prepare video {video} --out"
                    f" {manifest.parent}{option}"
                )
    except (OSError, ValueError) as error:
        _log.debug("%s is not of prepare video: %s", manifest, error)
    return ""


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/monodepth_trainer/frames`, or that in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "monodepth_trainer" / "frames"


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that dies with its process; a warning where there are none."""
    with open(lock, "w") as file:
        try:
            import fcntl  # POSIX only

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            _log.warning("%s: no file locks here; let only one process decode this video", lock.parent)
        yield
