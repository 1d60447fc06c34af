"""A data set of noise, its shards in a folder, and both readers of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.clips import noise_frame
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.data.shards.gathering import gathered
from trainer.data.shards.index import to_files
from trainer.data.shards.writing import in_order, planned, write_shard

SIZE = (32, 16)


def folder(root: Path, frames: int = 14, **options: Any) -> DepthDataset:
    """Frames 0, 1, ... of one clip; every frame that has both neighbours is an item."""
    for i in range(frames):
        if not (path := root / "clip" / f"{i:04d}.png").exists():
            noise_frame(path, i)
    given: dict[str, Any] = {"size": SIZE, "val_every": 0, "fov": 60.0, **options}
    dataset: DepthDataset = DATASETS.create("folder", path=str(root), **given)
    return dataset


def write(dataset: DepthDataset, out: Path, shard_bytes: int = 20_000) -> Path:
    """Write the shards of a data set as `prepare shards` does; 20 kB hold three items of `folder`."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [write_shard(dataset, plan, out) for plan in planned(dataset, in_order(dataset), shard_bytes, "made")]
    described, tables = to_files(gathered(dataset, parts, {"type": "made", "split": None}))
    (out / f"{dataset.mode}.json").write_bytes(described)
    (out / f"{dataset.mode}.npz").write_bytes(tables)
    return out


def sharded(path: object, **options: Any) -> Any:
    """Read shards at a path or URL."""
    return DATASETS.create("shards", path=str(path), **{"size": SIZE, **options})
