"""The outputs of a run: which files there will be, which exist already, films that grow frame by frame."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from models_zoo.registry import did_you_mean
from trainer.predict.colours import Limits
from trainer.predict.depthmap import KINDS, NEED_PICTURE, PAINTERS, DepthMap, Look, ends, suffix_of, write
from trainer.predict.filmwriter import FilmWriter
from trainer.predict.sources import DIGITS, Item, Pictures, Source
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder
from trainer.runtime.optional import require

MARKED = {*PAINTERS, "gray16"}  # kinds that share a suffix, so that they stand in the name


def path_of(folder: Path, name: str, kind: str) -> Path:
    """Return the file for the output `kind` of the frame `name`."""
    return folder / f"{name}{f'_{kind}' if kind in MARKED else ''}{suffix_of(kind)}"


def kinds_of(words: Sequence[str], default: str) -> list[str]:
    """Read `--save`: names, or several of them with commas. Raises UserError for an unknown one."""
    kinds = [kind for word in words for kind in word.split(",") if kind] or [default]
    for kind in kinds:
        if kind not in (*KINDS, "video"):
            raise UserError(f"--save {kind!r} is no kind of output. {did_you_mean(kind, (*KINDS, 'video'))}")
    return list(dict.fromkeys(kinds))


def shows_colours(kinds: Sequence[str]) -> bool:
    """Return whether any of the kinds is a picture or a film to look at."""
    return bool({"video", *PAINTERS} & {*kinds})


class Outputs(AbstractContextManager["Outputs"]):
    """Everything that is written for the frames of a source, in one folder. Use it in a `with` block.

    Args:
        kinds: see `kinds_of`. "video" makes films of those that are pictures to look at, of `color` without any.
        skip: leave out frames all of whose files exist.
        force: replace files that exist.

    Raises UserError when files exist and neither is chosen, and when one is an input.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        kinds: Sequence[str],
        *,
        legend: bool = True,
        force: bool = False,
        skip: bool = False,
    ):
        self._folder, self._source, self._skip = folder, source, skip
        self._legend = legend
        shown = [kind for kind in kinds if kind in PAINTERS]
        self._films = {kind: folder / f"{source.label}_{kind}.mp4" for kind in shown or ["color"] if "video" in kinds}
        self._kinds = [kind for kind in kinds if kind not in self._films and kind != "video"]
        if self._films:
            require("av", "video", "Writing films")
        self.shows_colours = shows_colours(kinds)
        self.needs_picture = bool(NEED_PICTURE & {*self._films, *self._kinds})
        self._writers: dict[str, FilmWriter] = {}
        self._stack = ExitStack()
        self._limits: Limits | None = None
        self._texts: dict[str, str] = {}
        self._check(force)

    def __enter__(self) -> Outputs:
        make_folder(self._folder)
        return self

    @property
    def films(self) -> list[Path]:
        """The films that are written."""
        return list(self._films.values())

    def missing(self, items: Iterator[Item]) -> Iterator[Item]:
        """Leave out what exists, where that is asked for."""
        for item in items:
            if not (self._skip and not self._films and all(os.path.exists(p) for p in self._paths(item.name).values())):
                yield item

    def draw(self, name: str, result: DepthMap, limits: Limits) -> list[Image.Image]:
        """Write the files of a frame; return its pictures for the films. May be called by several threads."""
        look = Look(limits, self._legend)
        for kind, path in self._paths(name).items():
            if "/" in name:
                make_folder(path.parent)
            write(result, kind, path, look)
        if self._films and not self._texts:
            self._texts = {"quantity": "disparity", **ends(limits), **result.texts}
        return [PAINTERS[kind](result, look) for kind in self._films]

    def add(self, pictures: Sequence[Image.Image], item: Item) -> None:
        """Add the pictures of the next frame to the films."""
        for (kind, path), picture in zip(self._films.items(), pictures, strict=True):
            if kind not in self._writers:
                writer = FilmWriter(path, picture.size, self._source.fps, self._texts)
                self._writers[kind] = self._stack.enter_context(writer)
            self._writers[kind].write(picture, item.time, item.duration)

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def _paths(self, name: str) -> dict[str, Path]:
        return {kind: path_of(self._folder, name, kind) for kind in self._kinds}

    def _check(self, force: bool) -> None:
        """Raise UserError for outputs that are inputs, and for those that exist."""
        if isinstance(self._source, Pictures):
            planned = [path for name in self._source.names for path in self._paths(name).values()]
            existing = [path for path in (*planned, *self.films) if os.path.exists(path)]
        else:
            number = "[0-9]" * DIGITS
            label = glob.escape(self._source.label)
            patterns = [path_of(Path(), f"{label}_{number}", kind).name for kind in self._kinds]
            existing = [path for pattern in patterns for path in self._folder.glob(pattern)]
            existing += [path for path in self.films if os.path.exists(path)]
            planned = existing
        inputs = {os.path.realpath(path) for path in self._source.inputs}
        for path in (*planned, *self.films):
            if os.path.realpath(path) in inputs:
                raise UserError(f"{path}: would replace a picture that is read. Choose another folder with --out")
        if existing and not force and not self._skip:
            count = (
                f"{len(existing)} outputs exist, {existing[0]} among them" if existing[1:] else f"{existing[0]}: exists"
            )
            raise UserError(
                f"{count}. --force replaces what exists, --skip-existing makes only what is missing,"
                " --out names another folder"
            )
        if self._films and self._skip and existing:
            done = [path for path in self.films if path in existing]
            if done:
                raise UserError(f"{done[0]}: exists, and a film is made as a whole. Use --force to replace it")
