"""Look through a film before training on it: what moves, what stands, where it is cut, how sharp it is.

Frames are compared at a width of 320 pixels by tracked corners (Shi and Tomasi, CVPR 1994; Bouguet 2000). Parallax is
what a homography cannot explain (Hartley and Zisserman, 2004, ch. 13): a camera that only turns has none, and
from a film without parallax no depth can be learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.files.splits import counted
from trainer.runtime.optional import require

WIDTH = 320  # pixels; all distances below are in these
STANDING = 0.4  # median shift below which a camera has not moved
CUT = 0.3  # share of corners found again below which two frames show different things
_WANTED_SHIFT = 2.5  # between neighbours for training: that of KITTI, 0.8 % of the width
_LONGEST_GAP = 10
_CORNERS, _FEWEST_CORNERS = 400, 20
_COMBED = 4.0  # of `combing`: progressive films have 0.8 to 2, interlaced ones 11
_BLACK = "most frames are blank"
_BURNT = 235  # mean grey level above which a pixel that never changes is taken for sky

Picture = NDArray[np.uint8]


class Comparison(NamedTuple):
    """How a frame differs from an earlier one."""

    found: float  # share of the corners that were found again
    shift: float = 0.0  # median length of their ways, pixels
    parallax: float = 0.0  # upper quartile of the distances to the best homography, pixels
    brightness: float = 0.0  # change of the mean, share of it


def small_grey(frame: Picture) -> Picture:
    """Grey values (h 320) of a frame (h w 3) RGB."""
    cv2 = _opencv()
    height = max(round(frame.shape[0] * WIDTH / frame.shape[1]), 8)
    small: Picture = cv2.resize(
        cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (WIDTH, height), interpolation=cv2.INTER_AREA
    )
    return small


def is_blank(grey: Picture) -> bool:
    """Tell whether there is nothing to be seen: fewer than 20 corners."""
    return len(_corners(grey)) < _FEWEST_CORNERS


def sharpness(grey: Picture) -> float:
    """Variance of the Laplacian (h w): comparable between frames of one film only."""
    cv2 = _opencv()
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def combing(frame: Picture) -> float:
    """How many more pixels of a frame (h w 3) stick out of their rows than of their columns: the mark of interlacing.

    A pixel sticks out when both its neighbours are darker, or both brighter, by more than 8 levels. Below 2 % there is
    nothing to be seen: 0.
    """
    cv2 = _opencv()
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.int16)
    rows, columns = _sticking_out(grey), _sticking_out(grey.T)
    return rows / max(columns, 1e-3) if rows > 0.02 else 0.0


def _sticking_out(grey: NDArray[np.int16]) -> float:
    above, below = grey[1:-1] - grey[:-2], grey[1:-1] - grey[2:]
    return float(((np.minimum(above, below) > 8) | (np.maximum(above, below) < -8)).mean())


def compare(before: Picture, now: Picture) -> Comparison:
    """Find the corners of `before` in `now`, both (h w) grey. Ways there that do not lead back are not counted."""
    cv2 = _opencv()
    start = _corners(before)
    if len(start) < _FEWEST_CORNERS:
        return Comparison(0.0)
    options = {"winSize": (15, 15), "maxLevel": 3}
    end, ok, _ = cv2.calcOpticalFlowPyrLK(before, now, start, None, **options)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(now, before, end, None, **options)
    way_back = np.linalg.norm((back - start).reshape(-1, 2), axis=1)
    good = (ok.ravel() == 1) & (ok_back.ravel() == 1) & (way_back < 1)
    found = float(good.mean())
    if good.sum() < _FEWEST_CORNERS:
        return Comparison(found)
    a, b = start.reshape(-1, 2)[good], end.reshape(-1, 2)[good]
    mean_before, mean_now = float(before.mean()), float(now.mean())
    return Comparison(
        found,
        float(np.median(np.linalg.norm(b - a, axis=1))),
        _parallax(a, b),
        abs(mean_now - mean_before) / max(mean_before, 1.0),
    )


@dataclass
class Survey:
    """What was seen in a film; `report` puts it in words, `warnings` says what usually goes wrong with it."""

    fps: float
    size: tuple[int, int]  # (width, height)
    announced: int = 0  # frames that the file says it has
    read: int = 0
    standing: int = 0
    blank: int = 0
    cuts: int = 0
    too_short: int = 0  # frames of clips that are too short to be used
    clips: list[int] = field(default_factory=list)  # frames of each
    shifts: list[float] = field(default_factory=list)
    parallaxes: list[float] = field(default_factory=list)
    sharp: list[float] = field(default_factory=list)
    flicker: list[float] = field(default_factory=list)
    combed: list[float] = field(default_factory=list)  # `combing` of every fourth frame
    uneven: float = 0.0  # share of the frames that come much later or sooner than the frame rate says
    still_share: float = 0.0  # of the pixels, which never change: bonnet, time stamp, black bars
    changing: tuple[float, float, float, float] = (
        0,
        0,
        1,
        1,
    )  # left, top, right, bottom, shares of the picture

    @property
    def kept(self) -> int:
        return sum(self.clips)

    @property
    def frame_gap(self) -> int:
        """Frames from one neighbour to the next so that they differ enough, 1..10."""
        shift = float(np.median(self.shifts)) if self.shifts else 0.0
        return int(np.clip(round(_WANTED_SHIFT / shift), 1, _LONGEST_GAP)) if shift else 1

    def report(self) -> list[str]:
        """Lines of the report."""
        shift, parallax, sharp = (_median(values) for values in (self.shifts, self.parallaxes, self.sharp))
        return [
            f"{self.size[0]}x{self.size[1]}, {self.fps:.3g} frames per second, {self.read} frames read",
            f"{self.kept} kept in {counted(len(self.clips), 'clip')}; dropped: {self.standing} standing,"
            f" {self.blank} blank, {self.too_short} in clips shorter than 3 frames; {counted(self.cuts, 'cut')}",
            f"between neighbours: shift {shift / WIDTH:.2%} of the width, parallax {parallax / WIDTH:.2%}",
            f"sharpness {sharp:.0f}, blurred {self.blurred:.0%} of the frames",
            f"suggested dataset.frame_gap: {self.frame_gap}",
        ]

    @property
    def blurred(self) -> float:
        """Share of the frames whose sharpness is below 0.4 of the median."""
        return float((np.array(self.sharp) < 0.4 * np.median(self.sharp)).mean()) if self.sharp else 0.0

    def warnings(self) -> list[str]:
        """What is likely to spoil training, and what to do about it."""
        shift, parallax = _median(self.shifts), _median(self.parallaxes)
        broken = self.announced - self.read
        flickering = float((np.array(self.flicker) > 0.1).mean()) if self.flicker else 0.0
        if not self.kept:
            return [
                "nothing is left to train on: the camera stands, or all scenes are too short",
                *([_BLACK] if self.blank > 0.5 * self.read else []),
            ]
        cases = {
            f"{broken} of {self.announced} announced frames could not be decoded: the file is cut off or broken":
                broken > max(2, 0.01 * self.announced),
            f"only {self.kept} frames are left: below some 500 a network learns the film by heart. Add films":
                self.kept < 500,
            f"{self.standing / max(self.read, 1):.0%} of the frames stand still or repeat the one before":
                self.standing > 0.5 * self.read,
            "no parallax: the camera turns or zooms but hardly moves, and nothing tells near from far. Walk or drive":
                bool(self.shifts) and parallax < max(0.1, 0.04 * shift),
            f"neighbours are far apart ({shift / WIDTH:.0%} of the width): use a film with more frames per second":
                shift > 0.12 * WIDTH,
            f"{self.blurred:.0%} of the frames are blurred: shorter exposure or more light": self.blurred > 0.15,
            f"the brightness jumps in {flickering:.0%} of the frames: fix the exposure of the camera": flickering > 0.1,
            f"{self.still_share:.0%} of the picture never changes (bonnet, time stamp, black bars), which is taken for"
            f" infinitely far: {self._crop()}": self.still_share > 0.05,
            "interlaced: every second line is of another moment. Film without, or ffmpeg -i FILM -vf yadif OUT":
                _median(self.combed) > _COMBED,
            f"{self.uneven:.0%} of the frames come off the beat, so motions differ: ffmpeg -i FILM -vf fps=30 OUT":
                self.uneven > 0.05,
            "higher than wide: networks take landscape pictures. Turn or crop it": self.size[1] > self.size[0],
            f"a cut every {self.kept / max(len(self.clips), 1):.0f} frames: an edited film. Use the raw material":
                len(self.clips) > 3 and self.kept / len(self.clips) < 30,
        }  # fmt: skip
        return [text for text, applies in cases.items() if applies]

    def _crop(self) -> str:
        """How to cut off the edges that never change, if that is where they are."""
        left, top, right, bottom = (
            2 * round(share * side / 2) for share, side in zip(self.changing, self.size * 2, strict=True)
        )
        if (right - left) * (bottom - top) > 0.97 * self.size[0] * self.size[1]:
            return "cover it or film without"
        return f"ffmpeg -i FILM -vf crop={right - left}:{bottom - top}:{left}:{top} OUT"


class Stillness:
    """Counts which pixels change over a film: running mean and variance (h w) of grey values."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: NDArray[np.float64] | None = None
        self._squares: NDArray[np.float64] | None = None

    def add(self, grey: Picture) -> None:
        values = grey.astype(np.float64)
        self._count += 1
        self._sum = values if self._sum is None else self._sum + values
        self._squares = values**2 if self._squares is None else self._squares + values**2

    def share(self) -> float:
        """Share of the pixels that keep their value, to 3 grey levels, while others change."""
        still = self._still()
        return 0.0 if still is None else float(still.mean())

    def changing(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of what is inside of rows and columns that mostly keep their value, 0..1."""
        still = self._still()
        if still is None:
            return 0.0, 0.0, 1.0, 1.0
        top, bottom = _extent((~still).mean(axis=1) > 0.5)
        left, right = _extent(
            (~still[round(top * len(still)) : round(bottom * len(still))]).mean(axis=0) > 0.5
        )
        return left, top, right, bottom

    def _still(self) -> NDArray[np.bool_] | None:
        """Which pixels (h w) keep their value, a burnt-out sky aside; None where that cannot be told."""
        if self._sum is None or self._squares is None or self._count < 10:
            return None
        mean = self._sum / self._count
        deviation = np.sqrt(np.maximum(self._squares / self._count - mean**2, 0))
        still: NDArray[np.bool_] = (deviation < 3) & (mean < _BURNT)
        return still if np.percentile(deviation, 75) > 8 else None


def uneven_share(times: Sequence[float]) -> float:
    """Share of the steps between times that are off the median one by more than half of it."""
    steps = np.diff(np.asarray(times, np.float64))
    usual = float(np.median(steps)) if len(steps) else 0.0
    return float((np.abs(steps - usual) > 0.5 * usual).mean()) if usual > 0 else 0.0


def _extent(wanted: NDArray[np.bool_]) -> tuple[float, float]:
    """First and one past the last, as shares of the length; all of it where there is none.

    What begins or ends inside does so one place further in: that place may be half of the border.
    """
    places, length = np.flatnonzero(wanted), len(wanted)
    if len(places) < 3:
        return 0.0, 1.0
    first, last = int(places[0]), int(places[-1]) + 1
    return (first + (first > 0)) / length, (last - (last < length)) / length


def _corners(grey: Picture) -> NDArray[np.float32]:
    cv2 = _opencv()
    corners = cv2.goodFeaturesToTrack(grey, _CORNERS, 0.01, 7)
    return np.zeros((0, 1, 2), np.float32) if corners is None else corners


def _parallax(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Upper quartile of the distances to the homography that explains most of the ways a -> b, both (n 2)."""
    cv2 = _opencv()
    H, _ = cv2.findHomography(a, b, cv2.RANSAC, 1.0)
    if H is None:
        return 0.0
    explained = cv2.perspectiveTransform(a[:, None].astype(np.float32), H)[:, 0]
    return float(np.percentile(np.linalg.norm(explained - b, axis=1), 75))


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else 0.0


def _opencv() -> Any:
    return require("cv2", "hints", "Looking through videos")
