"""The camera that puts pixels into space: as given, as learned, as known of the training data, or guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from trainer.config import Config
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.data.clips.intrinsics import from_field_of_view, is_camera
from trainer.metrics.camera import LearnedCamera
from trainer.runtime.errors import UserError

GUESSED_FOV = 60.0  # degrees, horizontal: about that of a phone


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: fx, fy, cx, cy in pixels or as learned, or a horizontal field of view with square pixels."""

    fov: float = GUESSED_FOV  # degrees
    pinhole: tuple[float, float, float, float] | None = None  # wins
    learned: LearnedCamera | None = None  # wins over `fov`
    origin: str = f"guessed, {GUESSED_FOV:g} degrees of horizontal field of view"

    @property
    def is_guessed(self) -> bool:
        """Whether nothing is known."""
        return self.origin.startswith("guessed")

    def K(self, size: tuple[int, int]) -> NDArray[Any]:
        """Return intrinsics (3 3) for pictures of a size (W, H), pixel centres at integers."""
        if self.pinhole is not None:
            fx, fy, cx, cy = self.pinhole
        elif self.learned is not None:
            fx, fy, cx, cy = (share * size[i % 2] for i, share in enumerate(self.learned.mean))
        else:
            return from_field_of_view(size, self.fov)
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def camera_of(config: Config, learned: LearnedCamera | None = None) -> Camera:
    """Return the camera that a network has learned, else that of the data it trained with, else a guess of 60 degrees.

    A learned camera is one of whole pictures as they were in training, whatever their size in pixels.
    """
    if learned is not None:
        origin = f"{learned.words} of field of view, learned (mean of {learned.images} pictures)"
        return Camera(learned.fov[0], learned=learned, origin=origin)
    name, arguments = config.dataset_kwargs("train")
    fov = cast("type[DepthDataset]", DATASETS.get(name)).field_of_view(arguments)
    if fov is None:
        return Camera()
    return Camera(fov, origin=f"{fov:.4g} degrees of horizontal field of view, that of the training data")


def given_camera(fov: float | None, pinhole: tuple[float, float, float, float] | None) -> Camera | None:
    """Return the camera that a user gives, None for no word of it. Raises UserError for a camera that cannot be."""
    if pinhole is not None:
        camera = Camera(pinhole=pinhole, origin="fx, fy, cx, cy = {:g}, {:g}, {:g}, {:g}, given".format(*pinhole))
        if not is_camera(camera.K((1, 1))):
            raise UserError(f"--K: {camera.origin}: no camera has these intrinsics, in pixels")
        return camera
    if fov is not None:
        if not 5 <= fov <= 170:
            raise UserError(f"--fov must be a horizontal angle of 5 to 170 degrees, got {fov:g}")
        return Camera(fov, origin=f"{fov:g} degrees of horizontal field of view, given")
    return None
