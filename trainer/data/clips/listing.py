"""Clips and items of pictures that a pattern finds: all of them, or those of a list."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainer.data.clips.clips import Clip, Line, clip_of, natural
from trainer.data.files.layout import Layout
from trainer.data.files.patterns import Words
from trainer.data.files.splits import read_rows, shown
from trainer.runtime.errors import UserError


def clips_by_folder(root: Path, pictures: Iterable[str]) -> dict[str, Clip]:
    """Make a clip of the pictures of each folder, called by its path; `pictures` are paths below `root`."""
    folders: dict[str, list[str]] = {}
    for name in pictures:
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, []).append(file)
    return {name: clip_of(name, root / name, folders[name]) for name in sorted(folders, key=natural)}


def read_item_list(path: Path, root: Path, layout: Layout, clips: Mapping[str, Clip]) -> list[tuple[Line, Words]]:
    """Read the list of items of a layout: each with the words of its line; a bad line has its problem.

    Raises UserError when the file is missing or empty.
    """
    line_text = layout.list_line.text if layout.list_line else f"the path of a picture, {layout.images}"
    if not os.path.isfile(path):
        raise UserError(
            f"{path} is missing: the items in their order, one a line, each {line_text}. Write it, or set"
            " dataset.list_file"
        )
    places = {picture: (name, n) for name, clip in clips.items() for n, picture in clip.frames.items()}
    items: list[tuple[Line, Words]] = []
    for row, text in read_rows(path, line_text):
        place, words = f"{path}:{row}", layout.words_of_line(text)
        picture = str(root / layout.images.fill(words)) if words is not None else ""
        clip, number = places.get(picture, ("", 0))
        problem = "" if picture in places else f"there is no {picture}" if picture else f"expected {line_text}"
        items.append((Line(place, clip, number, f"{place}: {shown(text)}: {problem}" if problem else ""), words or {}))
    return items
