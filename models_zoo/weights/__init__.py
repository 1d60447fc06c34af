"""Importers of published weights, one format per file; tensors get the names of this zoo.

Nothing here writes. Settings in a file are returned as plain mappings, in the words of their source.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models_zoo.registry import Registry

if TYPE_CHECKING:
    from models_zoo.weights.base import ForeignWeights

FORMATS = Registry("format of weights", package="models_zoo.weights")

# First bytes of a file of torch.save: a zip archive, or before 1.6 a pickle of any protocol.
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
SUFFIXES = (".ckpt", ".pth", ".pt", ".tar")


def is_foreign(path: Path) -> bool:
    """Return whether `path` holds weights of other code, judged by its first bytes or the files of a folder."""
    if os.path.isdir(path):  # unlike pathlib it does not raise for a name that is too long
        return any(FORMATS.create(name).recognises(path, None) for name in FORMATS.names())
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        start = file.read(9)
    return looks_pickled(start) or (path.suffix in SUFFIXES and start[8:9] != b"{")


def looks_pickled(start: bytes) -> bool:
    """Return whether the first 9 bytes of a file are those of a pickle; safetensors starts with a length, then JSON."""
    return start.startswith(PICKLES) and start[8:9] != b"{"


def read_foreign(path: Path, corrections: Mapping[str, Any] | None = None) -> ForeignWeights:
    """Recognise the format of a file or folder and translate its weights.

    Args:
        path: a file of `torch.save`, or a folder of such files.
        corrections: sections of settings ("net", "dataset", ...) that win over those of the source.

    Raises UnreadableWeights when the path is missing, damaged, refused or of no known format, or when entries are left
    over or missing.
    """
    from models_zoo.weights.base import UnreadableWeights, in_float32, listed
    from models_zoo.weights.unpickling import unpickle

    if not os.path.isfile(path) and not os.path.isdir(path):
        raise UnreadableWeights(f"{path}: no such file or folder. Check the path")
    if path.suffix == ".safetensors" and not is_foreign(path):
        raise UnreadableWeights(f"{path}: not a file of torch.save. A checkpoint of this trainer needs no translation")
    content = None if path.is_dir() else unpickle(path)
    formats = [FORMATS.create(name) for name in FORMATS.names()]
    for known in formats:
        if known.recognises(path, content):
            found = known.read(path, content, corrections or {})
            found.notes += in_float32(found.tensors, path)
            return found
    if content is None:
        inside = listed(sorted(entry.name for entry in path.iterdir()))
    else:
        inside = listed(list(content)) if isinstance(content, Mapping) else f"a {type(content).__name__}"
    raise UnreadableWeights(
        f"{path}: of no known format. Looked for:\n"
        + "\n".join(f"  - {known.looked_for}" for known in formats)
        + f"\nIt holds: {inside or 'nothing'}"
    )
