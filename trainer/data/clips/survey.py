"""What is known of a film before training on it: counts, measurements, and warnings of what usually goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.data.clips.motion import WIDTH
from trainer.data.files.splits import counted

_WANTED_SHIFT = 2.5  # between neighbours for training: that of KITTI, 0.8 % of the width
_LONGEST_GAP = 10
_FEW = 500  # frames
NO_PARALLAX = "no parallax: the camera turns or zooms but hardly moves, and nothing tells near from far"
_COMBED = 4.0  # of `combing`: progressive films have 0.8 to 2, interlaced ones 11


@dataclass
class Survey:
    """Counts and measurements of a film. Shifts and parallaxes are in pixels at a width of 320."""

    fps: float
    size: tuple[int, int]  # (width, height)
    announced: int = 0  # frames, by the header of the file
    read: int = 0
    standing: int = 0
    blank: int = 0
    cuts: int = 0
    too_short: int = 0  # frames of clips of fewer than 3
    flashes: int = 0  # frames unlike the ones before and after, which are alike: lightning, a lamp
    other_size: int = 0  # frames of another size than the first
    seconds: float = 0.0  # from the first frame to the end of the last
    clips: list[int] = field(default_factory=list)  # frames of each
    shifts: list[float] = field(default_factory=list)
    parallaxes: list[float] = field(default_factory=list)
    sharp: list[float] = field(default_factory=list)
    flicker: list[float] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)  # mean grey level of each kept frame and of those in short clips
    cut_at: list[int] = field(default_factory=list)  # numbers of the frames that begin a scene, of all frames read
    combed: list[float] = field(default_factory=list)  # `combing` of every fourth frame
    uneven: float = 0.0  # share of the frames far off the frame rate
    still_share: float = 0.0  # of the pixels, which never change: bonnet, time stamp, black bars
    changing: tuple[float, float, float, float] = (0, 0, 1, 1)  # left, top, right, bottom, shares of the picture

    @property
    def kept(self) -> int:
        return sum(self.clips)

    @property
    def shift(self) -> float:
        """Median shift between neighbours, pixels of 320; 0 without any."""
        return _median(self.shifts)

    @property
    def frame_gap(self) -> int:
        """Frames from one neighbour to the next, 1..10, so that they shift as much as those of KITTI."""
        return int(np.clip(round(_WANTED_SHIFT / self.shift), 1, _LONGEST_GAP)) if self.shift else 1

    @property
    def has_parallax(self) -> bool:
        """False when the camera turns or zooms but hardly moves."""
        return not self.shifts or _median(self.parallaxes) >= max(0.1, 0.04 * self.shift)

    def report(self) -> list[str]:
        """Return the lines of the report."""
        parallax, sharp = _median(self.parallaxes), _median(self.sharp)
        return [
            f"{self.size[0]}x{self.size[1]}, {self.fps:.3g} frames per second, {self.read} frames read",
            f"{self.kept} kept in {counted(len(self.clips), 'clip')}; {_dropped([self])}; {counted(self.cuts, 'cut')}",
            f"between neighbours: shift {self.shift / WIDTH:.2%} of the width, parallax {parallax / WIDTH:.2%}",
            f"sharpness {sharp:.0f}, blurred {self.blurred:.0%} of the frames",
            f"suggested dataset.frame_gap: {self.frame_gap}",
        ]

    @property
    def blurred(self) -> float:
        """Share of the frames whose sharpness is below 0.4 of the median."""
        return float((np.array(self.sharp) < 0.4 * np.median(self.sharp)).mean()) if self.sharp else 0.0

    def warnings(self, alone: bool = True) -> list[str]:
        """Return what is likely to spoil training, with remedies. alone: no other film is trained on with this one."""
        broken = self.announced - self.read
        flickering = float((np.array(self.flicker) > 0.1).mean()) if self.flicker else 0.0
        if not self.kept:
            blank = ["most frames are blank"] * (self.blank > 0.5 * self.read)
            return ["nothing is left to train on: the camera stands, or all scenes are too short", *blank]
        cases = {
            f"{broken} of {self.announced} announced frames could not be decoded: the file is cut off or broken":
                broken > max(2, 0.01 * self.announced),
            too_few([self]): alone and self.kept < _FEW,
            f"{self.standing / max(self.read, 1):.0%} of the frames stand still or repeat the one before":
                self.standing > 0.5 * self.read,
            f"{NO_PARALLAX}. Walk or drive": not self.has_parallax,
            f"neighbours are far apart ({self.shift / WIDTH:.0%} of the width): use a film with more frames per second":
                self.shift > 0.12 * WIDTH,
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

    @property
    def brightness(self) -> float:
        """Mean grey level of the frames in which the camera moves, 0..255; 0 without any."""
        return float(np.mean(self.levels)) if self.levels else 0.0

    def dropped(self) -> dict[str, int]:
        """Count the frames that were read and not kept, by reason; what `every` passes over is not among them."""
        return {
            "standing": self.standing,
            "blank": self.blank,
            "in clips shorter than 3 frames": self.too_short,
            "lit by a flash": self.flashes,
            "of another size": self.other_size,
        }

    def _crop(self) -> str:
        """Return a command that cuts off the edges that never change, or advice when they lie elsewhere."""
        left, top, right, bottom = (
            2 * round(share * side / 2) for share, side in zip(self.changing, self.size * 2, strict=True)
        )
        if (right - left) * (bottom - top) > 0.97 * self.size[0] * self.size[1]:
            return "cover it or film without"
        return f"ffmpeg -i FILM -vf crop={right - left}:{bottom - top}:{left}:{top} OUT"


def report_all(surveys: Sequence[Survey]) -> list[str]:
    """Return the lines of a report on several films."""
    read, kept = sum(s.read for s in surveys), sum(s.kept for s in surveys)
    clips, cuts = sum(len(s.clips) for s in surveys), sum(s.cuts for s in surveys)
    shifts = [shift for s in surveys for shift in s.shifts]
    gaps = sorted({s.frame_gap for s in surveys if s.kept}) or [1]
    few = too_few(surveys)
    return [
        f"{counted(len(surveys), 'film')} of {lasting(sum(s.seconds for s in surveys))}, {read} frames read",
        f"{kept} kept in {counted(clips, 'clip')}; {_dropped(surveys)}; {counted(cuts, 'cut')}",
        f"between neighbours: shift {_median(shifts) / WIDTH:.2%} of the width",
        f"suggested dataset.frame_gap: {gaps[-1]}" + (f", the largest of {gaps[0]} to {gaps[-1]}" if gaps[1:] else ""),
        *([f"warning: {few}"] if few else []),
    ]


def too_few(surveys: Sequence[Survey]) -> str:
    """Return a warning when films have too few frames together, else ""."""
    kept = sum(survey.kept for survey in surveys)
    warning = f"only {kept} frames are left: below some {_FEW} a network learns the film by heart. Add films"
    return warning if kept < _FEW else ""


def lasting(seconds: float) -> str:
    """Write a duration as hours, minutes and seconds: "1:02:03"."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _dropped(surveys: Sequence[Survey]) -> str:
    """Say how many frames were dropped and why; what is rare only where it occurs."""
    counts = {reason: sum(s.dropped()[reason] for s in surveys) for reason in surveys[0].dropped()}
    rare = ("lit by a flash", "of another size")
    return "dropped: " + ", ".join(f"{n} {reason}" for reason, n in counts.items() if n or reason not in rare)


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else 0.0
