"""KITTI raw recordings kept as LMDB databases: a few hundred files instead of a few hundred thousand.

As `kitti` otherwise. Databases of `prepare lmdb` hold no pickles; those of earlier code do, and nothing in them is run.
"""

from __future__ import annotations

from typing import ClassVar

from trainer.data import DATASETS
from trainer.data.files.paths import expanded
from trainer.data.kitti_raw.databases import DatabaseListing
from trainer.data.kitti_raw.items import KittiItems
from trainer.data.kitti_raw.places import KITTI_LICENCE, find_databases


@DATASETS.register("kitti_lmdb")
class KittiDatabases(KittiItems):
    """KITTI raw drives in LMDB databases: stereo and temporal supports, LiDAR or annotated depth.

    Args:
        root: folder that is, or contains, kitti_raw_sync_lmdb; null = look in the usual places.
        split: folder of split files in or beside the databases (`splits/<split>/<mode>_files.txt`).
        hints_root: folder of depth hints, databases or .npy files; null = depth_hints beside the dates.

    The other arguments are those of `KittiItems`.
    """

    source: ClassVar[str] = "Geiger et al., IJRR 2013; made with `monodepth prepare lmdb`, or by earlier code"
    licence = KITTI_LICENCE

    def _open(self, root: str | None, hints_root: str | None) -> DatabaseListing:
        raw = find_databases(root)
        hints = expanded(hints_root or f"{raw}/depth_hints") if self.use_hints else None
        return DatabaseListing(raw, hints)
