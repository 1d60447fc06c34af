"""The camera that a network has learned, measured over the items of a data set.

Focal lengths show in rotation alone: where the camera only moves, depth and motion make up for a wrong one (Gordon et
al., arXiv:1904.04998). A turn by w radians moves the centre of the picture by f w pixels, which another f and w explain
as well, but a point x pixels beside it by x**2 w / f more. With 10 % more focal length and 10 % less turn that part is
wrong by 20 %: this is `bend`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from trainer.geometry import in_image_sides

NAMES = ("fx", "fy", "cx", "cy")
COLUMNS = 7  # of `measure`
ERROR = 0.1  # of the focal lengths, for `bend`


@dataclass(frozen=True)
class LearnedCamera:
    """Mean and standard deviation of a learned camera over the items of a data set, the validation's in a run."""

    mean: tuple[float, ...]  # fx, fy, cx, cy in image widths and heights
    sd: tuple[float, ...]
    fov: tuple[float, ...]  # horizontal and vertical field of view, degrees
    fov_sd: tuple[float, ...]
    images: int
    bend: float  # pixels by which 10 % of the focal lengths change the motion of a corner; root mean square

    @property
    def spread(self) -> float:
        """Standard deviation over mean of the focal length that varies more."""
        return max(sd / mean for sd, mean in zip(self.sd[:2], self.mean[:2], strict=True))

    @property
    def words(self) -> str:
        """`61.2 ± 0.8 x 36.7 ± 0.5 degrees`, horizontal and vertical."""
        return " x ".join(f"{v:.1f} ± {sd:.1f}" for v, sd in zip(self.fov, self.fov_sd, strict=True)) + " degrees"

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LearnedCamera:
        """Undo `to_dict`."""
        known = {field.name: data[field.name] for field in fields(cls)}
        numbers: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in known.items()}
        return cls(**numbers)


def fields_of_view(focal: Tensor) -> Tensor:
    """Return the angles of view in degrees of focal lengths (...) in image widths or heights."""
    return torch.rad2deg(2 * torch.atan(0.5 / focal))


def measure(predictions: Mapping[str, Any], K: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Return fx, fy, cx, cy, `bend` squared, and the fx, fy of `K`, for each item (b 7); NaN for what there is not.

    Args:
        predictions: `trainer.types.Predictions` with the learned camera, or without.
        K: (b 3 3) of the data, in pixels.
        size: (width, height) of the images.
    """
    if "focal" not in predictions:
        return predictions["disp"][0].new_full((len(predictions["disp"][0]), COLUMNS), torch.nan)
    focal, centre = predictions["focal"][:, 0], predictions["centre"][:, 0]
    pitch, yaw = predictions["R"].abs().unbind(-1)[:2]  # (b m), radians
    bend = ERROR * max(size) * (yaw / (2 * focal[:, :1]) + pitch / (2 * focal[:, 1:]))
    of_data = torch.full_like(focal, torch.nan)
    if K is not None:
        of_data = in_image_sides(K.to(focal), size)[0]
    return torch.cat([focal, centre, bend.square().mean(1, keepdim=True), of_data], 1)


def summarise(table: Tensor) -> LearnedCamera | None:
    """Summarise the rows of `measure` (n 7); None when there is no finite one."""
    table = table[table[:, :5].isfinite().all(1)]
    if not len(table):
        return None
    values = torch.cat([table[:, :4], fields_of_view(table[:, :2])], 1)
    means, sds = _numbers(values.mean(0)), _numbers(values.std(0, correction=0))
    return LearnedCamera(means[:4], sds[:4], means[4:], sds[4:], len(table), math.sqrt(table[:, 4].mean()))


def true_view(table: Tensor) -> tuple[float, ...] | None:
    """Return the mean field of view of the data, horizontal and vertical, of rows of `measure`."""
    known = table[:, 5:][table.isfinite().all(1)]
    return _numbers(fields_of_view(known).mean(0)) if len(known) else None


def stretch(table: Tensor) -> float:
    """Return fx / fy over that of the data, of rows of `measure`: 2 = pixels half as wide. NaN = not known."""
    ratios = table[:, 0] / table[:, 1] * table[:, 6] / table[:, 5]
    return float(ratios[ratios.isfinite()].mean())


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(map(float, values))
