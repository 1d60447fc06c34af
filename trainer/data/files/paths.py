"""Where data sets lie on this machine: the folder given, or the first that exists among the usual places."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from trainer.runtime import yaml_text
from trainer.runtime.errors import UserError

ENVIRONMENT = "MONODEPTH_DATA"
SET_A_ROOT = f"dataset.root, the environment variable {ENVIRONMENT}, or DATA_ROOTS in PATHS.yaml"

Place = tuple[Path, str]  # a folder, and the option or variable that names it


class DataNotFound(UserError):
    """A data set that is in none of the places where it may lie."""


def data_roots(root: str | None, option: str = "dataset.root") -> list[Place]:
    """List the folders that may hold a data set, in order, each with the option or variable that names it.

    Only `root` when it is given: a wrong path must not train on other data. Else the environment variable
    MONODEPTH_DATA (several separated as in PATH), then DATA_ROOTS of PATHS.yaml in the working directory,
    then ./data. Raises UserError for an unusable PATHS.yaml.
    """
    if root is not None:
        return [(expanded(root), option)]
    listed = [path for path in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if path]
    roots = [(expanded(path), ENVIRONMENT) for path in listed]
    roots += [(path, "PATHS.yaml DATA_ROOTS") for path in _roots_of_file(Path("PATHS.yaml"))]
    return [*roots, (Path("data"), "working directory")]


def expanded(path: str) -> Path:
    """Expand `~` and `~name` to home folders; unknown users stay as they are."""
    return Path(os.path.expanduser(path))


def cache_folder(name: str) -> Path:
    """Return a folder for what may be deleted: `$XDG_CACHE_HOME/monodepth_trainer/<name>`, or that in ~/.cache.

    Raises RuntimeError for a user without a home.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "monodepth_trainer" / name


def find_folder(
    roots: Sequence[Place], names: Sequence[str], accept: Callable[[Path], bool], what: str, fix: str
) -> Path:
    """Find the first folder that holds a data set: of each of `roots` a folder in it called one of `names`, or itself.

    `accept` returns whether a folder holds the data. Raises DataNotFound that `what` was not found, with every place
    that was searched and the advice to set `fix`.
    """
    looked = []
    for base, origin in roots:
        for folder in (*(base / name for name in names), base):
            is_there = os.path.isdir(folder)  # unlike Path.is_dir, no error where one may not look
            if is_there and accept(folder):
                return folder
            state = "holds none" if is_there else "does not exist"
            looked.append(f"  {folder.absolute()}  ({origin}; {state})")
    advice = f"Set {fix} to a folder that is or contains {' or '.join(names)}"
    raise DataNotFound("\n".join([f"{what} was not found. Looked at:", *looked, advice]))


def holds(*patterns: str) -> Callable[[Path], bool]:
    """Make an `accept` of `find_folder`: whether a folder has a file or folder of one of these glob patterns."""
    return lambda folder: any(path for pattern in patterns for path in folder.glob(pattern))


def _roots_of_file(path: Path) -> list[Path]:
    if not os.path.isfile(path):
        return []
    try:
        content = yaml_text.load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path.absolute()} cannot be read as YAML: {reason}") from error
    roots = content.get("DATA_ROOTS", []) if isinstance(content, dict) else None
    if not isinstance(roots, list) or not all(isinstance(entry, str) for entry in roots):
        raise UserError(f"{path.absolute()}: expected DATA_ROOTS: [folder, folder, ...], got {content!r}")
    return [expanded(entry) for entry in roots]
