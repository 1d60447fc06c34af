"""Choose the frames of a film that are worth training on, one after another, and cut it into clips."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.clips import motion
from trainer.data.clips.motion import Picture
from trainer.data.clips.survey import Survey

_SHORTEST = 3  # frames of a clip: a target and both neighbours
_STANDING = 0.4  # median shift below which a camera has not moved
_CUT = 0.3  # share of corners found again below which two frames show different things

Chosen = tuple[int, int, Picture]  # clip and number in it, both from 0, and the frame


class Selection:
    """Drops frames that stand, are blank or of another size, begins a clip at each cut, and counts in `survey`.

    Its `state` can be kept, and `restored` goes on from there as if it had not been interrupted.
    """

    def __init__(self, survey: Survey):
        self.survey = survey
        self._stillness = motion.Stillness()
        self._last: Picture | None = None  # grey values of the last frame that was not dropped
        self._waiting: list[Picture] = []  # frames of a clip that is too short so far
        self._length = 0  # of the clip

    def add(self, frame: Picture) -> list[Chosen]:
        """Look at frame number `survey.read` (h w 3), RGB. Returns what is chosen now, which may be earlier frames."""
        survey, grey = self.survey, motion.small_grey(frame)
        if self._last is None:
            survey.size = frame.shape[1], frame.shape[0]
        elif tuple(survey.size) != frame.shape[1::-1]:
            survey.other_size += 1
            return []
        if motion.is_blank(grey):
            survey.blank += 1
            return []
        if self._last is not None and not self._goes_on(self._last, grey):
            return []
        self._last = grey
        survey.sharp.append(round(motion.sharpness(grey), 2))
        survey.levels.append(round(float(grey.mean())))
        if len(survey.sharp) % 4 == 1:  # as slow as the rest together
            survey.combed.append(round(motion.combing(frame), 3))
        self._stillness.add(grey)
        self._length += 1
        self._waiting.append(frame)
        if self._length < _SHORTEST:
            return []
        if self._length == _SHORTEST:
            survey.clips.append(0)
        clip, first = len(survey.clips) - 1, survey.clips[-1]
        chosen = [(clip, first + i, entry) for i, entry in enumerate(self._waiting)]
        survey.clips[-1] += len(chosen)
        self._waiting = []
        return chosen

    def _goes_on(self, last: Picture, grey: Picture) -> bool:
        """Compare a frame with the last one, and begin a clip at a cut. False when the camera stands."""
        survey, difference = self.survey, motion.compare(last, grey)
        if difference.found < _CUT:
            survey.cuts += 1
            survey.cut_at.append(survey.read)
            survey.too_short += len(self._waiting)
            self._length, self._waiting = 0, []
        elif difference.shift < _STANDING:
            survey.standing += 1
            return False
        else:
            survey.shifts.append(round(difference.shift, 3))
            survey.parallaxes.append(round(difference.parallax, 3))
            survey.flicker.append(round(difference.brightness, 4))
        return True

    def end(self) -> None:
        """Count what the end of the film leaves over."""
        self.survey.too_short += len(self._waiting)
        self._waiting = []
        self.survey.still_share, self.survey.changing = self._stillness.share(), self._stillness.changing()

    @property
    def is_settled(self) -> bool:
        """Whether no frame waits for its fate, so that there is a `state`."""
        return not self._waiting and self._last is not None

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
