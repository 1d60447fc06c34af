"""Where data sets lie on this machine: the folder given, or the first that exists among the usual places."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from trainer.types import UserError

ENVIRONMENT = "MONODEPTH_DATA"


def data_roots() -> list[tuple[Path, str]]:
    """List the folders that may hold data sets, in order, each with the name of what asked for it.

    The environment variable MONODEPTH_DATA (several separated as in PATH), then DATA_ROOTS of PATHS.yaml in
    the working directory, then ./data. Raises UserError when PATHS.yaml is there and cannot be used.
    """
    listed = [path for path in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if path]
    roots = [(Path(path).expanduser(), ENVIRONMENT) for path in listed]
    roots += [(path, "PATHS.yaml DATA_ROOTS") for path in _roots_of_file(Path("PATHS.yaml"))]
    return [*roots, (Path("data"), "working directory")]


def find_folder(
    root: str | None,
    names: Sequence[str],
    accept: Callable[[Path], bool],
    what: str,
    option: str = "dataset.root",
) -> Path:
    """Find the folder of a data set: `root` or one of `data_roots()`, itself or a folder in it called one of
    `names`.

    When `root` is given only that is looked at: a wrong path must not train on other data. `accept` tells
    whether a folder holds the data. Raises UserError listing every place looked at; `what` and `option` name
    the data and the key.
    """
    roots = [(Path(root).expanduser(), option)] if root is not None else data_roots()
    looked = []
    for base, origin in roots:
        for folder in (base, *(base / name for name in names)):
            if folder.is_dir() and accept(folder):
                return folder
            looked.append(f"  {folder.absolute()}  ({origin}{'' if folder.is_dir() else ', does not exist'})")
    raise UserError(
        f"{what} was not found. Looked at:\n"
        + "\n".join(looked)
        + f"\nSet {option}, the environment variable "
        f"{ENVIRONMENT}, or DATA_ROOTS in PATHS.yaml to a folder that is or contains {' or '.join(names)}"
    )


def _roots_of_file(path: Path) -> list[Path]:
    if not path.is_file():
        return []
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path.absolute()} is not valid YAML: {error}") from error
    roots = content.get("DATA_ROOTS", []) if isinstance(content, dict) else None
    if not isinstance(roots, list) or not all(isinstance(entry, str) for entry in roots):
        raise UserError(f"{path.absolute()}: expected DATA_ROOTS: [folder, folder, ...], got {content!r}")
    return [Path(entry).expanduser() for entry in roots]
