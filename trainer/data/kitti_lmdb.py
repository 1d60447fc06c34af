"""KITTI raw recordings kept as LMDB databases: a few hundred files instead of a few hundred thousand.

As `kitti` otherwise. Databases of `prepare lmdb` hold no pickles; those of earlier code do, and nothing in them is run.
"""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import Unpack

from trainer.data import DATASETS
from trainer.data.base import CommonOptions
from trainer.data.files.paths import expanded
from trainer.data.kitti_raw.databases import DatabaseListing
from trainer.data.kitti_raw.items import DepthAlong, Intrinsics, KittiItems
from trainer.data.kitti_raw.places import find_databases


@DATASETS.register("kitti_lmdb")
class KittiDatabases(KittiItems):
    """KITTI raw drives in LMDB databases: stereo and temporal supports, LiDAR or annotated depth.

    Source: Geiger et al., IJRR 2013; made with `prepare lmdb`, or by earlier code.

    Args:
        root: folder that is, or contains, kitti_raw_sync_lmdb; null = look in the usual places.
        split: folder of split files in or beside the databases (`splits/<split>/<mode>_files.txt`).
        hints_root: folder of depth hints, databases or .npy files; null = depth_hints beside the dates.

    The other arguments are those of `KittiItems`.
    """

    source: ClassVar[str] = "Geiger et al., IJRR 2013; made with `prepare lmdb`, or by earlier code"

    def __init__(
        self,
        root: str | None = None,
        split: str = "eigen_zhou",
        split_file: str | None = None,
        use_benchmark: bool = False,
        depth_along: DepthAlong = "optical_axis",
        depth_size: tuple[int, int] | None = (1242, 376),
        intrinsics: Intrinsics = "average",
        hints_root: str | None = None,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(use_benchmark, depth_along, depth_size, intrinsics, **common)
        raw = find_databases(root)
        self._attach(raw, split, split_file)
        self.listing = DatabaseListing(
            raw, expanded(hints_root or f"{raw}/depth_hints") if self.use_hints else None
        )
