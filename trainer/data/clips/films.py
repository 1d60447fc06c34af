"""A film as clips of frames in a folder: decoded once and to its end, however often that is interrupted.

Of a film called `name` a folder holds `<name>-<clip>/<10 digits>.jpg`; `.<name>.json`, which says whose frames these
are and, after the last one, what was measured; and `.<name>.npz`, from which an interrupted run goes on. Each file is
written whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.data.clips.motion import uneven_share
from trainer.data.clips.selection import Chosen, Selection
from trainer.data.clips.sources import Source
from trainer.data.clips.survey import Survey
from trainer.data.clips.video import Film, jpeg, pixels
from trainer.runtime.errors import UserError
from trainer.runtime.files import clean_stale, make_folder, open_file, write_bytes

SAVE_EVERY = 500  # frames from one state to the next, or a tenth of those read before: states grow with the film
_PIECES, _PIECE = 16, 1 << 16  # of a digest: number, and bytes of each
_log = logging.getLogger(__name__)

Facts = Mapping[str, Any]  # of the file of a film, and how it was read


class Finished(NamedTuple):
    """A film whose frames are in a folder."""

    name: str
    facts: Facts
    survey: Survey


def finished(out: Path) -> list[Finished]:
    """List the films that were decoded to their end into a folder, by name."""
    found = []
    for manifest in sorted(out.glob(".*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(manifest.read_text())
            if content["survey"] is not None:
                found.append(Finished(manifest.name[1 : -len(".json")], content["facts"], Survey(**content["survey"])))
    return found


def pictures_of(out: Path, film: Finished, most: int) -> list[tuple[int, Path]]:
    """Choose at most so many frames, spread evenly over a film; returns the number of the clip and the file of each."""
    lengths, kept = film.survey.clips, film.survey.kept
    shown = min(most, kept)
    ends = np.cumsum([0, *lengths])
    chosen = []
    for place in [(2 * i + 1) * kept // (2 * shown) for i in range(shown)]:
        clip = int(np.searchsorted(ends, place, side="right")) - 1
        chosen.append((clip, _Home(out, film.name).place(clip, place - int(ends[clip]))))
    return chosen


def find_done(source: Source, out: Path, every: int = 1) -> Survey | None:
    """Return the survey of an earlier run that decoded the same film to its end, if all its frames still exist.

    Raises UserError when `out` has frames of another film of that name, or of another `every`.
    """
    home = _Home(out, source.name)
    if not os.path.isfile(home.manifest) or not os.path.isfile(source.path):
        return None
    try:
        content = json.loads(home.manifest.read_text())
        facts, seen = content["facts"], content["survey"]
        survey = None if seen is None else Survey(**seen)
        is_same = _is_same(source, every, facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{home.manifest} cannot be read ({error}). Remove it to decode again") from error
    if not is_same and home.clips():
        raise UserError(
            f"{out} holds frames of another {source.path.name}, or with another --every. Choose another --out, or"
            f" remove {home.manifest} and {out / source.name}-*"
        )
    if not is_same or survey is None:
        return None
    if gone := home.missing(survey):
        print(f"{source.path}: {gone} of {survey.kept} frames are no longer in {out}: decoded again")
        return None
    return survey


def surveyed(source: Source, out: Path) -> Survey:
    """Decode a film into `out` unless that has been done; return what was measured. Raises UserError as both."""
    return find_done(source, out) or decode(source, out)


class _Home:
    """The files of one film in a folder of frames."""

    def __init__(self, out: Path, name: str):
        self._out, self._name = out, name
        self.manifest, self._state = out / f".{name}.json", out / f".{name}.npz"

    def _clip(self, clip: int) -> Path:
        return self._out / f"{self._name}-{clip:03d}"

    def place(self, clip: int, number: int) -> Path:
        return self._clip(clip) / f"{number:010d}.jpg"

    def clips(self) -> list[Path]:
        """List the folders of its clips."""
        return list(itertools.takewhile(os.path.isdir, map(self._clip, itertools.count())))

    def missing(self, survey: Survey) -> int:
        """Count the frames of a survey that do not exist."""
        there = [set(os.listdir(clip)) for clip in self.clips()]
        there += [set()] * (len(survey.clips) - len(there))
        return sum(
            self.place(clip, number).name not in there[clip]
            for clip, length in enumerate(survey.clips)
            for number in range(length)
        )

    def begin(self, facts: Facts) -> Selection | None:
        """Note whose frames these will be; return how far an interrupted run came with the same film."""
        make_folder(self._out)
        for folder in (self._out, *self.clips()):
            clean_stale(folder)
        self.note(facts, None)
        try:
            with np.load(io.BytesIO(self._state.read_bytes())) as state:
                selection = Selection.restored(state) if state["facts"].tobytes() == _text(facts) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            _log.debug("%s cannot be used: %s", self._state, error)
            return None
        return None if selection is None or self.missing(selection.survey) else selection

    def note(self, facts: Facts, survey: Survey | None) -> None:
        """Write the manifest."""
        write_bytes(self.manifest, _text({"facts": facts, "survey": survey and asdict(survey)}))

    def keep(self, chosen: Sequence[Chosen]) -> None:
        """Write frames that do not exist."""
        for clip, number, frame in chosen:
            path = self.place(clip, number)
            if not os.path.isfile(path):
                make_folder(path.parent)
                write_bytes(path, jpeg(frame))

    def save(self, facts: Facts, selection: Selection) -> None:
        """Write down how far the selection has come."""
        file = io.BytesIO()
        arrays: Any = {**selection.state(), "facts": np.frombuffer(_text(facts), np.uint8)}
        np.savez(file, **arrays)
        write_bytes(self._state, file.getvalue())

    def end(self, facts: Facts, survey: Survey) -> None:
        """Note what was measured; nothing of a film without any frame."""
        if survey.read:
            self.note(facts, survey)
        else:
            self.manifest.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)


def decode(source: Source, out: Path | None, every: int = 1, tick: Callable[[], None] = lambda: None) -> Survey:
    """Decode a film into `out`, as far as an interrupted run has not, or only look at it; return what was measured.

    every: look at every n-th frame only. tick: called after each frame that is read. `find_done` comes first: it knows
    whether the frames in `out` are of another film.

    Raises UserError for a film that cannot be decoded, CannotWrite when the disk refuses.
    """
    if not os.path.isfile(source.path):
        problem = "is a folder" if os.path.isdir(source.path) else "does not exist"
        raise UserError(f"{source.path} {problem}. Name the file of a film")
    if os.path.getsize(source.path) == 0:
        raise UserError(f"{source.path} is empty: 0 bytes. Copy it again")
    home = None if out is None else _Home(out, source.name)
    with Film(source.path) as film:
        facts = _facts(source, every)
        selection = home.begin(facts) if home else None
        if selection is None:
            selection = Selection(Survey(fps=round(film.fps, 3), size=(0, 0), announced=film.announced))
        survey, times = selection.survey, list[float]()
        due = survey.read + SAVE_EVERY
        for number, frame in enumerate(_decoded(film, times, tick)):
            if number < survey.read:  # by an interrupted run
                continue
            chosen = selection.add(pixels(frame)) if number % every == 0 else []
            survey.read = number + 1
            if home:
                home.keep(chosen)
                if survey.read >= due and selection.is_settled:
                    home.save(facts, selection)
                    due = survey.read + max(SAVE_EVERY, survey.read // 10)
    left = selection.end()
    if home:
        home.keep(left)
    survey.uneven = uneven_share(times)
    survey.seconds = round(max(times) - min(times) + 1 / (film.fps or 25), 3) if times else 0.0
    if home:
        home.end(facts, survey)
    if not survey.read:
        raise UserError(f"{source.path} has no frame that can be decoded. Copy it again")
    return survey


def _decoded(film: Film, times: list[float], tick: Callable[[], None]) -> Iterator[Any]:
    """Yield the frames of a film that can be decoded, and add their times."""
    for frame in film:
        if frame is not None:
            times.append(frame.time or 0.0)
            yield frame
        tick()


def _facts(source: Source, every: int) -> Facts:
    stat = source.path.stat()
    return {
        "video": str(source.path.resolve()),
        "given": str(source.given.resolve()),
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "digest": _digest(source.path),
        "every": every,
    }


def _is_same(source: Source, every: int, facts: Facts) -> bool:
    """Return whether facts are those of a film: by size, and time and place or else pieces of its content."""
    stat = source.path.stat()
    if (facts["every"], facts["bytes"]) != (every, stat.st_size):
        return False
    untouched = (facts["video"], facts["mtime_ns"]) == (str(source.path.resolve()), stat.st_mtime_ns)
    return untouched or facts.get("digest") == _digest(source.path)


def _digest(path: Path) -> str:
    """Return a checksum of pieces spread evenly over a file, first and last included: all of a film takes minutes."""
    digest, last = hashlib.sha256(), max(0, os.path.getsize(path) - _PIECE)
    with open_file(path) as file:
        for i in range(_PIECES):
            file.seek(last * i // (_PIECES - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def _text(content: Any) -> bytes:
    return json.dumps(content).encode()
