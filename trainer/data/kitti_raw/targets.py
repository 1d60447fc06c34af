"""Ground truth of a split as one file, for evaluation without the data set: depth maps, intrinsics, names.

`depth` holds a map (h w) in metres per item, 0 = none; `K` (b 3 3) intrinsics in its pixels; `items` (b) names. For
KITTI, `truth` describes the maps. Maps of one size are one array (b h w). Else `depth` is an array of
arrays, which NumPy stores as a pickle, or, padded, (b h w) with zeros below and to the right of each map and its `size`
(b 2) as height, width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.base import DepthDataset
from trainer.data.files.arrays import archive_bytes
from trainer.data.files.depth import read_annotated
from trainer.data.files.scans import finite_points
from trainer.data.kitti_raw.calibration import project_points
from trainer.data.kitti_raw.files import Frame, Recordings
from trainer.data.kitti_raw.items import KittiItems
from trainer.runtime.errors import DataError

Source = Literal["annotated", "lidar", "lidar-forward"]


class Target(NamedTuple):
    """Ground truth of one item."""

    depth: NDArray[np.float32]  # (h w) metres, 0 = none
    K: NDArray[np.float64]  # (3 3)
    name: str
    edges: NDArray[np.bool_] | None = None  # (h w)
    category: tuple[str, str] | None = None
    note: str = ""  # points that were left out; not stored


def usual_source(split: str) -> Source:
    """Return the customary truth of a split: annotated depth, but for Eigen's split metres ahead of the LiDAR."""
    return "lidar-forward" if split == "eigen" else "annotated"


def kitti_truth(source: Source) -> str:
    """Describe the maps of a source, as `KittiItems.truth` does."""
    along = "lidar_x" if source == "lidar-forward" else "optical_axis"
    return KittiItems.truth_of({"use_benchmark": source == "annotated", "depth_along": along})


def kitti_target(frame: Frame, recordings: Recordings, source: Source) -> Target:
    """Ground truth of a frame at the size of the recording, K from the rectified projection. Raises DataError."""
    calibration = recordings.read_calibration(frame.date)
    annotated, note = source == "annotated", ""
    place = recordings.annotated_depth(frame) if annotated else recordings.velodyne(frame)
    if place is None:
        raise DataError(f"{frame.stem} has no {'annotated depth' if annotated else 'LiDAR scan'}")
    if annotated:
        depth = read_annotated(recordings.open(place))
    else:
        points, left_out = finite_points(recordings.read_points(place))
        note = f"{place}: {left_out}" if left_out else ""
        projection, size = calibration.velodyne_to_pixels(frame.camera), calibration.sizes[frame.camera]
        depth = project_points(points, projection, size, forward=source == "lidar-forward")
    if not depth.any():
        raise DataError(f"{frame.stem} has no ground truth at all: its depth map is empty")
    height, width = depth.shape
    return Target(depth, calibration.intrinsics(frame.camera, (width, height)), frame.stem, note=note)


def dataset_target(dataset: DepthDataset, index: int) -> Target:
    """Ground truth of an item of a data set that knows intrinsics of its depth maps. Raises DataError."""
    item = dataset.load(index)
    name = dataset.describe(index)
    if item.depth is None or item.K_depth is None:
        raise DataError(f"{name} has no depth map with intrinsics")
    categories = getattr(dataset, "category", None)
    return Target(
        np.asarray(item.depth, np.float32), np.asarray(item.K_depth, np.float64), name,
        None if item.edges is None else np.asarray(item.edges, bool),
        None if categories is None else categories(index),
    )  # fmt: skip


def part_bytes(target: Target) -> bytes:
    """One target as a file of its own, for `read_part`."""
    stored = target._asdict().items()
    return archive_bytes({key: np.array(value) for key, value in stored if key != "note" and value is not None})


def read_part(path: str) -> Target:
    """Read the file of one target."""
    with np.load(path, allow_pickle=False) as part:
        category = tuple(map(str, part["category"])) if "category" in part else None
        return Target(part["depth"], part["K"], str(part["name"]), part.get("edges"), category)  # type: ignore[arg-type]


def name_of_part(path: str) -> str | None:
    """Return the name of the item in a part; None when the file is missing."""
    if not os.path.isfile(path):
        return None
    with np.load(path, allow_pickle=False) as part:
        return str(part["name"])


def assemble(targets: Sequence[Target], padded: bool) -> dict[str, NDArray[Any]]:
    """Join targets: `depth`, `K`, `items`; `edge`, `cat`, `subcat` when all have them; `size` when padded."""
    arrays: dict[str, NDArray[Any]] = {
        **_stacked([target.depth for target in targets], "depth", padded),
        "K": np.stack([target.K for target in targets]).astype(np.float32),
        "items": np.array([target.name for target in targets]),
    }
    edges = [target.edges for target in targets if target.edges is not None]
    if len(edges) == len(targets):
        arrays |= {key: value for key, value in _stacked(edges, "edge", padded).items() if key != "size"}
    categories = [target.category for target in targets if target.category is not None]
    if len(categories) == len(targets):
        arrays["cat"], arrays["subcat"] = (np.array(column) for column in zip(*categories, strict=True))
    return arrays


def _stacked(maps: Sequence[NDArray[Any]], key: str, padded: bool) -> dict[str, NDArray[Any]]:
    if len({entry.shape for entry in maps}) == 1 and not padded:
        return {key: np.stack(maps)}
    if not padded:
        objects = np.empty(len(maps), object)
        objects[:] = maps
        return {key: objects}
    sizes = np.array([entry.shape for entry in maps])
    stacked = np.zeros((len(maps), *sizes.max(axis=0)), maps[0].dtype)
    for i, entry in enumerate(maps):
        stacked[i, : entry.shape[0], : entry.shape[1]] = entry
    return {key: stacked, "size": sizes}
