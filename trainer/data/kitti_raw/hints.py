"""Proxy depth of a stereo pair: semi-global matching with several settings, fused by photometric error.

J. Watson et al., "Self-Supervised Monocular Depth Hints", arXiv:1909.09051; H. Hirschmüller, "Stereo Processing by
Semiglobal Matching and Mutual Information", TPAMI 2008.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.files.arrays import read_array
from trainer.runtime.errors import DataError
from trainer.runtime.optional import require
from trainer.types import STEREO_BASELINE_UNITS

SIZE = (1024, 320)  # (width, height) of hints
SETTINGS = tuple(product((1, 2, 3), (64, 96, 128, 160)))  # block size, number of disparities
FOCAL = 0.58  # image widths; the average of KITTI (Monodepth2), as in training
PURPOSE = "Depth hints"

_C1, _C2 = 0.01**2, 0.03**2  # of SSIM, for images in [0, 1]
_NEVER = np.float32(np.inf)

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]


def depth_hints(target: Picture, partner: Picture, right: bool) -> Map:
    """Match a target with its stereo partner, both (h w 3) RGB.

    Args:
        right: the target is the right picture of the pair. Both are mirrored then: matching goes from left to right.

    Returns (h w) float32 depth in units of the 0.1 baseline, 0 = no match. Raises UserError without OpenCV.
    """
    if right:
        return np.ascontiguousarray(depth_hints(target[:, ::-1], partner[:, ::-1], False)[:, ::-1])
    target, partner = np.ascontiguousarray(target), np.ascontiguousarray(partner)
    return to_depth(fuse(target, partner, candidates(target, partner)))


def candidates(left: Picture, right: Picture) -> Iterator[Map]:
    """Yield the disparities (h w) of the left picture in pixels, not positive = no match, once per setting.

    OpenCV matches windows of 2 * (block // 2) + 1 pixels: blocks of 2 and 3 are the same to it and matched once.
    """
    for block, disparities in dict.fromkeys((block // 2 * 2 + 1, n) for block, n in SETTINGS):
        yield _matcher(block, disparities).compute(left, right).astype(np.float32) / np.float32(16)


def fuse(left: Picture, right: Picture, disparities: Iterator[Map]) -> Map:
    """Take, per pixel, the disparity that rebuilds the left picture best; 0 where no candidate is positive.

    The error is 0.85 (1 - SSIM) / 2 + 0.15 L1 between the left picture and the right one moved by the disparity.
    Candidates without a match do not take part.
    """
    image, other = _planes(left), _planes(right)
    best = np.zeros(left.shape[:2], np.float32)
    least = np.full(left.shape[:2], _NEVER)
    means, variances = _moments(image)
    for disparity in disparities:
        error = _error(image, means, variances, moved(other, disparity))
        error[disparity <= 0] = _NEVER
        better = error < least
        best[better], least[better] = disparity[better], error[better]
    return best


def to_depth(disparity: Map) -> Map:
    """Turn pixels of disparity (h w) into depth in units of the 0.1 baseline; 0 stays 0."""
    focal = FOCAL * disparity.shape[1]
    depth = np.zeros_like(disparity)
    np.divide(focal * STEREO_BASELINE_UNITS, disparity, out=depth, where=disparity > 0)
    return depth


def moved(right: Map, disparity: Map) -> Map:
    """Rebuild the left picture: sample the right one (h w c) at x - disparity, linearly, the border repeated."""
    width = right.shape[1]
    x = np.clip(np.arange(width, dtype=np.float32) - disparity, 0, width - 1)
    first = np.minimum(x.astype(np.intp), width - 2)
    rows = np.arange(right.shape[0])[:, None]
    share = (x - first)[..., None]
    rebuilt: Map = right[rows, first] * (1 - share) + right[rows, first + 1] * share
    return rebuilt


def _error(image: Map, means: Map, variances: Map, rebuilt: Map) -> Map:
    other_means, other_variances = _moments(rebuilt)
    covariances = _box(image * rebuilt) - means * other_means
    similar = (2 * means * other_means + _C1) * (2 * covariances + _C2)
    similar /= (means**2 + other_means**2 + _C1) * (variances + other_variances + _C2)
    error: Map = 0.85 * np.clip((1 - similar) / 2, 0, 1).mean(axis=2) + 0.15 * np.abs(image - rebuilt).mean(axis=2)
    return error


def _moments(image: Map) -> tuple[Map, Map]:
    """Mean and variance (h w c) of windows of 3x3 pixels."""
    means = _box(image)
    return means, _box(image * image) - means * means


def _box(image: Map) -> Map:
    """Mean of 3x3 pixels (h w c), the border mirrored without repeating it."""
    cv2 = require("cv2", "hints", PURPOSE)
    mean: Map = cv2.blur(image, (3, 3), borderType=cv2.BORDER_REFLECT_101)
    return mean


def _planes(picture: Picture) -> Map:
    return picture.astype(np.float32) / np.float32(255)


@cache
def _matcher(block: int, disparities: int) -> Any:
    cv2 = require("cv2", "hints", PURPOSE)
    return cv2.StereoSGBM_create(
        minDisparity=0, numDisparities=disparities, blockSize=block, P1=36, P2=288, preFilterCap=63,
        uniquenessRatio=10, speckleWindowSize=100, speckleRange=16,
    )  # fmt: skip


def read_hints(path: str | Path | IO[bytes], size: tuple[int, int]) -> NDArray[np.float32]:
    """Read hints (h w) of `size` (w, h), in units of the 0.1 baseline, 0 = none. Raises DataError.

    Resized by nearest neighbour as OpenCV does it: pixel i takes floor(i * source / target).
    """
    fix = "Make the depth hints of its drive again (`monodepth prepare hints`), or set use_hints: false"
    return resized_hints(read_array(path, fix), size, str(path))


def resized_hints(hints: NDArray[Any], size: tuple[int, int], place: str) -> NDArray[np.float32]:
    """Check hints and resize them to `size` (w, h) as `read_hints` does. Raises DataError naming `place`."""
    if hints.ndim != 2 or hints.dtype.kind != "f" or not hints.size:
        raise DataError(f"{place}: expected floating-point depth hints (h, w), got {hints.dtype} {hints.shape}")
    if not np.isfinite(hints).all() or hints.min() < 0:
        raise DataError(f"{place}: depth hints must be finite and at least 0. Make the depth hints again")
    rows, columns = (
        np.floor(np.arange(to) * (have / to)).astype(np.intp) for to, have in zip(size[::-1], hints.shape, strict=True)
    )
    resized: NDArray[np.float32] = hints[np.ix_(rows, columns)].astype(np.float32)
    return resized
