"""Disparity in colours: one range of colours over everything that is shown together, and the bar that explains it."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trainer.predict.scale import Scale
from trainer.tracking.viz import MAGENTA

PERCENTILES = (2, 98)  # of disparity, at the ends of the colours: a few odd pixels must not darken the rest
LEVELS = 255  # of the colour map; one more index is for pixels that are not finite
FOLLOWS = 0.01  # share of a new frame in the range of a stream: it has followed a change by two thirds in 100 frames
VALUES = 1 << 14  # disparities of a frame that are looked at
NARROWEST = 160  # pixels; there is no room for a legend on less


class Limits(NamedTuple):
    """Disparities where the colours end."""

    low: float
    high: float


def limits_of(disparity: NDArray[np.float32]) -> Limits:
    """Return the 2nd and 98th percentile of disparities (...), apart from each other; those that are finite count."""
    values = disparity.ravel()
    values = values[np.isfinite(values)]
    low, high = map(float, np.percentile(values, PERCENTILES)) if values.size else (0.0, 1.0)
    return _apart(low, high)


def _apart(low: float, high: float) -> Limits:
    return Limits(low, max(high, low * 1.001, low + 1e-9))


class ColourRange:
    """The limits of all frames of a film, folder or stream, so that equal colours mean equal depth.

    They are the percentiles of all frames seen before `fix`, or, without, those of the first batch. For a stream,
    whose frames are not known before, they follow slowly: 1 % per frame.

    Args:
        nearest: depth where the colours begin; None = from what is seen.
        farthest: depth where they end, which may be infinite; None = from what is seen.
        follows: move with the frames.
    """

    def __init__(self, nearest: float | None = None, farthest: float | None = None, follows: bool = False):
        self._low = None if farthest is None else 1 / farthest
        self._high = None if nearest is None else 1 / nearest
        self._follows = follows
        self._limits: Limits | None = None
        self._seen: list[NDArray[np.float32]] = []
        if self._low is not None and self._high is not None:
            self._limits, self._follows = Limits(self._low, self._high), False

    @property
    def is_known(self) -> bool:
        """Whether the limits are fixed already."""
        return self._limits is not None

    def see(self, disparities: NDArray[np.float32]) -> None:
        """Look at frames (n ...) before any is shown."""
        self._seen += [frame.ravel()[:: max(frame.size // VALUES, 1)] for frame in disparities]

    def fix(self) -> None:
        """Take the limits of all that was seen, if anything was."""
        if self._seen and not self.is_known:
            self._limits = self._given(limits_of(np.concatenate(self._seen)))
        self._seen = []

    def limits(self, disparities: NDArray[np.float32]) -> Limits:
        """Return the limits of the next frames to show (n ...)."""
        if self._limits is None or self._follows:
            new, old = limits_of(disparities.reshape(len(disparities), -1)[:, :: self._step(disparities)]), self._limits
            if old is not None:
                weight = 1 - (1 - FOLLOWS) ** len(disparities)
                new = _apart(*(a + weight * (b - a) for a, b in zip(old, new, strict=True)))
            self._limits = self._given(new)
        return self._limits

    def _given(self, found: Limits) -> Limits:
        low = found.low if self._low is None else self._low
        high = found.high if self._high is None else self._high
        if low >= high:  # all that is seen lies beyond the end that was given
            low, high = (low, 2 * low) if self._high is None else (high / 2, high)
        return Limits(low, high)

    @staticmethod
    def _step(disparities: NDArray[np.float32]) -> int:
        return max(disparities[0].size // VALUES, 1)


def coloured(disparity: NDArray[np.float32], limits: Limits) -> Image.Image:
    """Colour a disparity (H W) with the turbo map, red = near; magenta where it is not finite."""
    levels = (disparity - limits.low) * ((LEVELS - 1) / (limits.high - limits.low)) + 0.5
    broken = ~np.isfinite(levels)
    is_whole = not broken.any()
    levels = levels if is_whole else np.where(broken, 0, levels)
    indices = np.clip(levels, 0, LEVELS - 1, out=levels).astype(np.uint8)
    picture = Image.fromarray(indices if is_whole else np.where(broken, np.uint8(LEVELS), indices))
    picture.putpalette(_palette())
    return picture.convert("RGB")


def with_legend(picture: Image.Image, limits: Limits, scale: Scale) -> Image.Image:
    """Put the legend of `limits` under a picture, if it is wide enough for one."""
    if picture.width < NARROWEST:
        return picture
    strip = _legend(picture.width, limits, scale)
    both = Image.new("RGB", (picture.width, picture.height + strip.height))
    both.paste(picture, (0, 0))
    both.paste(strip, (0, picture.height))
    return both


@lru_cache(1)
def _palette() -> bytes:
    from matplotlib import colormaps

    turbo = colormaps["turbo"](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    return bytes(turbo.tobytes()) + bytes(round(255 * value) for value in MAGENTA)


@lru_cache(8)
def _font(size: int) -> Any:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


@lru_cache(8)
def _legend(width: int, limits: Limits, scale: Scale) -> Image.Image:
    """Draw the bar from far to near between its depths, and the unit as far as there is room for it."""
    height = 2 * min(max(width // 80, 9), 24)
    font, gap = _font(round(0.55 * height)), height // 3
    strip = Image.new("RGB", (width, height), (16, 16, 16))
    draw, middle = ImageDraw.Draw(strip), height // 2
    unit = " m" if scale.unit == "m" else ""
    far, half, near = (_number(depth) for depth in (limits.low, (limits.low + limits.high) / 2, limits.high))
    caption = f"depth in metres ({scale.origin})" if unit else f"relative depth, no unit ({scale.origin})"
    brief = f"{caption.partition(':')[0]})" if ":" in caption else caption  # without the numbers of the origin
    captions = (caption, brief, caption.partition(" (")[0], "metres" if unit else "relative", "")
    far, near = f"{far}{unit}", f"{near}{unit}"
    ends = font.getlength(far) + font.getlength(near) + 4 * gap
    bar = max(min(width // 4, 300), 40)
    caption = next((text for text in captions if ends + bar + font.getlength(text) + gap <= width), "")
    draw.text((gap, middle), far, "white", font, "lm")
    start = gap + round(font.getlength(far)) + gap
    shown = coloured(np.linspace(0, 1, bar, dtype=np.float32)[None], Limits(0, 1)).resize((bar, height - gap))
    strip.paste(shown, (start, gap // 2))
    if font.getlength(half) < bar / 2:
        draw.text((start + bar / 2, middle), half, "black", font, "mm")
    draw.text((start + bar + gap, middle), near, "white", font, "lm")
    draw.text((start + bar + gap + font.getlength(near) + 2 * gap, middle), caption, (200, 200, 200), font, "lm")
    return strip


def _number(disparity: float) -> str:
    """Write the depth of a disparity with three digits at most."""
    if disparity <= 0:
        return "∞"
    depth = 1 / disparity
    return f"{depth:.{max(0, min(2, 1 - math.floor(math.log10(depth))))}f}" if 0.01 <= depth < 1e5 else f"{depth:.2g}"
