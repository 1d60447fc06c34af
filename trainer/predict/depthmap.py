"""Depth of one picture, with what its numbers mean: to look at, to compute with, to save."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer import __version__
from trainer.predict.camera import Camera
from trainer.predict.colours import Limits, coloured, limits_of, with_legend
from trainer.predict.scale import Scale, Unit


@dataclass(frozen=True, eq=False, repr=False)
class DepthMap:
    """Depth of one picture, at its size.

    Args:
        disparity: 1 / depth (H W), positive.
        scale: what the numbers mean.
        picture: what it was predicted from (H W), RGB; needed to draw it and to colour points.
        model: SHA-256 of the checkpoint, "" = not known.
        camera: puts the pixels into space.
    """

    disparity: NDArray[np.float32]
    scale: Scale
    picture: Image.Image | None = None
    model: str = ""
    camera: Camera = field(default_factory=Camera)

    @property
    def depth(self) -> NDArray[np.float32]:
        """Depth along the optical axis (H W), in `unit`."""
        return np.reciprocal(self.disparity)

    @property
    def unit(self) -> Unit:
        """Unit of depth: "m", or "relative" where only ratios of depths mean something."""
        return self.scale.unit

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.disparity.shape
        return width, height

    @property
    def texts(self) -> dict[str, str]:
        """What goes into the metadata of every file: unit of depth, scale and its origin, the model."""
        return {
            "unit": self.unit,
            "scale": f"{self.scale.factor:.9g}",
            **({} if self.scale.exponent == 1 else {"scale_exponent": f"{self.scale.exponent:.9g}"}),
            "scale_origin": self.scale.origin,
            "model_sha256": self.model,
            "Software": f"monodepth {__version__}",
        }

    def colored(self, limits: Limits | None = None, *, legend: bool = True) -> Image.Image:
        """Colour the disparity, red = near, with a bar of unit and range below, if it is wide enough.

        limits: disparities at the far and near end of the colours; None = 2nd and 98th percentile.
        """
        limits = limits or limits_of(self.disparity)
        picture = coloured(self.disparity, limits)
        return with_legend(picture, limits, self.scale) if legend else picture

    def save(self, path: str | Path, kind: str | None = None) -> None:
        """Save in the format of the suffix: .png (colours), .npz, .npy or .ply.

        kind: one of `trainer.predict.outputs.KINDS` of that suffix, e.g. "gray16" or "overlay"; None = the usual one.

        Raises UserError for another suffix, CannotWrite when the disk refuses.
        """
        from trainer.predict.outputs import save  # which draws what is in here

        save(self, Path(path), kind)

    def __repr__(self) -> str:
        width, height = self.size
        unit = " m" if self.unit == "m" else ", relative depth"
        near, far = 1 / float(self.disparity.max()), 1 / float(self.disparity.min())
        return f"DepthMap({width}x{height}, {near:.3g} to {far:.3g}{unit})"
