"""From what depth files store to metres, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["depth", "inverse", "disparity"]


@dataclass(frozen=True)
class DepthCoding:
    """What the numbers of a depth file mean: (value + offset) / scale is depth, inverse depth or disparity.

    `decode(encode(depth))` is depth again, but for the rounding of `encode` to whole numbers.
    """

    scale: float = 1.0  # values per metre, per 1/metre, or per pixel
    offset: float = 0.0
    kind: Kind = "depth"  # metres; 1/metres; pixels between the pictures of a stereo pair
    invalid: tuple[float, ...] = (0.0,)  # values, before the offset, that mean none; NaN always does
    baseline: float = 1.0  # metres between the cameras of a disparity

    def decode(self, values: NDArray[Any], focal: float | None = None) -> NDArray[np.float32]:
        """Return depth, the shape of `values`, in metres; 0 = none.

        focal: fx in pixels of the map, which disparities need.
        """
        stored = values.astype(np.float32)
        known = ~(np.isin(stored, np.asarray(self.invalid, np.float32)) | np.isnan(stored))
        depth = (stored + np.float32(self.offset)) / np.float32(self.scale) if self._is_scaled else stored
        if self.kind != "depth":
            known &= depth > 0
            factor = np.float32(self._factor(focal))
            depth = np.divide(factor, depth, out=np.zeros_like(depth), where=known)
        return np.where(known, depth, np.float32(0))

    def encode(self, depth: NDArray[Any], focal: float | None = None, whole: bool = False) -> NDArray[Any]:
        """Return the values that stand for depth in metres, 0 = none: float32, or uint16 where `whole`."""
        known = depth > 0
        safe = np.where(known, depth, 1.0).astype(np.float64)
        quantity = safe if self.kind == "depth" else self._factor(focal) / safe
        values = quantity * self.scale - self.offset if self._is_scaled else quantity
        none = next((value for value in self.invalid if np.isfinite(value) or not whole), 0.0)
        values = np.where(known, values, none)
        return np.rint(values).astype(np.uint16) if whole else values.astype(np.float32)

    @property
    def _is_scaled(self) -> bool:
        return self.scale != 1 or self.offset != 0

    def _factor(self, focal: float | None) -> float:
        """Return what is divided by the stored quantity."""
        if self.kind == "inverse":
            return 1.0
        if focal is None:
            raise ValueError("a disparity needs the focal length of its camera")
        return focal * self.baseline
