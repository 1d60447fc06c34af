"""The base of data sets of clips, whose items are a target and the frames around it."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.data.clips.clips import Clip, Line, choose_frames, distances_to_held_out, gaps, read_lines
from trainer.data.files.frames import LEFT, SUPPORT, Frames, Numbers, fingerprint
from trainer.data.files.headers import find_odd_pictures
from trainer.data.files.pictures import picture_size
from trainer.data.files.splits import capped, counted, parse_frame, shown
from trainer.data.raw_item import RawItem
from trainer.data.recorded import RecordedDataset
from trainer.runtime.errors import DataError, UserError, listed

S = TypeVar("S")
T = TypeVar("T")
_REACH = 4  # fourth word of entropy: the factor must not share the draws of the augmentation
_KNOWN = 10  # clips that a message names: there may be thousands, and as many that are not among them


class ClipDataset(RecordedDataset):
    """Items are frames of clips. A subclass finds `clips` and passes its items to `_set_items`.

    In training, the offsets of supports are multiplied by a factor drawn per item from `supp_range` (arXiv:2307.10713),
    of those whose frames exist and are not read by validation. Items are frames that have the supports of the least.
    """

    clips: Mapping[str, Clip]
    lines: Sequence[Line]
    frame_gap: int = 1
    supp_range: tuple[int, int] = (1, 1)
    _left_out: Sequence[str] = ()
    _val_every: int = 0  # of the rule, 0 = no rule

    def _set_items(self, clips: Mapping[str, Clip], lines: Sequence[Line]) -> None:
        if self.frame_gap < 1:
            raise UserError(f"dataset.frame_gap must be 1 or more, got {self.frame_gap}")
        low, high = self.supp_range
        if not 1 <= low <= high:
            raise UserError(f"dataset.supp_range must be [least, most], whole numbers from 1, got {[low, high]}")
        self.clips, self.lines = clips, lines
        self._distances: dict[str, dict[int, float]] = {}
        self._recordings: dict[str, str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._watch(len(lines))

    def _choose_items(self, clips: Mapping[str, Clip], split_file: str | None, val_every: int, where: Path) -> None:
        """Take the items that a split file names, or else choose them by rule."""
        if split_file:
            self._set_items(clips, read_lines(Path(split_file), parse_frame, '"<clip> <frame>"'))
        else:
            self._set_items(clips, self._by_rule(clips, val_every, where))

    def _by_rule(self, clips: Mapping[str, Clip], val_every: int, where: Path) -> list[Line]:
        """Choose items without a split file. Raises UserError when none are left."""
        if val_every < 0 or val_every == 1:
            raise UserError(f"dataset.val_every must be 2 or more, or 0 for no division, got {val_every}")
        offsets, factor = [offset * self.frame_gap for offset in self.supp_idxs], self._least_factor
        lines = [
            Line("", name, number)
            for name, clip in clips.items()
            for number in choose_frames(clip, offsets, self.mode, val_every, factor)
        ]
        self._val_every = val_every
        offsets = [offset * factor for offset in offsets]
        if not lines:
            frames = sum(len(clip.frames) for clip in clips.values())
            raise UserError(
                f"{where}: none of {frames} frames is left for {self.mode} with the neighbours {offsets} and "
                f"dataset.val_every: {val_every}. Choose closer neighbours, another val_every, or 0 to use all frames "
                "in all modes"
            )
        self._left_out = self._explain(clips, lines, offsets, val_every)
        return lines

    def _explain(
        self, clips: Mapping[str, Clip], lines: Sequence[Line], offsets: Sequence[int], val_every: int
    ) -> list[str]:
        """Say how many frames of this mode are no items, why, and name some."""
        taken = {(line.clip, line.number) for line in lines}
        alone: list[str] = []
        near: list[str] = []
        for name, clip in clips.items():
            for number in choose_frames(clip, (), self.mode, val_every):
                if (name, number) not in taken:
                    is_alone = any(number + offset * clip.step not in clip.frames for offset in offsets)
                    (alone if is_alone else near).append(f"{name}/{number}")
        around = " and ".join(f"{offset:+d}" for offset in offsets)
        reasons = {f"have no neighbour at {around}": alone, "are next to frames held out for validation": near}
        return [
            f"{len(names)} of {len(taken) + len(alone) + len(near)} frames are no items, because they {why}:"
            f" {listed(names)}"
            for why, names in reasons.items()
            if names
        ]

    def __len__(self) -> int:
        return len(self.lines)

    def describe(self, index: int) -> str:
        """`<clip>/<number>`, or the place of a bad line."""
        line = self.lines[index]
        return line.place if line.problem else f"{line.clip}/{line.number}"

    def place(self, index: int) -> tuple[str, int]:
        """Return the clip, and the frame in steps of its numbers."""
        line = self.lines[index]
        return line.clip, line.number // self.clips[line.clip].step

    @classmethod
    def scene_in(cls, name: str) -> str | None:
        return name.rpartition("/")[0] or None

    def label_name(self, index: int) -> str:
        """`<clip>/<name of the picture>`"""
        line = self.lines[index]
        path = self._find(line.clip, line.number)
        return self.describe(index) if path is None else f"{line.clip}/{Path(path).stem}"

    def check(self) -> list[str]:
        """List bad lines, and pictures that are missing, cut short, or of another size or kind than the others."""
        problems = self._line_problems()
        used: dict[str, dict[str, None]] = {}
        for line in self.lines:
            for name, number in self._roles(line).values():
                if path := self._find(name, number):
                    used.setdefault(name, {})[path] = None
        if damaged := self._damaged((path for paths in used.values() for path in paths), "pictures"):
            return problems + damaged
        return problems + find_odd_pictures(used, {name: self._native_size(name) for name in used})

    def _line_problems(self) -> list[str]:
        problems = capped([line.problem for line in self.lines if line.problem], "bad lines")
        absent: Counter[str] = Counter()
        missing = []
        extents: dict[str, str] = {}
        for line in self.lines:
            for role, (name, number) in self._roles(line).items() if not line.problem else ():
                clip = self.clips.get(name)
                if clip is None or not clip.frames:
                    absent[name] += 1
                elif number not in clip.frames:
                    if name not in extents:
                        extents[name] = f"{len(clip.frames)} frames, {min(clip.frames)} to {max(clip.frames)}"
                    place = f"{line.place}: " if line.place else ""
                    missing.append(
                        f"{place}{role} {name}/{number} is missing: no such picture. The clip has {extents[name]}"
                    )
        known = listed(sorted(name for name, clip in self.clips.items() if clip.frames), _KNOWN) or "none"
        nothing = [
            f"there are no pictures of {shown(name)}: {counted(n, 'frame is', 'frames are')} missing. Known: {known}"
            for name, n in absent.items()
        ]
        return problems + capped(nothing, "clips without pictures") + capped(missing, "missing frames")

    def left_out(self) -> list[str]:
        """Report frames that the rule makes no items of."""
        return list(self._left_out)

    def notes(self) -> list[str]:
        """Report gaps in clips, which no item spans, and clips whose names show none."""
        found = {name: gaps(clip) for name, clip in self.clips.items() if clip.frames}
        uncounted = [name for name, clip in self.clips.items() if clip.counted and len(clip.frames) > 1]
        order = "the names of its pictures are not numbered in one row: taken in natural order, as if none were missing"
        return [
            *super().notes(),
            *(f"{name}: {counted(n, 'gap')} in the numbers of its frames" for name, n in found.items() if n),
            *(f"{name}: {order}" for name in uncounted),
        ]

    def picture_places(self) -> list[str]:
        """List the pictures that items read, with supports at all distances of the mode."""
        factors = range(self._least_factor, self.supp_range[1] + 1) if self.mode == "train" else (1,)
        roles = (place for line in self.lines for k in factors for place in self._roles(line, k).values())
        return [path for place in dict.fromkeys(roles) if (path := self._find(*place))]

    def picture_of(self, index: int) -> str | None:
        line = self.lines[index]
        return self._find(line.clip, line.number)

    def frames(self, indices: Sequence[int] | None = None) -> Frames:
        chosen = self.lines if indices is None else [self.lines[i] for i in indices]
        targets: dict[str, list[int]] = {}
        for line in chosen:
            if not line.problem and line.clip in self.clips:
                targets.setdefault(line.clip, []).append(line.number)
        return Frames.of(s for name, numbers in targets.items() for s in self._sightings(name, np.array(numbers)))

    def _sightings(self, name: str, numbers: Numbers) -> Iterator[tuple[str, Numbers, int]]:
        """Yield the targets of a clip and the frames around them, as `Frames.of` takes them."""
        clip, recording = self.clips[name], self._recording(name)
        if recording is None:
            return
        drive, first, camera = recording
        yield drive, first + numbers, camera
        there = np.array(sorted(clip.frames))
        factors = range(self._least_factor, self.supp_range[1] + 1) if self.mode == "train" else (1,)
        for offset in sorted({offset * factor for offset in self.supp_idxs if offset for factor in factors}):
            around = numbers + offset * self.frame_gap * clip.step
            yield drive, first + around[np.isin(around, there)], SUPPORT

    def _recording(self, name: str) -> tuple[str, int, int] | None:
        """Name the recording that a clip is, whatever it is called: with the number of its first frame and its camera.

        Here by the bytes of its first, middle and last picture; None when they cannot be read.
        """
        if name not in self._recordings:
            paths = [self.clips[name].frames[n] for n in sorted(self.clips[name].frames)]
            ends = [paths[0], paths[len(paths) // 2], paths[-1]] if paths else []
            try:
                marks = [f"{fingerprint(path) & (1 << 64) - 1:016x}" for path in dict.fromkeys(ends)]
            except OSError:
                marks = []
            self._recordings[name] = "clip_" + "_".join(marks) if marks else ""
        return (self._recordings[name], 0, LEFT) if self._recordings[name] else None

    @property
    def _least_factor(self) -> int:
        """What offsets of supports are multiplied by at least; 1 outside of training."""
        return self.supp_range[0] if self.mode == "train" else 1

    def load_in(self, epoch: int, index: int) -> RawItem:
        """Read item `index` with the supports that it has in an epoch of training."""
        line, factor = self.lines[index], self._least_factor
        if self.mode == "train" and self.supp_range[1] > factor and not line.problem and line.clip in self.clips:
            rng = np.random.default_rng([self.seed, epoch, index, _REACH])
            factors = [k for k in range(factor, self.supp_range[1] + 1) if k == factor or self._can_reach(line, k)]
            factor = int(rng.choice(factors))
        return self.load(index, factor)

    @abstractmethod
    def load(self, index: int, factor: int = 0) -> RawItem:
        """Read item `index`, with supports `factor` times `supp_idxs` away; 0 = the least of the mode."""

    def _offsets(self, factor: int = 0) -> list[int]:
        """Offsets of the supports of an item, without `frame_gap`."""
        return [offset * (factor or self._least_factor) for offset in self.supp_idxs]

    def _can_reach(self, line: Line, factor: int) -> bool:
        """Return whether the supports of an item exist, and validation does not read them."""
        if any(self._find(*self._support(line, offset)) is None for offset in self._offsets(factor)):
            return False
        if not self._val_every:
            return True
        if line.clip not in self._distances:
            self._distances[line.clip] = distances_to_held_out(self.clips[line.clip], self._val_every)
        reach = (1 + factor) * self.frame_gap * max(map(abs, self.supp_idxs), default=0)
        return self._distances[line.clip][line.number] > reach

    def _support(self, line: Line, offset: int) -> tuple[str, int]:
        return line.clip, line.number + offset * self.frame_gap * self.clips[line.clip].step

    def _roles(self, line: Line, factor: int = 0) -> dict[str, tuple[str, int]]:
        target = {"target": (line.clip, line.number)}
        if line.problem or line.clip not in self.clips:
            return target
        return target | {f"support {offset:+d}": self._support(line, offset) for offset in self._offsets(factor)}

    def _find(self, name: str, number: int) -> str | None:
        clip = self.clips.get(name)
        return None if clip is None else clip.frames.get(number)

    def _read(self, index: int, factor: int = 0) -> tuple[Line, NDArray[np.uint8], list[NDArray[np.uint8]]]:
        """Read target and supports of an item. Raises DataError naming a picture that is missing or broken."""
        line = self.lines[index]
        if line.problem:
            raise DataError(line.problem)
        paths = {}
        for role, (name, number) in self._roles(line, factor).items():
            path = self._find(name, number)
            if path is None:
                raise DataError(f"{role} {name}/{number} is missing. Remove the item from the split")
            paths[role] = path
        with self.stage("Image"):
            target = self._picture(paths.pop("target"))
        with self.stage("Support"):
            supports = [self._picture(path) for path in paths.values()]
        return line, target, supports

    def _native_size(self, name: str) -> tuple[int, int]:
        """Return (width, height) of the pictures of a clip, from the header of the first that has one. DataError."""
        if name not in self._sizes:
            self._sizes[name] = first_readable(picture_size, self.clips[name].frames.values())
        return self._sizes[name]


def first_readable(read: Callable[[S], T], sources: Collection[S]) -> T:
    """Read the first of `sources` that can be read. Raises the DataError of the first when none can."""
    for source in sources:
        with suppress(DataError):
            return read(source)
    return read(next(iter(sources)))


def doubt(K: NDArray[Any], size: tuple[int, int], place: str) -> str:
    """Return a note that K (3 3) seems to belong to pictures of another (width, height), or ""."""
    width, height = size
    cx, cy = K[0, 2], K[1, 2]
    if abs(cx - width / 2) < width / 4 and abs(cy - height / 2) < height / 4:
        return ""
    if abs(cy - width / 2) < width / 4 and abs(cx - height / 2) < height / 4:
        why = "Are cx and cy swapped? Then fx and fy may be, too. The order is fx fy cx cy"
    else:
        why = "Does it belong to another size? Scale it to these pictures"
    where = f"({cx:.0f}, {cy:.0f}), far from the middle of pictures of {width}x{height}"
    return f"{place}: K has its principal point at {where}. {why}"


def refuse_stereo(supp_idxs: Sequence[int], what: str) -> None:
    """Raise UserError when the stereo partner of a single camera is requested."""
    if 0 in supp_idxs:
        raise UserError(f"dataset.supp_idxs has 0, the stereo partner, but {what} is one camera. Remove it")


def refuse_hints(use_hints: bool, what: str) -> None:
    """Raise UserError when depth hints are requested of a data set without them."""
    if use_hints:
        raise UserError(f"dataset.use_hints: {what} has no depth hints. Set it to false")
