"""`monodepth prepare synthetic`: drives of the synthetic data set, stored as KITTI raw recordings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from trainer.data.kitti_raw.writer import KittiWriter, Recording
from trainer.tracking.progress import counting


def run(out: Path, **values: Any) -> int:
    """Write what is missing; `values` are those of `Recording`."""
    writer = KittiWriter(out, Recording(**values))
    writer.prepare()
    missing = writer.missing()
    total = writer.recording.drives * writer.recording.frames
    with counting("synthetic", total, done=total - len(missing), unit="frame") as count:
        for moment in missing:
            writer.write(moment)
            count()
    split = writer.recording.split
    print(f"{out}: {total} frames, {len(missing)} of them new; splits in {out / 'splits' / split}")
    settings = shlex.join([f"dataset.root={out}", f"dataset.split={split}"])
    print(f"train on them: monodepth train -c kitti/monodepth2_MS --set {settings}")
    return 0
