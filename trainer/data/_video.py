"""Frames of a video file: decoded once into a folder of pictures, because only those can be read in any order.

Seeking in a video decodes everything since the last key frame, and is not exact with every codec; several workers
reading shuffled items would decode the film again and again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from trainer.data._optional import require
from trainer.types import UserError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
_QUALITY = 95  # of the JPEG files


def extract_frames(video: Path, cache: Path) -> Path:
    """Decode a video into `<cache>/<name>-<digest>/<7 digits>.jpg` and return the folder; at once if it is there.

    The digest is that of path, size and time of the file. Several processes may call this together: one decodes, the
    others wait. What was interrupted is continued. Raises UserError when the file is no video or cannot be cached.
    """
    try:
        facts = video.stat()
        digest = hashlib.sha256(f"{video.resolve()}|{facts.st_size}|{facts.st_mtime_ns}".encode()).hexdigest()
        folder = cache / f"{video.stem}-{digest[:12]}"
        if folder.is_dir():
            return folder
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f".{folder.name}.lock"):
            if not folder.is_dir():
                part = cache / f".{folder.name}.part"
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
        done = max(len(list(folder.glob("*.jpg"))) - 1, 0)  # the last one may be cut short
        announced = int(film.get(cv2.CAP_PROP_FRAME_COUNT)) if film.isOpened() else 0
        with tqdm(total=max(announced, 0) or None, desc=f"frames of {video.name}", disable=None) as bar:
            number = 0
            while film.grab():
                if number >= done:
                    okay, frame = film.retrieve()
                    path = folder / f"{number:07d}.jpg"
                    if not okay or not cv2.imwrite(str(path), frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]):
                        raise OSError(f"frame {number} cannot be written to {path}")
                number += 1
                bar.update()
    finally:
        film.release()
    if not number:
        raise UserError(f"{video}: not one frame can be decoded. Is it a video, and whole?")
    (folder / "frames.txt").write_text(f"{number} {announced}\n")


def lost_frames(folder: Path) -> int:
    """Tell how many frames the video announced but did not hold; a few are common, many mean a damaged file."""
    decoded, announced = map(int, (folder / "frames.txt").read_text().split())
    return max(announced - decoded, 0)


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/monodepth_trainer/frames`, or that in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "monodepth_trainer" / "frames"


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that dies with its process."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
