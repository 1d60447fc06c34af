"""The frames that weights were trained on, as a checkpoint stores them: what no evaluation may score.

Metadata `trained_on` is JSON: the lists with their digests, and the frames of each drive as ranges of numbers. Where
pictures are known by their bytes alone, their sorted hashes are the tensor `trained_on.pictures`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.checkpoint import safefile
from trainer.checkpoint.schema import reading
from trainer.data.files.frames import LEFT, RIGHT, SUPPORT, FrameList, Frames, Numbers, from_ranges, to_ranges

KEY, PICTURES = "trained_on", "trained_on.pictures"
_ROLES = {"left": LEFT, "right": RIGHT, "supports": SUPPORT}


@dataclass(frozen=True)
class TrainedOn:
    """Frames of a training, and of those before it that it started from."""

    lists: tuple[FrameList, ...] = ()
    frames: Frames = field(default_factory=Frames)
    pictures: Numbers = field(default_factory=lambda: np.empty(0, np.int64))  # hashes, sorted
    is_whole: bool = True  # False: it started from weights whose frames are not known
    is_declared: bool = False  # told by a user, not by the training

    def __or__(self, other: TrainedOn) -> TrainedOn:
        """Join two trainings."""
        return TrainedOn(
            tuple(dict.fromkeys((*self.lists, *other.lists))),
            Frames.union((self.frames, other.frames)),
            np.union1d(self.pictures, other.pictures),
            self.is_whole and other.is_whole,
            self.is_declared or other.is_declared,
        )

    def pack(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return what a file holds of it: tensors and metadata."""
        data = {
            "lists": [asdict(entry) for entry in self.lists],
            **{
                name: {drive: to_ranges(numbers) for drive, numbers in self._held(role).items()}
                for name, role in _ROLES.items()
            },
            "pictures": len(self.pictures),
            "whole": self.is_whole,
            "declared": self.is_declared,
        }
        tensors = {PICTURES: torch.from_numpy(self.pictures)} if len(self.pictures) else {}
        return tensors, {KEY: json.dumps(data)}

    def _held(self, role: int) -> dict[str, Numbers]:
        """Frames of a role; as supports, those that are no targets."""
        found = self.frames.only(role)
        if role != SUPPORT:
            return found
        targets = self.frames.only(LEFT | RIGHT)
        alone = {d: np.setdiff1d(n, targets[d], assume_unique=True) if d in targets else n for d, n in found.items()}
        return {drive: numbers for drive, numbers in alone.items() if len(numbers)}


def unpack(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> TrainedOn | None:
    """Read what `TrainedOn.pack` wrote in the file `path`; None without it. Raises DamagedFile for anything else."""
    if KEY not in metadata:
        return None
    with reading(path, "list of training frames"):
        data = json.loads(metadata[KEY])
        frames = Frames.of(
            (drive, from_ranges(text), role) for name, role in _ROLES.items() for drive, text in data[name].items()
        )
        pictures = tensors[PICTURES].numpy() if PICTURES in tensors else np.empty(0, np.int64)
        shape = (data["pictures"],)
        if pictures.dtype != np.int64 or pictures.shape != shape or (pictures[1:] <= pictures[:-1]).any():
            raise ValueError(f"{PICTURES} is {pictures.dtype} of shape {pictures.shape}")
        lists = tuple(FrameList(str(e["name"]), str(e["digest"]), int(e["items"])) for e in data["lists"])
        return TrainedOn(lists, frames, pictures, bool(data["whole"]), bool(data["declared"]))


def read_trained_on(path: Path) -> TrainedOn | None:
    """Read it from a checkpoint, whose tensors are read only for pictures. Raises DamagedFile and UserError."""
    metadata = safefile.read_metadata(path)
    with reading(path, "list of training frames"):
        has_pictures = json.loads(metadata.get(KEY, "{}")).get("pictures", 0)
    return unpack(path, safefile.read(path)[0] if has_pictures else {}, metadata)
