"""From a data set to batches: which items, in which order, on which process, read by which worker.

The order of an epoch is a function of (seed, epoch) for the whole run, dealt out to the processes afterwards.
Nothing depends on the number of workers or on what was read before.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from trainer.data.base import DepthDataset
from trainer.data.permutation import Permutation, Windows
from trainer.runtime.environment import keep_freed_memory, usable_cores
from trainer.runtime.errors import DataError, Exhausted, UserError, exhausted, listed

PINNED = ("cuda", "xpu")  # devices that copy faster from page-locked memory
_ORDER = 1  # fourth word of entropy: items draw from (seed, epoch, index), the order must not draw the same
# Formats of the order: drawn as a whole; computed where it is read; that of blocks (`permutation`).
ORDERS = _WHOLE, _COMPUTED, _WINDOWED = 1, 2, 3
_LARGE = 1 << 20  # items from which a new run computes it; drawing a million takes 0.05 s and 8 MB in every process
_MAX_ITEMS = 100_000_000
_KNOWS_SENDER = hasattr(signal, "sigwaitinfo")  # not so on macOS; there a worker has to obey any SIGTERM
_NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGUSR1, *([signal.SIGTERM] if _KNOWS_SENDER else []))
_MOST_WORKERS = 8
_WORKER_BYTES = 200_000_000  # what a forked worker has for itself
_BATCHES_AHEAD = 3  # the default prefetch of 2, and the one being made
_SIZE_ADVICE = {"depth": "Set dataset.depth_size: [width, height] to give all maps one size, or loader.batch_size: 1"}


@dataclass(eq=False)
class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys for one process, to be given to a DataLoader as its `batch_sampler`.

    A global batch of `batch_size` rows is cut into `world` equal parts, and process `rank` gets part `rank`.
    With `drop_last=False` the last global batch may be smaller, and a process may get a smaller part of it or
    none: every item is seen exactly once by all processes together.

    With `groups` no batch has items of two groups. Each group has a last batch of its own, and the batches of all
    groups are spread evenly over the epoch.

    Raises UserError when the batch cannot be split over the processes, or when no full batch exists.
    """

    num_items: int  # of the data set
    batch_size: int  # global, over all processes
    rank: int = 0  # this process, 0 <= rank < world
    world: int = 1  # number of processes
    seed: int = 0  # of the order, >= 0
    shuffle: bool = False  # draw a new order for each epoch
    drop_last: bool = False  # leave out a last global batch that is not full: all processes take as many steps
    groups: NDArray[Any] | None = None  # (num_items,) number 0, 1, ... of the group of each item; None = one group
    order: int = 0  # one of ORDERS, which a run keeps; 0 = that of a new run: by `window`, 2 from a million items, 1
    blocks: NDArray[Any] | None = None  # (num_items,) which items lie together, numbers from 0
    window: int | None = None  # blocks that are shuffled together, the order is 3 then; it needs `blocks`

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} is not one of {self.world} processes")
        if self.batch_size < 1:
            raise UserError(f"loader.batch_size must be 1 or more, got {self.batch_size}")
        if self.batch_size % self.world:
            raise UserError(_indivisible(self.batch_size, self.world))
        if self.num_items < 1:
            raise UserError("the data set has no items. Check dataset.split and dataset.split_file")
        if self.num_items > _MAX_ITEMS:
            raise UserError(
                f"the data set has {self.num_items:,} items; their order is kept for {_MAX_ITEMS:,} at most"
            )
        self._sizes = [self.num_items] if self.groups is None else np.bincount(self.groups).tolist()
        least, what = min(self._sizes), "an epoch has of one data set" if self.groups is not None else "of the data set"
        if self.drop_last and least < self.batch_size:
            raise UserError(
                f"loader.batch_size {self.batch_size} is more than the {least} items {what}, and "
                f"drop_last leaves out what fills no batch. Use a batch size of at most {least}"
            )
        usual = _COMPUTED if self.num_items >= _LARGE else _WHOLE
        self.order = self.order or (usual if self.window is None else _WINDOWED)
        self._plan = self._planned()
        self.set_position(0)

    def _planned(self) -> NDArray[Any]:
        """Plan the global batches of an epoch (n 3): group, and the first and last + 1 of its rows there."""
        ends = np.array([size - size % self.batch_size if self.drop_last else size for size in self._sizes])
        counts = -(-ends // self.batch_size)
        owner = spread(counts.tolist())
        first = np.zeros(len(owner), np.int64)
        for group, count in enumerate(counts):
            first[owner == group] = np.arange(count) * self.batch_size
        return np.stack([owner, first, np.minimum(first + self.batch_size, ends[owner])], 1)

    def set_position(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch of the next iteration, and the global batch that it starts with (to resume)."""
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        """Number of batches of this process in a whole epoch, wherever iteration starts."""
        return self._num_batches(self.rank)

    @property
    def num_common(self) -> int:
        """Number of batches of an epoch that every process has."""
        return self._num_batches(self.world - 1)

    def _num_batches(self, rank: int) -> int:
        before = rank * (self.batch_size // self.world)
        return int((self._plan[:, 2] - self._plan[:, 1] > before).sum())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, orders, share = self.epoch, self._orders(), self.batch_size // self.world
        for group, first, last in self._plan[self.start_batch :]:
            own = first + self.rank * share
            if own < last:
                yield [(epoch, int(index)) for index in orders[group][own : min(own + share, last)]]

    def _orders(self) -> list[Any]:
        """Return what gives the items of each group in the order of the epoch, by slices."""
        if self.shuffle and self.order == _COMPUTED:
            order: Any = Permutation(self.num_items, [self.seed, self.epoch, 0, _ORDER, _COMPUTED])
        elif self.shuffle and self.order == _WINDOWED:
            if self.blocks is None or self.window is None:
                raise ValueError("order 3 needs blocks and a window")
            order = Windows(self.blocks, self.window, [self.seed, self.epoch, 0, _ORDER, _WINDOWED])
        elif self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch, 0, _ORDER]).permutation(self.num_items)
        else:
            order = range(self.num_items)
        if self.groups is None:
            return [order]
        whole = np.asarray(order[:])
        return [whole[self.groups[whole] == group] for group in range(len(self._sizes))]


def spread(counts: Sequence[int]) -> NDArray[Any]:
    """Spread things of several kinds evenly over one row: (sum of counts,) the kind of each place."""
    when = np.concatenate([(np.arange(count) + 0.5) / count for count in counts if count])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(when, kind="stable")]


def make_loader(
    dataset: DepthDataset,
    sampler: EpochBatches,
    num_workers: int | Literal["auto"] = 0,
    pin_memory: bool = True,
    persistent_workers: bool = False,
    prefetch_factor: int | None = None,
    timeout: float = 0.0,
    multiprocessing_context: Literal["fork", "forkserver", "spawn"] | None = None,
    device: str = "cpu",
) -> DataLoader[dict[str, Tensor]]:
    """Read the batches of `sampler`, here or in worker processes; what comes out does not depend on which.

    Args:
        dataset: where items come from.
        sampler: which items, in which batches.
        num_workers: processes that read ahead; 0 = read in this process, and only pinning applies below;
            `auto` = as `choose_workers` says, whose reason is `why_workers` of the loader.
        pin_memory: copy batches to page-locked memory; if `device` copies from there.
        persistent_workers: keep the workers between epochs.
        prefetch_factor: batches that each worker reads ahead; null = 2.
        timeout: seconds to wait for a batch before giving up; 0 = for ever.
        multiprocessing_context: how workers start; null = fork on Linux (quick, and workers only decode
            pictures), the default of the platform elsewhere.
        device: kind of the device that trains, not of one that is only there.

    Raises UserError for a negative number.
    """
    why = ""
    if num_workers == "auto":
        num_workers, why = choose_workers(dataset, sampler.batch_size // sampler.world)
    elif num_workers > (cores := _own_cores()):
        why = f"more than the {_cores(cores)} for each process; loader.num_workers: auto chooses their number"
    if num_workers < 0 or timeout < 0 or (prefetch_factor is not None and prefetch_factor < 1):
        raise UserError(
            "loader: num_workers and timeout must be 0 or more and prefetch_factor 1 or more, "
            f"got {num_workers}, {timeout} and {prefetch_factor}"
        )
    with_workers = num_workers > 0
    own_stream = torch.Generator().manual_seed(sampler.seed)  # else each iterator draws from the global one
    context = multiprocessing_context or ("fork" if sys.platform == "linux" else None)
    loader = _Loader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory and device in PINNED,
        persistent_workers=persistent_workers and with_workers,
        prefetch_factor=prefetch_factor if with_workers else None,
        timeout=timeout if with_workers else 0,
        worker_init_fn=_begin_worker if with_workers else None,
        multiprocessing_context=context if with_workers else None,
        generator=own_stream,
    )
    loader.why_workers = why
    return loader


class Choice(NamedTuple):
    """A number of workers, and why it is that."""

    number: int
    reason: str


def choose_workers(dataset: DepthDataset, batch_size: int) -> Choice:
    """Choose how many processes read batches of `batch_size` items for this one, by its device, cores and memory.

    Where the networks are on the CPU one is enough: reading takes a hundredth of a step, and its core is missed there.
    """
    import psutil  # Accelerate brings it along

    cores = _own_cores()
    of = f"{_cores(cores)} for each process"
    if not _has_accelerator():
        return Choice(min(1, cores - 1), f"{of}, where the networks compute, too")
    width, height = dataset.size
    item = 4 * 3 * width * height * (1 + len(dataset.supp_idxs)) * (1 + dataset.use_aug)
    share = psutil.virtual_memory().available / 2 / _local_processes()  # the rest is for files
    fitting = int(share / (_WORKER_BYTES + _BATCHES_AHEAD * batch_size * item))
    most = max(1, min(cores - 1, _MOST_WORKERS))
    if fitting < most:
        return Choice(max(1, fitting), f"{share / 1e9:.1f} GB of memory for the workers of each process")
    return Choice(most, f"{of}" if most < _MOST_WORKERS else f"{of}; more seldom help")


def _local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _own_cores() -> int:
    return max(1, usable_cores() // _local_processes())


def _cores(number: int) -> str:
    return f"{number} core{'s' * (number > 1)}"


def _has_accelerator() -> bool:
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return False
    return torch.accelerator.is_available() if hasattr(torch, "accelerator") else torch.cuda.is_available()


def collate(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack items into a batch, key by key. Raises DataError naming the key when sizes differ."""
    for key in items[0]:
        shapes = [tuple(item[key].shape) for item in items]
        if len(set(shapes)) > 1:
            sizes = ", ".join(f"{shape} (item {int(item['index'])})" for shape, item in zip(shapes, items, strict=True))
            advice = _SIZE_ADVICE.get(key, "All items of a data set must have one size")
            raise DataError(f"{key!r} has different sizes within one batch: {sizes}. {advice}")
    return default_collate(list(items))


def equal_parts(share: int, most: int | None) -> int:
    """Return in how few equal parts of at most `most` items a share of a batch can be cut; None = any number."""
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and (not most or share <= parts * most))


def split(batch: dict[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """Cut a batch, whose tensors begin with its items, in equal parts; nothing is copied."""
    if parts == 1:
        return [batch]
    return [dict(zip(batch, part, strict=True)) for part in zip(*(t.chunk(parts) for t in batch.values()), strict=True)]


class Prefetch:
    """Copy batches to a CUDA device one ahead, on a stream of their own, while the step before computes.

    On other devices batches pass through as they are. One batch more than is in use is kept on the device.
    """

    def __init__(self, batches: Iterable[dict[str, Tensor]], device: torch.device):
        self.batches, self.device = batches, device

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if self.device.type != "cuda":
            yield from self.batches
            return
        stream, ahead = torch.cuda.Stream(self.device), None
        for batch in self.batches:
            with torch.cuda.stream(stream):
                copied = {key: tensor.to(self.device, non_blocking=True) for key, tensor in batch.items()}
            if ahead is not None:
                yield self._arrived(ahead, stream)
            ahead = copied
        if ahead is not None:
            yield self._arrived(ahead, stream)

    def _arrived(self, batch: dict[str, Tensor], stream: torch.cuda.Stream) -> dict[str, Tensor]:
        """Let the stream that computes wait for the copies, and keep their memory until it is done with them."""
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(stream)
        for tensor in batch.values():
            tensor.record_stream(computing)
        return batch


class _Loader(DataLoader[dict[str, Tensor]]):
    """A DataLoader whose workers are ended by the trainer only.

    Ctrl-C and a scheduler's SIGTERM reach every process of a job. A worker that died of them would take down
    the step that the trainer wants to finish before it saves. So workers start with these signals blocked;
    torch's worker loop ends by itself when the trainer has died.
    """

    why_workers: str = ""  # reason of their number, or that it is too large; "" = it was given

    def __iter__(self) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
        try:
            batches = super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._naming(batches) if self.num_workers else batches

    def check_worker_number_rationality(self) -> None:
        """Warn of nothing: `why_workers` does, with what to do."""

    def _naming(self, batches: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """Yield the batches; when workers hang, the error names the items that were waited for.

        A worker that was killed may have been at any batch.
        """
        keys: Sequence[tuple[int, int]] = ()
        try:
            for keys in self.batch_sampler or ():  # noqa: B007 - the handler names them
                yield next(batches)
        except RuntimeError as error:
            known = exhausted(error)
            if known is None or "timed out" not in str(error):
                raise
            dataset: Any = self.dataset
            items = [f"item {index} ({dataset.describe(index)})" for _, index in keys]
            raise Exhausted(f"{known} [waiting for {listed(items)}]") from error


def _begin_worker(worker_id: int) -> None:
    keep_freed_memory()
    _listen_to_trainer()


def _listen_to_trainer() -> None:
    """Start a thread in a worker that obeys SIGTERM of the trainer, with which it ends and joins its workers."""
    trainer = multiprocessing.parent_process()
    if trainer is not None and _KNOWS_SENDER:
        threading.Thread(target=_exit_on_sigterm_from, args=(trainer.pid,), daemon=True).start()


def _exit_on_sigterm_from(pid: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != pid:
        pass
    os._exit(0)


def _indivisible(batch_size: int, world: int) -> str:
    below = batch_size - batch_size % world
    sizes = [size for size in (below, below + world) if size]
    divisors = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
    return (
        f"loader.batch_size {batch_size} is the global batch and cannot be split over {world} processes. "
        f"Use loader.batch_size {' or '.join(map(str, sizes))}, "
        f"or start {', '.join(map(str, divisors))} processes"
    )
