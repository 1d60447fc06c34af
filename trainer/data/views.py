"""Further views of an item: cut from its pictures enlarged or reduced, or a permuted input of the network.

RA-Depth, arXiv:2207.11984 (`high`, `low`); BDEdepth, arXiv:2309.05254 (`crop`, `permute`). Each item draws its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models_zoo.registry import did_you_mean
from trainer.data import augment
from trainer.runtime.errors import UserError

Size = tuple[int, int]  # (width, height)
Pictures = Sequence[NDArray[np.uint8]]  # target and supports, (h w 3) each
Ranges = dict[str, Any]  # name of a view -> range of its ratio, two numbers; None = left out


@dataclass(frozen=True)
class Kind:
    """What distinguishes a view."""

    limits: tuple[float, float]  # of the ratio
    meaning: str  # of the ratio
    is_permuted: bool = False  # the pictures stay, and the input of the network is cut at a pixel
    is_recoloured: bool = False  # the network sees augmented colours, as those of the plain view
    scales_depth: bool = False  # the network ignores the zoom: depth is what it predicts times the ratio


KINDS = {
    "high": Kind((1, 4), "size of the enlarged picture, of which a part of the old size is cut"),
    "low": Kind((0.5, 1), "size of the reduced picture, whose last rows and columns are repeated up to the old size"),
    "crop": Kind((1, 4), "size of the enlarged picture, as for high", is_recoloured=True, scales_depth=True),
    "permute": Kind((0, 1), "where the input is cut, its parts changing places", is_permuted=True),
}


def checked_ranges(views: Ranges | None, where: str = "dataset.views") -> dict[str, tuple[float, float]]:
    """Return the views that are not left out. Raises UserError naming the key `where` for an unknown or odd one."""
    ranges = {}
    for name, ratio in (views or {}).items():
        if name not in KINDS:
            raise UserError(f"{where}: {name!r} is not a view. {did_you_mean(name, KINDS)}")
        least, most = KINDS[name].limits
        if ratio is None:
            continue
        pair: Any = ratio if isinstance(ratio, list | tuple) and len(ratio) == 2 else (None, None)
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in pair)
        if not (numbers and least <= pair[0] <= pair[1] <= most):
            raise UserError(
                f"{where}: {name} is the range of a ratio ({KINDS[name].meaning}): two numbers, the smaller one first,"
                f" from {least:g} to {most:g}; got {ratio}"
            )
        ranges[name] = (float(pair[0]), float(pair[1]))
    return {name: ranges[name] for name in KINDS if name in ranges}  # the order of the draws


@dataclass(frozen=True)
class Window:
    """The picture of `size` cut at `origin` from one resized to `zoomed`: (w, h), (x, y) in pixels."""

    size: Size
    zoomed: Size
    origin: tuple[int, int] = (0, 0)

    def cut(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut from a picture of size `zoomed`; a smaller one is continued with its last rows and columns, in order."""
        columns, rows = (
            np.arange(side) + start - (np.arange(side) >= have) * (side - have)
            for side, start, have in zip(self.size, self.origin, self.zoomed, strict=True)
        )
        return picture[np.ix_(rows, columns)]

    @property
    def A(self) -> NDArray[np.float64]:
        """Pixels of the plain view -> pixels of this one (3 3), without the half-pixel, as `scale_intrinsics`."""
        (w, h), (w_zoomed, h_zoomed), (x, y) = self.size, self.zoomed, self.origin
        return np.array([[w_zoomed / w, 0, -x], [0, h_zoomed / h, -y], [0, 0, 1]])


def draw(views: Mapping[str, tuple[float, float]], size: Size, rng: np.random.Generator) -> dict[str, Window]:
    """Draw the views of an item. The window of a permuted view has the pixel of the cut as its origin."""
    drawn = {}
    for name, (least, most) in views.items():
        w, h = size
        if KINDS[name].is_permuted:
            x, y = (int(side * ratio) for side, ratio in zip(size, rng.uniform(least, most, 2), strict=True))
            drawn[name] = Window(size, size, (x, y))
            continue
        ratio = rng.uniform(least, most)
        zoomed = max(int(w * ratio), w - w // 2), max(int(h * ratio), h - h // 2)  # what is repeated is there
        x, y = (int(max(have - side, 0) * rng.random()) for side, have in zip(size, zoomed, strict=True))
        drawn[name] = Window(size, zoomed, (x, y))
    return drawn


def tensors(
    drawn: Mapping[str, Window],
    pictures: Callable[[Size], Pictures],
    change: augment.Augmentation,
    with_aug: bool,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the entries of an item that describe its views (`trainer.types.Batch`).

    pictures: target and supports resized to (w, h). change: what the item undergoes; `with_aug`: network inputs are
    entries of their own, changed or not, because items of one batch carry the same keys.
    """
    for name, window in drawn.items():
        kind, key = KINDS[name], f"view_{name}_{{}}".format
        if kind.is_permuted:
            yield key("cut"), torch.tensor(window.origin)
            continue
        resized = [picture[:, ::-1] if change.flip else picture for picture in pictures(window.zoomed)]
        images = np.stack([window.cut(picture) for picture in resized])
        clean = torch.from_numpy(augment.to_planes(images))
        yield key("target"), clean[0]
        yield key("supports"), clean[1:]
        yield key("A"), _floats(window.A)
        if kind.is_recoloured and with_aug:
            yield (
                key("target_aug"),
                clean[0] if change.recolour is None else torch.from_numpy(change.recolour(images[:1]))[0],
            )
        if kind.scales_depth:
            yield key("depth_factor"), _floats(window.A[0, 0])


def _floats(numbers: Any) -> Tensor:
    return torch.from_numpy(np.array(numbers, dtype=np.float32))
