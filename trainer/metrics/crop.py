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

    def box(self, height: int, width: int) -> tuple[slice, slice]:
        """Return rows and columns of an image, half open; fractions are cut to whole pixels."""
        return (
            slice(int(self.top * height), int(self.bottom * height)),
            slice(int(self.left * width), int(self.right * width)),
        )

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
    # NYU Depth v2 as in Eigen et al., arXiv:1406.2283: rows 45-471, columns 41-601 of 480 x 640; projection leaves
    # the border without truth. Half a pixel on top, so that rounding cannot lose a whole one.
    "nyu": Crop(top=45.5 / 480, bottom=471.5 / 480, left=41.5 / 640, right=601.5 / 640, made_for=(480, 640)),
    # Cityscapes as in ManyDepth, arXiv:2104.14540: of pictures that have lost their lowest quarter, without the bonnet.
    "cityscapes": Crop(top=256 / 768, left=192.5 / 2048, right=1856.5 / 2048, made_for=(768, 2048)),
}
