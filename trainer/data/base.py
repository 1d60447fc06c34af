"""What every data set shares: checked options, a random generator per item, the way from pictures to tensors.

A data set says where an item is and how it is read (`load`). Nothing here knows a file layout.
"""

from __future__ import annotations

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from trainer.data import augment
from trainer.data import views as of_views
from trainer.data.facts import DataFacts
from trainer.data.files.frames import FrameList, Frames, Numbers
from trainer.data.files.pseudo import PseudoLabels
from trainer.data.options import CommonOptions, Mode, check_choice, checked_size, expanded_signature
from trainer.data.raw_item import RawItem
from trainer.runtime.errors import DataError, UserError
from trainer.types import DATA_STAGES

Key = int | tuple[int, int]  # index, or (epoch, index)

_KEYS = ("K", "T_stereo", "depth", "depth_hints", "pseudo", "Ts_true", "travelled", "K_depth", "edges", "foreground")


class DepthDataset(DataFacts, Dataset[dict[str, Tensor]], ABC):
    """Targets, their supports and what is known about them: `trainer.types.Batch` without its batch axis.

    `dataset[key]` takes an index (epoch 0) or `(epoch, index)`. An item is a function of (seed, epoch, index)
    and of nothing else: not of the order of access, the worker, or the process.

    Args:
        mode: which part of the data; also the name of the split file.
        size: (width, height) of the images given to the networks, in pixels.
        supp_idxs: frame offsets of the supports, 0 = the other camera of the pair; null = no supports.
        use_depth: load ground-truth depth.
        use_hints: load proxy depth, the depth hints of arXiv:1909.09051.
        use_pseudo: load the disparity of a teacher network, one label per target.
        pseudo_root: folder of these labels, as `monodepth prepare pseudo` writes them.
        use_speed: load how far the camera moves from the target to each support, for `loss.speed`.
        decoded_root: folder of their pictures, decoded and resized, as `monodepth prepare cache` writes them.
        use_aug: mirror items (p 0.5) and change the colours of the network inputs.
        use_strong_aug: with `use_aug`, TrivialAugment (p 0.7, arXiv:2103.10158) instead of jitter (p 0.5).
        views: further views of every training item, {name: [least, most] of its ratio}: `high` and `low`
            (arXiv:2207.11984), `crop` and `permute` (arXiv:2309.05254). Other modes have the plain view alone.
        as_torch: only true; kept so that earlier configurations load.
        log_time: add `load_ms`, milliseconds per stage of `trainer.types.DATA_STAGES`.
        seed: of the augmentation, >= 0.

    Raises UserError when an option has no meaning.
    """

    makes_pseudo: ClassVar[bool] = False  # labels need no `pseudo_root`: `load` gives them without one
    measures_speed: ClassVar[bool] = False  # knows how far the camera moves from frame to frame, or may be told
    reads_pictures: ClassVar[bool] = False  # from files, which `decoded_root` stands in for
    defaults: ClassVar[CommonOptions] = {}  # where they differ from those below; the constructor applies them
    __signature__: ClassVar[inspect.Signature | None] = None  # None = that of the constructor
    groups: NDArray[Any] | None = None  # (number of items,) which of them share batches, from 0; None = all do
    blocks: NDArray[Any] | None = None  # (number of items,) which of them lie together, from 0; None = all do
    window: int | None = None  # blocks that an epoch shuffles together; None = all
    unreadable: Tensor | None = None  # (number of items,) bool, not readable so far; None = not counted
    K_is_learned: bool = False  # by a network, so that a guess of K does no harm; set by who builds the data set

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """List the common options in the signature: its parameters are the YAML keys of a data set."""
        super().__init_subclass__(**kwargs)
        cls.__signature__ = expanded_signature(cls, DepthDataset)

    def __init__(
        self,
        mode: Mode = "train",
        size: tuple[int, int] = (640, 192),
        supp_idxs: int | Sequence[int] | None = (-1, 1),
        use_depth: bool = True,
        use_hints: bool = False,
        use_pseudo: bool = False,
        pseudo_root: str | None = None,
        use_speed: bool = False,
        decoded_root: str | None = None,
        use_aug: bool = False,
        use_strong_aug: bool = False,
        views: of_views.Ranges | None = None,
        as_torch: bool = True,
        log_time: bool = False,
        seed: int = 0,
    ):
        check_choice("dataset.mode", mode, Mode)
        if not as_torch:
            raise UserError("dataset.as_torch: false is not supported: items are tensors. Remove the key")
        if seed < 0:
            raise UserError(f"dataset.seed must be 0 or more, got {seed}")
        self.mode = mode
        self.size = checked_size(size, "dataset.size")
        self.supp_idxs = (supp_idxs,) if isinstance(supp_idxs, int) else tuple(supp_idxs or ())
        if len(set(self.supp_idxs)) != len(self.supp_idxs):
            raise UserError(f"dataset.supp_idxs {list(self.supp_idxs)} names a frame twice. Remove the repetition")
        self.use_depth, self.use_hints = use_depth, use_hints
        self.use_aug, self.use_strong_aug = use_aug, use_strong_aug
        ranges = of_views.checked_ranges(views)
        self.views = ranges if mode == "train" else {}
        self.log_time = log_time
        self.seed = seed
        self._stage_ms = dict.fromkeys(DATA_STAGES, 0.0)
        self.use_pseudo, self.pseudo_root = use_pseudo, pseudo_root
        self._labels = self._open_labels()
        if decoded_root is not None and not self.reads_pictures:
            raise UserError("dataset.decoded_root: this data set has no picture files. Remove the key")
        self.decoded_root = decoded_root
        if use_speed and not self.measures_speed:
            raise UserError("dataset.use_speed: this data set does not know how far its camera moves. Set it to false")
        self.use_speed = use_speed

    @abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abstractmethod
    def load(self, index: int) -> RawItem:
        """Read item `index`, 0 <= index < len(self). Raises DataError when a file is missing or broken."""

    def load_in(self, epoch: int, index: int) -> RawItem:
        """Read item `index` as it is in an epoch. Here: always alike, as `load` reads it."""
        return self.load(index)

    @abstractmethod
    def describe(self, index: int) -> str:
        """Name item `index` for logs and errors, e.g. `2011_09_26/<drive>/image_02/0000000005`."""

    def place(self, index: int) -> tuple[str, int]:
        """Return the recording that item `index` belongs to and the number of its frame; the next one is 1 more.

        Here: what `describe` says, `<recording>/<number>`. Raises UserError when it says something else.
        """
        name = self.describe(index)
        recording, _, frame = name.rpartition("/")
        if not frame.isdecimal():
            raise UserError(
                f"item {index} is called {name!r}, which does not end in a frame number, so its next frame is unknown"
            )
        return recording, int(frame)

    def check(self) -> list[str]:
        """List every problem that would stop training, without decoding images. Empty = ready."""
        return []

    def label_name(self, index: int) -> str:
        """Name the pseudo-label of item `index`: its file in `pseudo_root` without the ending."""
        return self.describe(index)

    def labelled(self) -> dict[str, DepthDataset]:
        """Map folders below `pseudo_root` to the data sets whose labels are there; "" is `pseudo_root` itself."""
        return {"": self}

    def label_record(self) -> dict[str, Any]:
        """Return what is known of the teacher of the labels that are read; {} without labels in files."""
        record = {} if self._labels is None else self._labels.record()
        return {key: value for key, value in record.items() if key not in ("command", "items")}

    def label_problems(self) -> list[str]:
        """List what is wrong with what was prepared: labels that are missing or cut short, decoded pictures."""
        return [] if self._labels is None else self._labels.problems(map(self.label_name, range(len(self))), self.mode)

    def _open_labels(self) -> PseudoLabels | None:
        """Return where labels are read from, None where no files are. Raises UserError without a folder."""
        if not self.use_pseudo or (self.makes_pseudo and self.pseudo_root is None):
            return None
        if self.pseudo_root is None:
            raise UserError(
                "dataset.use_pseudo: true needs dataset.pseudo_root, the folder of the labels. `monodepth prepare"
                " pseudo` makes one"
            )
        return PseudoLabels(self.pseudo_root)

    @classmethod
    def scene_in(cls, name: str) -> str | None:
        """Name the drive, clip or scene of the item called `name`, whose items look alike; None = it stands alone."""
        return None

    def scene_of(self, index: int) -> str | None:
        """Name the scene of item `index`, as `scene_in` does."""
        return self.scene_in(self.describe(index))

    def notes(self) -> list[str]:
        """List remarks that are worth a line in the log but stop nothing."""
        return []

    @property
    def guesses_K(self) -> bool:
        """Whether K of some items is a guess."""
        return False

    def left_out(self) -> list[str]:
        """List what the files hold that is no item: how many, why, the first three."""
        return []

    def frames(self, indices: Sequence[int] | None = None) -> Frames:
        """Return the frames that items read, of all items or of `indices`, their supports included.

        Recordings go by a name that is theirs wherever they lie. Empty where there is none.
        """
        return Frames()

    def lists(self) -> list[tuple[FrameList, Frames]]:
        """List where items come from, with `frames` of each; empty where they are not known by drive and number."""
        frames = self.frames()
        return [(FrameList(self.list_name, frames.digest(), len(self)), frames)] if frames else []

    @property
    def list_name(self) -> str:
        """Name of the list of items, "" without a file."""
        return ""

    def source_of(self, picture: NDArray[np.uint8]) -> Any:
        """Return the place that a picture of the item read last comes from; None for one that was computed."""
        return None

    def fingerprint_of(self, index: int) -> int | None:
        """Hash the picture of the target of item `index`; None where it has no file that can be read."""
        return None

    def fingerprints(self) -> Numbers:
        """Hash all pictures that items read, sorted; empty where frames are known by drive and number, or computed."""
        return np.empty(0, np.int64)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a block towards stage `name` of `load_ms`; for use inside `load`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stage_ms[name] += 1e3 * (time.perf_counter() - start)

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a data set of {len(self)}")
        self._stage_ms = dict.fromkeys(DATA_STAGES, 0.0)
        with self.stage("Total"):
            raw = self.read(int(epoch), int(index))
            with self.stage("Augment"):
                rng = np.random.default_rng([self.seed, int(epoch), int(index)])
                change = augment.draw(rng, self.use_strong_aug) if self.use_aug else augment.Augmentation(False, None)
                drawn = of_views.draw(self.views, self.size, rng)
                loaded, raw = raw, raw.mirrored() if change.flip else raw
            item = self._to_tensors(raw, change.recolour)
            with self.stage("Augment"):
                pictures = partial(self._pictures_at, int(epoch), int(index), loaded)
                item |= of_views.tensors(drawn, pictures, change, with_aug=self.use_aug)
            item["index"] = torch.tensor(int(index))
        if self.log_time:
            item["load_ms"] = torch.tensor([self._stage_ms[name] for name in DATA_STAGES])
        return item

    def _pictures_at(self, epoch: int, index: int, raw: RawItem, size: tuple[int, int]) -> of_views.Pictures:
        """Return target and supports of item `index`, which `load` gave as `raw`, at another size (w, h)."""
        own, self.size = self.size, size
        try:
            raw = self.read(epoch, index, with_label=False)
        finally:
            self.size = own
        if raw.target.shape[:2] != size[::-1]:
            fix = "Let its `load` resize to `self.size`, or use no views but permute"
            raise DataError(f"dataset.views: the pictures of this data set have one size only. {fix}")
        return [raw.target, *raw.supports]

    def read(self, epoch: int, index: int, with_label: bool = True) -> RawItem:
        """Read item `index` as it is in an epoch, its label included. Raises DataError naming the item."""
        try:
            raw = self.load_in(epoch, index)
            if with_label and self._labels is not None:
                with self.stage("Depth"):
                    raw = replace(raw, pseudo=self._labels.read(self.label_name(index), self.size))
            return raw
        except DataError as error:
            raise DataError(f"{error} [item {index} of {self.mode}: {self.describe(index)}]") from error
        except OSError as error:
            item, fix = f"item {index} of {self.mode}", "Restore the file or remove the item from the split"
            raise DataError(f"{item} ({self.describe(index)}) cannot be read: {error}. {fix}") from error

    def _to_tensors(self, raw: RawItem, recolour: augment.Recolour | None) -> dict[str, Tensor]:
        """Turn a raw item into tensors; `recolour` makes the network inputs out of the clean images."""
        with self.stage("ToTorch"):
            images = [raw.target, *raw.supports]
            clean = augment.to_planes(images)  # (1+n 3 h w) in [0, 1]
            item = {"target": torch.from_numpy(clean[0]), "supports": torch.from_numpy(clean[1:])}
            arrays = {"K": raw.K, "T_stereo": raw.T_stereo, "Ts_true": raw.Ts_true, "K_depth": raw.K_depth}
            arrays["travelled"] = self._travelled(raw) if self.use_speed else None
            maps = {"depth": raw.depth, "depth_hints": raw.hints, "pseudo": raw.pseudo, "edges": raw.edges}
            maps["foreground"] = raw.foreground
            arrays |= {key: None if entry is None else entry[None] for key, entry in maps.items()}
            for key in _KEYS:
                if (array := arrays[key]) is not None:  # a copy: data sets may keep theirs
                    item[key] = torch.from_numpy(np.array(array, dtype=np.float32))
        if self.use_aug:  # always both keys, changed or not: items of one batch carry the same keys
            with self.stage("Augment"):
                inputs = torch.from_numpy(clean if recolour is None else recolour(images))
            item["target_aug"], item["supports_aug"] = inputs[0], inputs[1:]
        return item

    def _travelled(self, raw: RawItem) -> NDArray[Any]:
        """Return the metres (n,) from target to each support, 0 = not known; the stereo partner is no way travelled."""
        if raw.travelled is None and raw.Ts_true is None:
            raise DataError("dataset.use_speed: the motion of the camera is not known here")
        known = np.linalg.norm(raw.Ts_true[:, :3, 3], axis=1) if raw.travelled is None else raw.travelled  # type: ignore[index]
        return np.where([offset != 0 for offset in self.supp_idxs], np.nan_to_num(known), 0.0)
