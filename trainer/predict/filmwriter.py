"""Films out: H.264 where FFmpeg has it, else MPEG-4, each frame at its own time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from trainer.runtime.files import replacing
from trainer.runtime.optional import require

TICKS = 60000  # per second: whole for 24, 25, 30, 50, 60 frames per second and for 30000/1001; MPEG-4 allows no more
# Near what the eye tells apart; fast, since a network waits for the cores; without B-frames, whose order in the file
# spoils the length of films whose rate varies.
X264 = {"crf": "20", "preset": "veryfast", "bf": "0"}


class FilmWriter(AbstractContextManager["FilmWriter"]):
    """Write an MP4 file, whole when the `with` block ends, gone when an error ends it.

    Args:
        size: (width, height) of the frames, made even by a black line; frames of other sizes are fitted into it.
        fps: of the frames on the whole, for players that show it; what counts is the time of each.
        texts: for the comment in the metadata.

    Raises CannotWrite when the disk refuses.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float, texts: Mapping[str, str]):
        self._av = require("av", "video", f"Writing the film {path}")
        self.path, self._size, self._texts = path, size, texts
        self._rate = Fraction(fps).limit_denominator(1001)
        self._duration: dict[int, int] = {}  # of each frame, by its time, in ticks
        self._waiting: tuple[int, Any] | None = None
        self._last: float | None = None  # duration of the waiting frame

    def __enter__(self) -> FilmWriter:
        with ExitStack() as stack:
            staged = stack.enter_context(replacing(self.path))
            try:
                self._open(staged)
            except self._av.FFmpegError as error:
                raise _refused(error) from error
            self._stack = stack.pop_all()
        return self

    def _open(self, path: Path) -> None:
        self._container = self._av.open(str(path), "w", format="mp4")
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        stream = self._container.add_stream(codec, rate=self._rate)
        stream.width, stream.height = (-(-side // 2) * 2 for side in self._size)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        if codec == "libx264":
            stream.options = X264
        else:
            stream.bit_rate = max(stream.width * stream.height * 4, 200_000)
        self._container.metadata["comment"] = "; ".join(f"{key}: {text}" for key, text in self._texts.items())
        self._stream = stream

    def write(self, picture: Image.Image, time: float, duration: float | None = None) -> None:
        """Add a frame that is shown from `time` on, in seconds, later than the one before.

        duration: how long it is shown if it is the last, in seconds; None = as `fps` says.
        """
        if picture.size != self._size:
            picture = ImageOps.pad(picture, self._size)
        even = (self._stream.width, self._stream.height)
        if picture.size != even:
            picture = picture.crop((0, 0, *even))  # black beyond its edges
        frame = self._av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
        tick = round(time * TICKS)
        if self._waiting is not None:
            tick = max(tick, self._waiting[0] + 1)
            self._encode(tick - self._waiting[0])
        self._waiting, self._last = (tick, frame), duration

    def _encode(self, duration: int) -> None:
        if self._waiting is None:
            return
        tick, frame = self._waiting
        frame.pts, frame.time_base, frame.duration = tick, Fraction(1, TICKS), duration
        self._duration[tick] = duration
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        """Encode a frame, None = the end, and write what comes out."""
        try:
            for packet in self._stream.encode(frame):
                packet.duration = self._duration.pop(packet.pts, packet.duration)  # x264 does not hand it on
                self._container.mux(packet)
        except self._av.FFmpegError as error:
            raise _refused(error) from error

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            try:
                self._encode(round(TICKS * self._last) if self._last else round(TICKS / self._rate))
                self._mux(None)
                self._container.close()
            except self._av.FFmpegError as problem:
                refused = _refused(problem)
                return self._stack.__exit__(type(refused), refused, None)
            except OSError as problem:
                return self._stack.__exit__(type(problem), problem, None)
        else:
            with suppress(self._av.FFmpegError):
                self._container.close()
        return self._stack.__exit__(*error)


def _refused(error: Any) -> OSError:
    return OSError(error.errno, error.strerror)
