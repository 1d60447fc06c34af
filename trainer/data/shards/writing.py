"""Write items as tar shards in WebDataset's convention: the files of a sample share a key, up to the first dot.

A sample is a frame: `<key>.jpg`, and where an item has it as its target `<key>.npz`, the arrays of the item, and
`<key>.json`, its name and the keys of its supports. A frame is stored once in a shard however many items show it. Items
lie in the order of their recordings, so the frames of an item are neighbours; the few that items on both sides of a cut
between two shards show are stored in both. So an item reads one shard only, and shards are written, fetched and
shuffled one by one. Equal data gives equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.base import DepthDataset
from trainer.data.clips.clips import natural
from trainer.data.files.arrays import archive_bytes
from trainer.data.shards.index import Entry, Shard, checked, digest_of
from trainer.data.shards.samples import described, encoded, sample
from trainer.runtime.errors import DataError
from trainer.runtime.files import replacing, write_text

_TAR_BLOCK = 512
_PROBES, _PROBE = 3, 16  # runs of items that tell how large one is, and their length


class Plan(NamedTuple):
    """A shard to write."""

    name: str
    items: tuple[int, ...]
    stamp: str  # of the data set and its options: another one is another shard


@dataclass
class Written:
    """A shard that is written: its file, its entries in the order of the file, and its items."""

    shard: Shard
    entries: list[list[int]]  # first byte, number of bytes, digest
    rows: dict[int, list[int]]  # item -> its entries: data, target, supports
    keys: list[str] = field(default_factory=list)  # of all arrays that items have
    problems: list[str] = field(default_factory=list)


def in_order(dataset: DepthDataset) -> list[int]:
    """Sort items by recording and frame, as their names have them, both cameras of a pair together."""

    def key(index: int) -> tuple[str, list[tuple[int, str]], str]:
        name = dataset.describe(index)
        return dataset.scene_of(index) or "", natural(name.rpartition("/")[2]), name

    return sorted(range(len(dataset)), key=key)


def planned(dataset: DepthDataset, order: Sequence[int], shard_bytes: int, stamp: str) -> list[Plan]:
    """Cut items into shards of about `shard_bytes`, by the size of some of them. Raises DataError when none is read."""
    starts = sorted({round(i * max(0, len(order) - _PROBE) / (_PROBES - 1)) for i in range(_PROBES)})
    problems: list[DataError] = []
    measured = [_measured(dataset, order[start : start + _PROBE], problems) for start in starts]
    total, items = (sum(numbers) for numbers in zip(*measured, strict=True))
    if not items:
        raise problems[0]
    each = max(1, int(shard_bytes * items / total))
    number = -(-len(order) // each)
    bounds = np.linspace(0, len(order), number + 1).round().astype(int)
    return [Plan(f"{dataset.mode}-{i:06d}.tar", tuple(order[bounds[i] : bounds[i + 1]]), stamp) for i in range(number)]


def _measured(dataset: DepthDataset, run: Sequence[int], problems: list[DataError]) -> tuple[int, int]:
    """Return how many bytes a run of items takes in a shard, and how many of them can be read."""
    frames, total, items = set(), 0, 0
    for index in run:
        try:
            found = sample(dataset, index)
            total += len(archive_bytes(found.arrays)) + 3 * _TAR_BLOCK
            for picture in found.pictures:
                if picture.key not in frames:
                    frames.add(picture.key)
                    total += len(encoded(dataset, picture)[0]) + 2 * _TAR_BLOCK
            items += 1
        except DataError as error:  # noqa: PERF203 - the next item may be whole
            problems.append(error)
    return total, items


def write_shard(dataset: DepthDataset, plan: Plan, out: Path) -> Written:
    """Write a shard and, beside it, what it holds; return that. A shard that an earlier call wrote is kept.

    Everything is read again from the disk and compared. Items that cannot be read are left out and named. Raises
    CannotWrite.
    """
    path, note = out / plan.name, _note(out, plan)
    if (known := _read_note(note, path, plan)) is not None:
        return known
    with replacing(path) as staged:
        with open(staged, "wb") as file:
            archive = _Archive(file)
            written = _fill(archive, dataset, plan)
            file.flush()
            os.fsync(file.fileno())
        content = hashlib.sha256()
        with open(staged, "rb") as file:
            while piece := file.read(1 << 20):
                content.update(piece)
            for first, num_bytes, digest in written.entries:
                file.seek(first)
                checked(file.read(num_bytes), Entry(0, first, num_bytes, digest), str(path))
    shard = Shard(plan.name, os.path.getsize(path), content.hexdigest(), len(written.rows))
    written.shard = shard
    write_text(note, json.dumps({"plan": [plan.stamp, *plan.items], **vars(written), "shard": shard}))
    return written


def forget_notes(out: Path, mode: str) -> None:
    """Delete what `write_shard` noted, once the index holds it."""
    for note in out.glob(f".{mode}-*.tar.json"):
        note.unlink(missing_ok=True)


class _Archive:
    """A tar file of small files, without owners and times."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.tar = tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self.entries: list[list[int]] = []

    def add(self, name: str, content: bytes) -> int:
        """Append a file; return its row in `entries`."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o644
        first = self.tar.offset + _TAR_BLOCK
        self.tar.addfile(info, io.BytesIO(content))
        self.entries.append([first, len(content), digest_of(content)])
        return len(self.entries) - 1


class _Target(NamedTuple):
    """An item, its arrays, and what its frames are called."""

    item: int
    arrays: Mapping[str, NDArray[Any]]
    frames: Sequence[Any]


@dataclass
class _Frame:
    """A frame, and the items that have it as their target."""

    key: str
    content: bytes
    ending: str
    targets: list[_Target] = field(default_factory=list)


def _fill(archive: _Archive, dataset: DepthDataset, plan: Plan) -> Written:
    """Write the items of a shard, frame by frame: the files of a sample must follow each other."""
    written = Written(Shard(plan.name, 0, "", 0), archive.entries, {})
    frames = _frames(dataset, plan, written.problems)
    places, data = {}, {}
    for name, frame in frames.items():
        places[name] = archive.add(f"{frame.key}.{frame.ending}", frame.content)
        for i, (index, arrays, row) in enumerate(frame.targets):
            again = f"{i}." if i else ""  # a list may name a frame more than once
            supports = {offset: frames[of].key for offset, of in zip(dataset.supp_idxs, row[1:], strict=True)}
            data[index] = archive.add(f"{frame.key}.{again}npz", archive_bytes(arrays))
            about = described(index, dataset.describe(index), arrays, supports)
            archive.add(f"{frame.key}.{again}json", about)
    archive.tar.close()
    targets = [target for frame in frames.values() for target in frame.targets]
    written.rows = {index: [data[index], *(places[name] for name in row)] for index, _, row in targets}
    written.keys = sorted({key for target in targets for key in target.arrays})
    return written


def _frames(dataset: DepthDataset, plan: Plan, problems: list[str]) -> dict[Any, _Frame]:
    """Read the frames of a shard, each once, in the order in which items show them."""
    frames: dict[Any, _Frame] = {}
    stem = Path(plan.name).stem
    in_time = np.argsort([0, *dataset.supp_idxs], kind="stable").tolist()  # target, supports
    for index in plan.items:
        try:
            found = sample(dataset, index)
            pictures = [found.pictures[i] for i in in_time]
            new = {p.key: encoded(dataset, p) for p in pictures if p.key not in frames}
        except (DataError, OSError) as error:
            problems.append(str(error))
            continue
        for name, (content, ending) in new.items():
            frames[name] = _Frame(f"{stem}-{len(frames):06d}", content, ending)
        names = [picture.key for picture in found.pictures]
        frames[names[0]].targets.append(_Target(index, found.arrays, names))
    return frames


def _note(out: Path, plan: Plan) -> Path:
    return out / f".{plan.name}.json"


def _read_note(note: Path, path: Path, plan: Plan) -> Written | None:
    """Return what an earlier call wrote, if it is there and of the same plan."""
    try:
        held = json.loads(note.read_text())
        if held.pop("plan") != [plan.stamp, *plan.items] or held["shard"][1] != os.path.getsize(path):
            return None
        held["rows"] = {int(index): row for index, row in held["rows"].items()}
        return Written(**held | {"shard": Shard(*held["shard"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
