"""Any data set as tar shards, from a disk or over a network: `monodepth prepare shards` writes them.

What is kept are the items of a data set, as its reader gives them: encoded pictures, and arrays beside them. The other
way would have been a file system of shards below every reader. It would have kept the options of the readers (other
splits, another truth), but each of them lists folders and looks for files in its own way, and what is rendered, decoded
from a film or read by a plugin has no files. Items are the one thing that all data sets have. So the index has the
items of one page, in its order; what does not change them is free: size, augmentation, views, fewer supports, labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from trainer.data import DATASETS
from trainer.data.clips.intrinsics import resized
from trainer.data.files.damage import is_first_of_machine
from trainer.data.files.frames import FrameList, Frames, Numbers
from trainer.data.files.lmdb import Content
from trainer.data.files.paths import cache_folder, expanded
from trainer.data.options import CommonOptions
from trainer.data.raw_item import RawItem
from trainer.data.recorded import RecordedDataset
from trainer.data.shards.cache import ShardCache
from trainer.data.shards.fetching import Place
from trainer.data.shards.gathering import from_text, lists_of
from trainer.data.shards.index import Index
from trainer.data.shards.reading import ShardReader, open_index
from trainer.data.shards.samples import ARRAYS, PER_SUPPORT, unpacked
from trainer.runtime.errors import DataError, UserError

_AT_SIZE = {"hints": "use_hints", "pseudo": "use_pseudo"}  # maps that are kept at the size of the page
_OPTIONAL = {"depth": "use_depth", "K_depth": "use_depth", **_AT_SIZE, "travelled": "use_speed"}


@DATASETS.register("shards")
class ShardedItems(RecordedDataset):
    """The items of another data set, as `monodepth prepare shards` wrote them: in a folder, or at a URL.

    Shards elsewhere are fetched whole to the cache where it holds all of them, or where `window` is set; else each item
    is read by itself, a request or a few. `storage_options` are for the file system of fsspec.

    Args:
        path: folder of the shards: a path, or a URL: http://, https://, s3://, hf://datasets/<user>/<name>.
        split: name of the items in results; null = none.
        window: shards that an epoch shuffles together, so that it reads them one window after another; null = all, any
            item after any other. A run that continues keeps its own.
        cache_root: folder of fetched shards, shared by all processes of a machine; null = in the cache of the user.
        cache_gb: the most that it may hold, 10^9 bytes; 0 = none, read items by themselves.
        tries: of each request before its item is left out.
        timeout: seconds until a request that stalls is repeated.
        storage_options: for fsspec, e.g. {endpoint_url: "https://..."} of an S3-compatible server.

    The other arguments are those of `DepthDataset`; `supp_idxs` are some of those of the shards.
    """

    source: ClassVar[str] = "layout: WebDataset, arXiv:2001.01858; made with `monodepth prepare shards`"
    makes_pseudo = True
    measures_speed = True

    def __init__(
        self,
        path: str,
        split: str | None = None,
        window: int | None = None,
        cache_root: str | None = None,
        cache_gb: float = 20.0,
        tries: int = 5,
        timeout: float = 30.0,
        storage_options: dict[str, Any] | None = None,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(**common)
        if window is not None and window < 1:
            raise UserError(f"dataset.window must be 1 shard or more, or null, got {window}")
        if tries < 1 or not timeout > 0 or not cache_gb >= 0:
            raise UserError(
                f"dataset: tries must be 1 or more, timeout above 0, cache_gb 0 or more; got {tries}, {timeout:g} and"
                f" {cache_gb:g}"
            )
        self.split, self.window = split, window
        place = Place(path, tries, timeout, storage_options)
        self.index = index = open_index(place, self.mode)
        self.facts: dict[str, Any] = dict(index.facts)
        self.blocks = index.block
        self._columns = self._chosen_supports()
        self._check_options()
        self._reader = ShardReader(place, index, self._cache(place, index, cache_root, int(cache_gb * 1e9)))
        self._held: dict[int, bytes] = {}  # entries of the item that is being read
        self._watch(len(index.items))

    def _cache(self, place: Place, index: Index, root: str | None, limit: int) -> ShardCache | None:
        """Return where whole shards go; None when they lie here, or each item is to be read by itself."""
        fits = index.num_bytes <= limit
        by_window = self.window is not None and self.mode == "train"  # other modes read in the order of their list
        if not place.is_remote or not (fits or by_window):
            return None
        needed = sum(sorted(shard.num_bytes for shard in index.shards)[-(self.window or 0) :]) if not fits else 0
        if needed > limit:
            raise UserError(
                f"dataset.cache_gb: {limit / 1e9:g} GB hold no window of {self.window} shards, which has up to"
                f" {needed / 1e9:.3g} GB. Raise it, or set a smaller dataset.window"
            )
        return ShardCache(expanded(root) if root else cache_folder("shards"), limit)

    def _chosen_supports(self) -> list[int]:
        """Return the places of `supp_idxs` among the supports of the shards. Raises UserError for others."""
        there = list(self.facts["supp_idxs"])
        if absent := [offset for offset in self.supp_idxs if offset not in there]:
            raise UserError(
                f"dataset.supp_idxs {list(self.supp_idxs)}: the shards have supports {there}, not {absent}. Choose"
                " among them, or write shards with others"
            )
        return [there.index(offset) for offset in self.supp_idxs]

    def _check_options(self) -> None:
        """Raise UserError for what the shards do not hold."""
        has, size = self.facts["has"], tuple(self.facts["size"])
        self._without_depth = self.use_depth and "depth" not in has
        self.use_depth = self.use_depth and "depth" in has
        wanted = {"hints": self.use_hints, "pseudo": self.use_pseudo and self.pseudo_root is None}
        for key, is_wanted in wanted.items():
            if is_wanted and key not in has:
                raise UserError(
                    f"dataset.{_AT_SIZE[key]}: the shards have no {key}. Write them with it, or set it to false"
                )
            if is_wanted and size != self.size:
                raise UserError(
                    f"dataset.size {list(self.size)}: {key} of the shards are of {list(size)}. Use that size, or write"
                    " shards with the other"
                )
        if self.use_speed and not {"travelled", "Ts_true"} & set(has):
            raise UserError(
                "dataset.use_speed: the shards do not know how far the camera moves. Write them with it, or set it to"
                " false"
            )

    def __len__(self) -> int:
        return len(self.index.items)

    def load(self, index: int) -> RawItem:
        row = self.index.items[index].tolist()
        if row[0] < 0:
            raise DataError("could not be read when the shards were written")
        data, target, *supports = row
        supports = [supports[column] for column in self._columns]
        with self.stage("Image"):
            self._held = self._reader.read([data, target, *supports])
            picture = self._picture(self._place(target))
        with self.stage("Support"):
            others = [self._picture(self._place(entry)) for entry in supports]
        with self.stage("Depth"):
            arrays = self._arrays(data, index)
        self._held = {}
        return RawItem(picture, others, **arrays)

    def _arrays(self, data: int, index: int) -> dict[str, Any]:
        """Read what is known of an item beside its pictures, as the options ask for it."""
        left_out = {key for key, option in _OPTIONAL.items() if not getattr(self, option)}
        if self.pseudo_root is not None:
            left_out.add("pseudo")
        if 0 not in self.supp_idxs:
            left_out.add("T_stereo")
        wanted = [key for key in ARRAYS if key not in left_out]
        arrays = unpacked(self._held[data], wanted, f"{self._place(data)} ({self.describe(index)})")
        found: dict[str, Any] = {"K": None, **arrays}
        for key in PER_SUPPORT:
            if key in found:
                found[key] = found[key][self._columns]
        size = tuple(self.facts["size"])
        if found["K"] is not None and size != self.size:
            found["K"] = resized(found["K"], size, self.size)
        return found

    def _place(self, row: int) -> str:
        """Name an entry: `<shard>/<row>`."""
        return f"{self.index.shards[self.index.entry(row).shard].name}/{row}"

    def open_picture(self, place: Any) -> Content:
        row = int(str(place).rpartition("/")[2])
        content = self._held.get(row)
        if content is None:
            content = self._reader.read([row])[row]
        return Content(content, str(place))

    def _name(self, place: str) -> str:
        return place

    @property
    def home(self) -> Path:
        return Path(self._reader.place.path)

    def picture_places(self) -> Iterable[str]:
        rows = self.index.items[:, [1, *(2 + column for column in self._columns)]]
        return [self._place(row) for row in np.unique(rows[rows >= 0]).tolist()]

    def picture_of(self, index: int) -> str | None:
        target = int(self.index.items[index, 1])
        return None if target < 0 else self._place(target)

    def describe(self, index: int) -> str:
        """As the data set described it that the shards were written from."""
        return self.index.names[index]

    def label_name(self, index: int) -> str:
        return self.index.labels[index]

    def scene_of(self, index: int) -> str | None:
        return self.index.scenes[int(self.index.scene[index])] or None

    def check(self) -> list[str]:
        """List shards that are missing or cut; the first process of a machine looks."""
        return self._reader.problems() if is_first_of_machine() else []

    def notes(self) -> list[str]:
        notes, index = super().notes(), self.index
        if lost := int((index.items[:, 0] < 0).sum()):
            notes.append(f"{lost} of {len(self)} items could not be read when the shards were written")
        if self._without_depth:
            notes.append("the shards have no depth: their page did not read it (dataset.use_depth)")
        if self._reader.place.is_remote:
            size = f"{len(index.shards)} shards, {index.num_bytes / 1e9:.3g} GB"
            cache = self._reader.cache
            how = "each item is requested by itself: set dataset.window, or a dataset.cache_gb that holds all"
            if cache is not None:
                how = f"fetched whole to {cache.root}, at most {cache.limit / 1e9:g} GB"
            notes.append(f"{size}: {how}")
        return notes

    def left_out(self) -> list[str]:
        return list(self.facts["left_out"])

    @property
    def guesses_K(self) -> bool:
        return bool(self.facts["guesses_K"])

    @property
    def truth(self) -> str:
        return str(self.facts["truth"])

    @property
    def list_name(self) -> str:
        return ", ".join(entry.name for entry, _ in self._lists)

    def frames(self, indices: Sequence[int] | None = None) -> Frames:
        """Return the frames that items read; of `indices`, those of their targets alone."""
        if indices is None:
            return from_text(self.facts["frames"])
        chosen: NDArray[Any] = self.index.recording[np.asarray(indices, np.int64)]
        return Frames.of((self.index.drives[drive], [number], role) for drive, number, role in chosen.tolist() if role)

    def lists(self) -> list[tuple[FrameList, Frames]]:
        return self._lists

    @cached_property
    def _lists(self) -> list[tuple[FrameList, Frames]]:
        return lists_of(self.facts)

    def fingerprint_of(self, index: int) -> int | None:
        return int(self.index.prints[index]) or None

    def fingerprints(self) -> Numbers:
        return self.index.seen
