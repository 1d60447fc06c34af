"""Choose the frames of a film that are worth training on, one after another, and cut it into clips."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.clips import motion
from trainer.data.clips.motion import Picture
from trainer.data.clips.survey import Survey

_SHORTEST = 3  # frames of a clip: a target and both neighbours
_STANDING = 0.4  # median shift below which a camera has not moved
_CUT = 0.3  # share of corners found again below which two frames show different things
_LONGEST_FLASH = 2  # frames after which the scene before must be back; else there is a cut

Chosen = tuple[int, int, Picture]  # clip and number in it, both from 0, and the frame


class _Seen(NamedTuple):
    """A frame that is looked at."""

    number: int
    frame: Picture  # (h w 3), RGB
    grey: Picture  # (h 320)


class Selection:
    """Drops frames that stand, are blank, of another size or lit by a flash; begins a clip at each cut; counts.

    survey: what it counts in. Its `state` can be kept, and `restored` goes on from there as if not interrupted.
    """

    def __init__(self, survey: Survey):
        self.survey = survey
        self._stillness = motion.Stillness()
        self._last: Picture | None = None  # grey values of the last frame that was not dropped
        self._waiting: list[Picture] = []  # frames of a clip that is too short so far
        self._doubtful: list[_Seen] = []  # frames unlike the last: a flash, or a cut
        self._length = 0  # of the clip

    def add(self, frame: Picture) -> list[Chosen]:
        """Look at frame number `survey.read` (h w 3), RGB. Returns what is chosen now, which may be earlier frames."""
        survey, grey = self.survey, motion.small_grey(frame)
        if self._last is None and not self._doubtful:
            survey.size = frame.shape[1], frame.shape[0]
        elif tuple(survey.size) != frame.shape[1::-1]:
            survey.other_size += 1
            return []
        if motion.is_blank(grey):
            survey.blank += 1
            return []
        return self._look(_Seen(survey.read, frame, grey))

    def _look(self, seen: _Seen) -> list[Chosen]:
        """Tell whether a frame continues the scene, begins another, or may be a flash, and choose by it."""
        if self._last is None:
            return self._take(seen)
        difference = motion.compare(self._last, seen.grey)
        if difference.found < _CUT:  # is it only the light?
            difference = motion.compare(self._last, motion.lit_as(self._last, seen.grey))
        if difference.found < _CUT:
            self._doubtful.append(seen)
            return self._cut() if len(self._doubtful) > _LONGEST_FLASH else []
        survey = self.survey
        survey.flashes += len(self._doubtful)
        self._doubtful = []
        if difference.shift < _STANDING:
            survey.standing += 1
            return []
        survey.shifts.append(round(difference.shift, 3))
        survey.parallaxes.append(round(difference.parallax, 3))
        survey.flicker.append(round(difference.brightness, 4))
        return self._take(seen)

    def _cut(self) -> list[Chosen]:
        """Begin a scene with the first frame in doubt, and look at the others again."""
        first, *others = self._doubtful
        self.survey.cuts += 1
        self.survey.cut_at.append(first.number)
        self.survey.too_short += len(self._waiting)
        self._length, self._waiting, self._doubtful = 0, [], []
        chosen = self._take(first)
        for seen in others:
            chosen += self._look(seen)
        return chosen

    def _take(self, seen: _Seen) -> list[Chosen]:
        """Add a frame to the clip; returns it, or all of a clip that has become long enough."""
        survey, self._last = self.survey, seen.grey
        survey.sharp.append(round(motion.sharpness(seen.grey), 2))
        survey.levels.append(round(float(seen.grey.mean())))
        if len(survey.sharp) % 4 == 1:  # as slow as the rest together
            survey.combed.append(round(motion.combing(seen.frame), 3))
        self._stillness.add(seen.grey)
        self._length += 1
        self._waiting.append(seen.frame)
        if self._length < _SHORTEST:
            return []
        if self._length == _SHORTEST:
            survey.clips.append(0)
        clip, first = len(survey.clips) - 1, survey.clips[-1]
        chosen = [(clip, first + i, entry) for i, entry in enumerate(self._waiting)]
        survey.clips[-1] += len(chosen)
        self._waiting = []
        return chosen

    def end(self) -> list[Chosen]:
        """Decide on what the end of the film leaves over; returns what is still chosen."""
        chosen: list[Chosen] = []
        while self._doubtful:
            chosen += self._cut()
        self.survey.too_short += len(self._waiting)
        self._waiting = []
        self.survey.still_share, self.survey.changing = self._stillness.share(), self._stillness.changing()
        return chosen

    @property
    def is_settled(self) -> bool:
        """Whether no frame waits for its fate, so that there is a `state`."""
        return not (self._waiting or self._doubtful) and self._last is not None

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that `restored` needs as arrays."""
        survey = np.frombuffer(json.dumps(asdict(self.survey)).encode(), np.uint8)
        return {"survey": survey, "last": np.asarray(self._last), **self._stillness.state()}

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> Selection:
        """Make the selection that had this state. Raises ValueError, KeyError or TypeError for what is none."""
        selection = cls(Survey(**json.loads(state["survey"].tobytes())))
        selection._last = state["last"]
        selection._length = selection.survey.clips[-1] if selection.survey.clips else 0
        selection._stillness.restore(state)
        return selection
