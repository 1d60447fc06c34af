"""What is usual in a data set, and remarks about a copy of it that differs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.files.splits import counted


class First(NamedTuple):
    """The first item of a data set that could be read."""

    name: str
    depth: NDArray[np.float32] | None  # (H W) metres, 0 = none
    size: tuple[int, int]  # (width, height) of its picture as stored


class Usual(NamedTuple):
    """Facts about the whole and original data; None = not known."""

    items: int | None
    size: tuple[int, int] | None  # (width, height) of its pictures
    depth: tuple[float, float]  # least and most median of the depth of a picture, metres

    def remarks(self, first: First, num_items: int) -> list[str]:
        """Say what is unusual about a copy with so many items: their number, size, and the depth of the first."""
        remarks = []
        if self.items not in (None, num_items):
            remarks.append(f"{counted(num_items, 'item')}, where the whole set has {self.items}: not to be compared")
        if self.size and first.size != tuple(self.size):
            sizes = f"{by(first.size)}, and originals are {by(self.size)}"
            remarks.append(f"{first.name} is {sizes}: published numbers are of these")
        if first.depth is not None:
            low, high = self.depth
            middle = float(np.median(first.depth[first.depth > 0])) if first.depth.any() else 0.0
            if not low <= middle <= high:
                what = f"a median depth of {middle:.3g} m" if middle else "no depth at all"
                usual = f"{low:g} to {high:g} m are usual here"
                remarks.append(f"{first.name} has {what}, where {usual}. Is dataset.depth_scale right, or depth_kind?")
        return remarks


def by(size: Any) -> str:
    """Write a size: `640x480`."""
    return f"{size[0]}x{size[1]}"
