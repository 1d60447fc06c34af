"""`prepare synthetic`: drives of the synthetic data set, stored as KITTI raw recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.data.kitti_raw.writer import KittiWriter, Recording


def run(out: Path, **values: Any) -> int:
    """Write what is missing; `values` are those of `Recording`."""
    writer = KittiWriter(out, Recording(**values))
    writer.prepare()
    missing = writer.missing()
    total = writer.recording.drives * writer.recording.frames
    for moment in tqdm(missing, initial=total - len(missing), total=total, unit="frame", disable=None):
        writer.write(moment)
    split = writer.recording.split
    print(f"{out}: {total} frames, {len(missing)} of them new; splits in {out / 'splits' / split}")
    print(f"train on them with dataset.type=kitti dataset.root={out} dataset.split={split}")
    return 0
