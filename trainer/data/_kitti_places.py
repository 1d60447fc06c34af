"""Where the parts of KITTI lie: raw recordings, annotated depth, depth hints, split files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from models_zoo.registry import did_you_mean
from trainer.data._paths import SET_A_ROOT, Place, data_roots, find_folder
from trainer.types import UserError

RAW_NAMES = ("kitti_raw_sync", "kitti_raw")
DATABASE_NAMES = ("kitti_raw_sync_lmdb", "kitti_raw_lmdb")
DEPTH_NAMES = ("kitti_depth_benchmark", "depth_benchmark", "kitti_depth")
HINTS_NAMES = ("depth_hints", "kitti_depth_hints")
_SPLIT_FOLDERS = ("splits", "../splits", "../kitti_splits")  # seen from the raw folder


def find_raw(root: str | None, option: str = "dataset.root") -> Path:
    """Find the raw folder: `root`, or in it, or in the usual places. Raises UserError listing them."""
    fix = SET_A_ROOT.replace("dataset.root", option)
    return find_folder(data_roots(root, option), RAW_NAMES, holds_drives, "KITTI raw data", fix)


def find_databases(root: str | None, option: str = "dataset.root") -> Path:
    """Find the folder of LMDB databases: `root`, or in it, or in the usual places. Raises UserError listing them."""
    fix = SET_A_ROOT.replace("dataset.root", option)
    return find_folder(
        data_roots(root, option), DATABASE_NAMES, holds_databases, "KITTI as LMDB databases", fix
    )


def find_annotated(raw: Path, depth_root: str | None, option: str = "dataset.depth_root") -> Path:
    """Find annotated depth: `depth_root` or in it, or in or beside the raw folder. Raises UserError."""
    places = _places(raw, depth_root, option)
    return find_folder(places, DEPTH_NAMES, holds_annotated_depth, "KITTI annotated depth", option)


def find_hints(raw: Path, hints_root: str | None, option: str = "dataset.hints_root") -> Path:
    """Find depth hints: `hints_root` or in it, or in or beside the raw folder. Raises UserError."""
    places = _places(raw, hints_root, option)
    return find_folder(places, HINTS_NAMES, holds_hints, "Depth hints (dataset.use_hints)", option)


def _places(raw: Path, root: str | None, option: str) -> list[Place]:
    if root is not None:
        return data_roots(root, option)
    return [(raw, "the raw folder"), (raw.parent, "beside it")]


def find_split(raw: Path, split: str, mode: str) -> Path:
    """Find `<split>/<mode>_files.txt` in the splits folder in or beside the raw folder.

    Raises UserError naming the places looked at, and the splits that are there.
    """
    folders = [Path(os.path.normpath(raw / folder)) for folder in _SPLIT_FOLDERS]
    for folder in folders:
        path = folder / split / f"{mode}_files.txt"
        if path.is_file():
            return path
    known = {
        f"{found.parent.name} ({found.name})" for folder in folders for found in folder.glob("*/*_files.txt")
    }
    raise UserError(
        f"dataset.split {split!r} has no {mode}_files.txt. Looked in {', '.join(map(str, folders))}. "
        f"{did_you_mean(f'{split} ({mode}_files.txt)', known)}. Or name a file with dataset.split_file"
    )


def list_splits(raw: Path, folder: Path | None = None) -> list[tuple[str, str, Path]]:
    """List (split, mode, file) of every `<split>/<mode>_files.txt` in `folder`, or else in or beside the raw folder."""
    folders = [folder] if folder else [Path(os.path.normpath(raw / name)) for name in _SPLIT_FOLDERS]
    found: dict[tuple[str, str], Path] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*/*_files.txt"))):
        found.setdefault((path.parent.name, path.name.removesuffix("_files.txt")), path)
    return [(split, mode, path) for (split, mode), path in found.items()]


def choose_splits(raw: Path, names: Sequence[str] | None, folder: Path | None) -> list[tuple[str, str, Path]]:
    """List the split files (`list_splits`) of the splits called `names`, all for None. Raises UserError for none."""
    splits = list_splits(raw, folder)
    known = {split for split, _, _ in splits}
    for name in names or ():
        if name not in known:
            raise UserError(
                f"--splits {name!r} is not there. {did_you_mean(name, known)}. Or give --splits-dir"
            )
    if not splits:
        raise UserError(
            f"no <split>/<mode>_files.txt in {folder or f'splits in or beside {raw}'}. Give --splits-dir"
        )
    return [entry for entry in splits if names is None or entry[0] in names]


def holds_drives(folder: Path) -> bool:
    """Tell whether `folder` is a KITTI raw folder: date folders with drives or calibration files in them."""
    drives = any(folder.glob("[0-9]*_[0-9]*_[0-9]*/*_drive_*")) or any(folder.glob("*/calib_cam_to_cam.txt"))
    return drives and not holds_databases(folder)


def holds_databases(folder: Path) -> bool:
    """Tell whether `folder` holds KITTI pictures as LMDB databases."""
    return any(folder.glob("[0-9]*_[0-9]*_[0-9]*/*_drive_*/image_0[23]/data/data.mdb"))


def holds_annotated_depth(folder: Path) -> bool:
    """Tell whether `folder` holds annotated depth, by date or as the official archive (train, val)."""
    return any(folder.glob("*/*_drive_*/proj_depth"))


def holds_hints(folder: Path) -> bool:
    """Tell whether `folder` holds depth hints: drives by date, with a folder per camera."""
    return any(folder.glob("[0-9]*_[0-9]*_[0-9]*/*_drive_*/image_0[23]/*.npy"))
