"""KITTI raw recordings: colour stereo pairs in drives, LiDAR or annotated ground truth.

A. Geiger et al., IJRR 2013; splits of Eigen (arXiv:1406.2283) and Zhou (arXiv:1704.07813); annotated depth of
Uhrig et al. (arXiv:1708.06500). Pictures may be PNG as distributed or JPEG as Monodepth2 converts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from trainer.data import DATASETS
from trainer.data.kitti_raw.files import Frame, Recordings
from trainer.data.kitti_raw.items import DepthAlong, Intrinsics, KittiItems
from trainer.data.kitti_raw.places import KITTI_LICENCE, find_annotated, find_hints, find_raw
from trainer.data.kitti_raw.speeds import Speedometer
from trainer.data.kitti_raw.writer import KittiWriter, Recording, split_lines
from trainer.data.options import CommonOptions
from trainer.data.world.miniature import write


@DATASETS.register("kitti")
class KittiRaw(KittiItems):
    """KITTI raw drives: stereo and temporal supports, LiDAR or annotated depth.

    Args:
        root: folder that is, or contains, kitti_raw_sync or kitti_raw; null = look in the usual places.
        split: folder of split files in or beside the raw folder (`splits/<split>/<mode>_files.txt`).
        depth_root: folder of annotated depth, by date or as the official archive; null = beside `root`.
        hints_root: folder of depth hints (`<date>/<drive>/image_0<camera>/*.npy`); null = in or beside the raw folder.

    The other arguments are those of `KittiItems`.
    """

    source: ClassVar[str] = (
        "A. Geiger et al., IJRR 2013; Eigen, arXiv:1406.2283; Zhou, arXiv:1704.07813; Uhrig et al., arXiv:1708.06500"
    )
    licence = KITTI_LICENCE
    measures_speed = True

    @classmethod
    def write_miniature(cls, out: Path, arguments: Mapping[str, Any]) -> None:
        recording = Recording(drives=1, frames=5, size=(248, 75), annotated=True)
        writer = KittiWriter(out / "kitti_raw_sync", recording)
        writer.prepare()
        for moment in writer.missing():
            writer.write(moment)
        for mode, lines in split_lines(recording).items():  # beside those of other pages of KITTI
            place = writer.out / "splits" / str(arguments["split"]) / f"{mode}_files.txt"
            write(place, "".join(f"{line}\n" for line in lines).encode())

    def __init__(
        self,
        root: str | None = None,
        split: str = "eigen_zhou",
        split_file: str | None = None,
        use_benchmark: bool = False,
        depth_along: DepthAlong = "optical_axis",
        depth_root: str | None = None,
        depth_size: tuple[int, int] | None = (1242, 376),
        intrinsics: Intrinsics = "average",
        hints_root: str | None = None,
        **common: Unpack[CommonOptions],
    ):
        self._depth_root = depth_root
        super().__init__(
            root, split, split_file, use_benchmark, depth_along, depth_size, intrinsics, hints_root, **common
        )
        self._speedometer = Speedometer(self.raw)

    def check(self) -> list[str]:
        problems = super().check()
        if self.use_speed and self._frames() and not self._with_speed():
            problems.append(
                f"dataset.use_speed: no drive in {self.raw} has oxts/timestamps.txt and oxts/data, the records of the"
                " car's speed. Unpack the synced archives whole, or set it to false"
            )
        return problems

    def notes(self) -> list[str]:
        notes, without = super().notes(), len(self._frames()) - self._with_speed()
        return notes + (
            [f"{without} of {len(self)} items have no record of the speed"] if self.use_speed and without else []
        )

    def _with_speed(self) -> int:
        """Count items of drives that have records of the speed."""
        drives = Counter(frame.drive for frame in self._frames())
        return sum(count for drive, count in drives.items() if self._speedometer.knows(drive))

    def _travelled_from(self, frame: Frame) -> NDArray[Any]:
        return np.array([self._speedometer.way(frame, frame.support(i)) if i else 0.0 for i in self.supp_idxs])

    def _open(self, root: str | None, hints_root: str | None) -> Recordings:
        raw = find_raw(root)
        annotated = find_annotated(raw, self._depth_root) if self.use_depth and self.use_benchmark else None
        return Recordings(raw, annotated, find_hints(raw, hints_root) if self.use_hints else None)
