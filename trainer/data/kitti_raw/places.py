"""Find the parts of KITTI on disk: raw recordings, annotated depth, depth hints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.data.files.paths import SET_A_ROOT, Place, data_roots, find_folder, holds
from trainer.data.kitti_raw.databases import DatabaseListing
from trainer.data.kitti_raw.files import Recordings
from trainer.runtime.errors import UserError

KITTI_LICENCE = "CC BY-NC-SA 3.0: non-commercial use only"  # https://www.cvlibs.net/datasets/kitti
RAW_NAMES = ("kitti_raw_sync", "kitti_raw")
DATABASE_NAMES = ("kitti_raw_sync_lmdb", "kitti_raw_lmdb")
DEPTH_NAMES = ("kitti_depth_benchmark", "depth_benchmark", "kitti_depth")
HINTS_NAMES = ("depth_hints", "kitti_depth_hints")
_DRIVES = "[0-9]*_[0-9]*_[0-9]*/*_drive_*"
_HINTS = f"{_DRIVES}/image_0[23]/*.npy"
_ANNOTATED = "*/*_drive_*/proj_depth"  # by date, or as the official archive (train, val)
_DATABASES = f"{_DRIVES}/image_0[23]/data/data.mdb"


def find_raw(root: str | None, option: str = "dataset.root") -> Path:
    """Find the raw folder: `root`, or in it, or in the usual places. Raises UserError listing them."""
    fix = SET_A_ROOT.replace("dataset.root", option)
    return find_folder(data_roots(root, option), RAW_NAMES, _holds_drives, "KITTI raw data", fix)


def find_databases(root: str | None, option: str = "dataset.root") -> Path:
    """Find the folder of LMDB databases: `root`, or in it, or in the usual places. Raises UserError listing them."""
    fix = SET_A_ROOT.replace("dataset.root", option)
    return find_folder(data_roots(root, option), DATABASE_NAMES, holds(_DATABASES), "KITTI as LMDB databases", fix)


def find_annotated(raw: Path, depth_root: str | None, option: str = "dataset.depth_root") -> Path:
    """Find annotated depth: `depth_root` or in it, or in or beside the raw folder. Raises UserError."""
    places = _places(raw, depth_root, option)
    return find_folder(places, DEPTH_NAMES, holds(_ANNOTATED), "KITTI annotated depth", option)


def find_hints(raw: Path, hints_root: str | None, option: str = "dataset.hints_root") -> Path:
    """Find depth hints: `hints_root` or in it, or in or beside the raw folder. Raises UserError."""
    places = _places(raw, hints_root, option)
    return find_folder(places, HINTS_NAMES, holds(_HINTS), "Depth hints (dataset.use_hints)", option)


def _places(raw: Path, root: str | None, option: str) -> list[Place]:
    if root is not None:
        return data_roots(root, option)
    return [(raw, "the raw folder"), (raw.parent, "beside it")]


def _holds_drives(folder: Path) -> bool:
    return holds(_DRIVES, "*/calib_cam_to_cam.txt")(folder) and not holds(_DATABASES)(folder)


def open_recordings(
    root: str | None, depth_root: str | None = None, hints_root: str | None = None
) -> tuple[Path, Recordings]:
    """Find the raw folder and its recordings, files or databases. Raises UserError when they are missing.

    Annotated depth and hints may be absent unless they are named.
    """
    try:
        raw = find_raw(root, "--root")
    except UserError:
        databases = _or_none(find_databases, root, "--root")
        if databases is None:
            raise
        return databases, DatabaseListing(databases, Path(hints_root or databases / "depth_hints"))
    annotated = find_annotated(raw, depth_root, "--depth-root") if depth_root else _or_none(find_annotated, raw, None)
    hints = find_hints(raw, hints_root, "--hints-root") if hints_root else _or_none(find_hints, raw, None)
    return raw, Recordings(raw, annotated, hints)


def _or_none(find: Callable[..., Path], *where: Path | str | None) -> Path | None:
    try:
        return find(*where)
    except UserError:
        return None
