"""From written shards to their index: the tables of all items, and what the data set knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.base import DepthDataset
from trainer.data.files.frames import TARGET, FrameList, Frames, from_ranges, to_ranges
from trainer.data.shards.index import Index
from trainer.data.shards.writing import Written


def gathered(dataset: DepthDataset, parts: Sequence[Written], known: dict[str, Any]) -> Index:
    """Make the index of a data set and its shards; `known` are facts that the data set does not know."""
    items = range(len(dataset))
    entries, rows = _joined(parts, len(dataset), 2 + len(dataset.supp_idxs))
    scenes, scene = _numbered([dataset.scene_of(i) or "" for i in items])
    seen = [_target(dataset.frames([i])) for i in items]
    drives, drive = _numbered([name for name, _, _ in seen])
    prints = (dataset.fingerprint_of(i) or 0 for i in items)
    facts = {
        "mode": dataset.mode,
        **known,
        "source": dataset.source,
        "licence": dataset.licence,
        "size": list(dataset.size),
        "supp_idxs": list(dataset.supp_idxs),
        "has": sorted({key for part in parts for key in part.keys}),
        "truth": dataset.truth,
        "guesses_K": dataset.guesses_K,
        "left_out": dataset.left_out(),
        "lists": [[vars(entry), to_text(frames)] for entry, frames in dataset.lists()],
        "frames": to_text(dataset.frames()),
    }
    return Index(
        facts=facts,
        shards=[part.shard for part in parts],
        entries=entries,
        items=rows,
        names=[dataset.describe(i) for i in items],
        labels=[dataset.label_name(i) for i in items],
        scenes=scenes,
        scene=scene,
        drives=drives,
        recording=np.array([(i, n, role) for i, (_, n, role) in zip(drive, seen, strict=True)], np.int64),
        prints=np.fromiter(prints, np.int64, len(dataset)),
        seen=dataset.fingerprints(),
    )


def to_text(frames: Frames) -> dict[str, dict[str, str]]:
    """Write frames as JSON: drive -> role -> ranges of numbers."""
    return {
        drive: {str(role): to_ranges(numbers[roles == role]) for role in np.unique(roles).tolist()}
        for drive, (numbers, roles) in frames.drives.items()
    }


def from_text(text: dict[str, dict[str, str]]) -> Frames:
    """Read what `to_text` wrote. Raises ValueError."""
    return Frames.of(
        (drive, from_ranges(ranges), int(role)) for drive, roles in text.items() for role, ranges in roles.items()
    )


def lists_of(facts: dict[str, Any]) -> list[tuple[FrameList, Frames]]:
    """Read the lists of an index. Raises ValueError, TypeError."""
    return [(FrameList(**entry), from_text(frames)) for entry, frames in facts["lists"]]


def _joined(parts: Sequence[Written], num_items: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Join the entries (m 4) and the items (num_items width) of shards as `Index` has them."""
    entries: list[list[int]] = []
    items = np.full((num_items, width), -1, np.int32)
    for i, part in enumerate(parts):
        for index, row in part.rows.items():
            items[index] = np.asarray(row) + len(entries)
        entries += [[i, *entry] for entry in part.entries]
    return np.asarray(entries, np.int64).reshape(-1, 4), items


def _numbered(names: Sequence[str]) -> tuple[list[str], NDArray[np.int32]]:
    """Return the names, each once in the order they come, and the place of each there."""
    places = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return list(places), np.array([places[name] for name in names], np.int32)


def _target(frames: Frames) -> tuple[str, int, int]:
    """Return recording, frame and role of the one target in `frames`; ("", -1, 0) where it is not known."""
    for drive, (numbers, roles) in frames.drives.items():
        for number, role in zip(numbers.tolist(), roles.tolist(), strict=True):
            if role & TARGET:
                return drive, number, role & TARGET
    return "", -1, 0
