"""Open KITTI recordings of any kind for the jobs that look at all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.data.kitti_raw.databases import DatabaseListing
from trainer.data.kitti_raw.files import Listing, Recordings
from trainer.data.kitti_raw.places import find_annotated, find_databases, find_hints, find_raw
from trainer.types import UserError


def open_recordings(
    root: str | None, depth_root: str | None = None, hints_root: str | None = None
) -> tuple[Path, Recordings]:
    """Find recordings, files or databases, with what belongs to them.

    Annotated depth and hints that nobody named may be absent. Returns the raw folder and what is in it. Raises
    UserError when there are no recordings.
    """
    try:
        raw = find_raw(root, "--root")
    except UserError:
        databases = _unless_absent(lambda: find_databases(root, "--root"))
        if databases is None:
            raise
        return databases, DatabaseListing(databases, Path(hints_root or databases / "depth_hints"))
    annotated = find_annotated(raw, depth_root, "--depth-root") if depth_root else None
    hints = find_hints(raw, hints_root, "--hints-root") if hints_root else None
    return raw, Listing(
        raw,
        annotated or _unless_absent(lambda: find_annotated(raw, None)),
        hints or _unless_absent(lambda: find_hints(raw, None)),
    )


def _unless_absent(find: Callable[[], Path]) -> Path | None:
    try:
        return find()
    except UserError:
        return None
