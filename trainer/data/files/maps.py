"""The maps of an item in a layout: depth, where it is valid, depth edges; what is missing or does not fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.files.depth import raw_problem, read_stored, stored_size
from trainer.data.files.layout import Layout
from trainer.data.files.masks import read_edges, read_mask
from trainer.data.files.patterns import Pattern, Words
from trainer.data.files.pictures import picture_size
from trainer.data.files.splits import counted
from trainer.data.files.usual import by
from trainer.runtime.errors import DataError

_SKEW = 0.02  # difference of width over height, relative, that rounding explains


@dataclass(frozen=True)
class Maps:
    """The maps in a folder; an item is known by the words that fill the patterns of its files."""

    root: Path
    layout: Layout

    def place(self, pattern: Pattern, words: Words) -> Path:
        """Return the path of a file."""
        return self.root / pattern.fill(words)

    def depth_place(self, words: Words) -> Path:
        """Return the path of the depth map. Raises ValueError for a layout without depth."""
        if self.layout.depth is None:
            raise ValueError("this layout has no depth")
        return self.place(self.layout.depth, words)

    def depth(self, words: Words, native: tuple[int, int], fx: float | None) -> NDArray[np.float32]:
        """Read depth (H W) in metres, 0 = none, after the cut.

        native: (width, height) of the picture; fx: in its pixels, for disparities. Raises DataError for a map that does
        not belong to its picture.
        """
        layout, place = self.layout, self.depth_place(words)
        values = read_stored(place, layout.form, layout.key, native)
        height, width = values.shape
        if problem := _skewed(place, (width, height), native):
            raise DataError(problem)
        depth = layout.coding.decode(values, None if fx is None else fx * width / native[0])
        for pattern in layout.masks:
            valid = read_mask(mask := self.place(pattern, words), layout.mask_valid)
            if valid.shape != depth.shape:
                raise DataError(f"{mask}: a mask of shape {valid.shape} does not belong to depth of {depth.shape}")
            depth = np.where(valid, depth, np.float32(0))
        return depth[layout.cut.box(height, width)]

    def edges(self, words: Words, shape: tuple[int, ...] | None) -> NDArray[np.bool_] | None:
        """Read depth edges (H W) after the cut; None for a layout without. Raises DataError unless of that shape."""
        if self.layout.edges is None:
            return None
        edges = read_edges(place := self.place(self.layout.edges, words))
        kept = edges[self.layout.cut.box(*edges.shape)]
        if shape is not None and kept.shape != shape:
            raise DataError(f"{place}: edges of shape {kept.shape} do not belong to depth of {shape}. Copy both")
        return kept

    def missing(self, items: Sequence[Words], with_depth: bool) -> list[str]:
        """Say which kinds of files are missing, of how many items, and what lies in their place."""
        of_depth = () if with_depth else (self.layout.depth, *self.layout.masks)
        kinds = [(what, pattern) for what, patterns in self.layout.files().items() for pattern in patterns]
        problems = []
        for what, pattern in kinds:
            if pattern in of_depth:
                continue
            names = [pattern.fill(words) for words in items]
            absent = {name: None for name in names if not os.path.isfile(self.root / name)}
            if absent:
                count = f"{sum(name in absent for name in names)} of {counted(len(names), 'picture')}"
                problems.append(
                    f"{what} is missing for {count}, the first: {self.root / next(iter(absent))}. Expected in"
                    f" {self.root}\n{self.layout.tree()}\nfound: {pattern.found(self.root)}. Restore the files, or"
                    " correct the patterns"
                )
        return problems

    def shape_problem(self, words: Words, picture: str) -> str:
        """Say that the depth of an item has another shape than its picture, by both headers, or ""."""
        place = self.depth_place(words)
        try:
            native = picture_size(picture)
            if self.layout.form == "raw":
                return raw_problem(place, native)
            size = stored_size(place, self.layout.form)
        except DataError as error:
            return str(error)
        return _skewed(place, size, native) if size else ""


def _skewed(place: Path, size: tuple[int, int], native: tuple[int, int]) -> str:
    """Say that a map of (width, height) has another shape than its picture, or ""."""
    across, along = size[0] * native[1], size[1] * native[0]
    if abs(across - along) <= _SKEW * across:
        return ""
    return (
        f"{place} is {by(size)}, its picture {by(native)}: another shape. Is one of them turned, cut, or a wrong file?"
    )
