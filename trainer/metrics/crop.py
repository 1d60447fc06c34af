"""Crops: the part of an image that is scored. KITTI protocols leave out sky and borders, which have no LiDAR."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Crop:
    """Bounds as fractions of the image height (top, bottom) and width (left, right)."""

    top: float = 0.0
    bottom: float = 1.0
    left: float = 0.0
    right: float = 1.0
    made_for: tuple[int, int] | None = None  # (height, width) that the source defines it for; None = any
    # (height, width) in pixels of a window that the fractions are of, at the bottom of the image and centred, as far as
    # it has so many rows and columns; None = the image
    window: tuple[int, int] | None = None

    def box(self, height: int, width: int) -> tuple[slice, slice]:
        """Return rows and columns of an image, half open; fractions are cut to whole pixels."""
        inner = self.window or (height, width)
        h, w = min(inner[0], height), min(inner[1], width)
        y, x = height - h, (width - w) // 2
        return (
            slice(y + int(self.top * h), y + int(self.bottom * h)),
            slice(x + int(self.left * w), x + int(self.right * w)),
        )

    def fits(self, size: tuple[int, ...]) -> bool:
        """Whether an image of (height, width) is one that the crop is defined for."""
        whole = self.window is None or (size[0] >= self.window[0] and size[1] >= self.window[1])
        return whole and self.made_for in (None, tuple(size))

    def mask(self, height: int, width: int) -> np.ndarray:
        """Mark the pixels inside the crop, (height width) bool."""
        mask = np.zeros((height, width), dtype=bool)
        mask[self.box(height, width)] = True
        return mask


CROPS: dict[str, Crop] = {
    "none": Crop(),
    # Garg et al., arXiv:1603.04992: what nearly all papers call "the Eigen crop".
    "garg": Crop(top=0.40810811, bottom=0.99189189, left=0.03594771, right=0.96405229),
    # The crop of Eigen et al. itself, arXiv:1406.2283; it reaches further up: not comparable.
    "eigen": Crop(top=0.3324324, bottom=0.91351351, left=0.0359477, right=0.96405229),
    # KITTI as in Marigold, arXiv:2312.02145: a window at the bottom, and the crop of Eigen et al. within it. There the
    # network sees the window alone; here it sees what the data set gives.
    "marigold": Crop(top=0.3324324, bottom=0.91351351, left=0.0359477, right=0.96405229, window=(352, 1216)),
    # Cityscapes as in ManyDepth, arXiv:2104.14540: rows 256-768, columns 192-1856. Pictures and truths without their
    # lowest quarter, 768 of 1024 rows, which a data set leaves out. Half a pixel as below.
    "cityscapes": Crop(top=256.5 / 768, left=192.5 / 2048, right=1856.5 / 2048, made_for=(768, 2048)),
    # NYU Depth v2 as in Eigen et al., arXiv:1406.2283: rows 45-471, columns 41-601 of 480 x 640; projection leaves
    # the border without truth. Half a pixel on top, so that rounding cannot lose a whole one.
    "nyu": Crop(top=45.5 / 480, bottom=471.5 / 480, left=41.5 / 640, right=601.5 / 640, made_for=(480, 640)),
}
