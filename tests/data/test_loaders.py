"""Order is a function of (seed, epoch); processes share global batches; worker processes change nothing."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer.data import loaders
from trainer.data.base import DepthDataset, RawItem
from trainer.data.loaders import EpochBatches, Prefetch, collate, equal_parts, make_loader, split
from trainer.runtime import environment
from trainer.runtime.errors import DataError, Exhausted, UserError, exhausted


class Dots(DepthDataset):
    """Eleven tiny noise pictures; the depth of item `odd` has another size, item `broken` cannot be read."""

    def __init__(self, odd=-1, broken=-1):
        super().__init__(size=(8, 4), supp_idxs=[0], use_aug=True, seed=3)
        self.odd, self.broken = odd, broken

    def __len__(self):
        return 11

    def describe(self, index):
        return f"dots/{index}"

    def load(self, index):
        if index == self.broken:
            raise DataError("dots.png is missing")
        image = np.random.default_rng(index).integers(0, 256, (4, 8, 3), dtype=np.uint8)
        depth = np.ones((2, 3 + (index == self.odd)))
        return RawItem(image, [image], np.eye(3), np.eye(4), depth)


def batches(**options):
    return list(EpochBatches(**{"num_items": 11, "batch_size": 4, "seed": 5, "shuffle": True, **options}))


def items(batch_list):
    return [index for batch in batch_list for _, index in batch]


def test_two_processes_share_the_global_batches_of_one():
    whole = batches(drop_last=True)
    halves = [batches(drop_last=True, rank=rank, world=2) for rank in range(2)]
    assert [first + second for first, second in zip(*halves, strict=True)] == whole
    assert [len(batch) for batch in halves[0]] == [2, 2]
    parts = [batches(drop_last=True, rank=rank, world=4) for rank in range(4)]
    assert [[len(batch) for batch in part] for part in parts] == [[1, 1]] * 4


GROUPS = np.array([0, 1, 0, 0, 2, 0, 1, 0, 0, 1, 0])  # 7, 3 and 1 items


def grouped(**options):
    return batches(groups=GROUPS, **options)


def test_a_batch_is_of_one_group_and_an_epoch_has_all():
    epoch = grouped(batch_size=2)
    owners = [GROUPS[[index for _, index in batch]] for batch in epoch]
    assert all(len(set(owner)) == 1 for owner in owners)
    assert sorted(items(epoch)) == list(range(11))
    assert [int(owner[0]) for owner in owners] == [0, 1, 0, 2, 0, 1, 0]  # spread evenly
    full = grouped(batch_size=1, drop_last=True)
    assert sorted(items(full)) == list(range(11))
    assert items(epoch) != items(batches(groups=GROUPS, batch_size=2, seed=6))


def test_two_processes_share_the_batches_of_a_group():
    alone = grouped(batch_size=2)
    two = [EpochBatches(11, 2, rank, 2, seed=5, shuffle=True, groups=GROUPS) for rank in range(2)]
    halves = [iter(sampler) for sampler in two]
    for whole in alone:  # the last of a group may be a single item, of the first process
        assert whole == [key for half in halves[: len(whole)] for key in next(half)]
    assert [len(sampler) for sampler in two] == [7, 4]
    assert two[0].num_common == 4


def test_a_grouped_epoch_continues_at_any_batch():
    sampler = EpochBatches(11, 2, seed=5, shuffle=True, groups=GROUPS)
    for start in range(8):
        sampler.set_position(0, start)
        assert list(sampler) == grouped(batch_size=2)[start:]


def test_a_group_without_a_full_batch_is_named():
    with pytest.raises(UserError, match="more than the 1 items an epoch has of one data set"):
        grouped(batch_size=2, drop_last=True)


def test_every_epoch_has_its_own_order_and_the_seed_decides():
    def order(seed, epoch):
        sampler = EpochBatches(11, 11, seed=seed, shuffle=True)
        sampler.set_position(epoch)
        return items(sampler)

    assert sorted(order(5, 0)) == list(range(11))
    assert order(5, 0) == order(5, 0)
    assert len({tuple(order(seed, epoch)) for seed in (5, 6) for epoch in (0, 1)}) == 4
    assert order(5, 1) != order(6, 0)


def test_keys_carry_the_epoch():
    sampler = EpochBatches(4, 2)
    sampler.set_position(3)
    assert list(sampler) == [[(3, 0), (3, 1)], [(3, 2), (3, 3)]]  # in order without shuffle


def test_resuming_in_the_middle_gives_the_same_tail():
    sampler = EpochBatches(11, 2, seed=5, shuffle=True, drop_last=True)
    sampler.set_position(4)
    whole = list(sampler)
    sampler.set_position(4, start_batch=3)
    assert list(sampler) == whole[3:]
    assert len(sampler) == 5  # of the whole epoch
    sampler.set_position(4, start_batch=5)
    assert list(sampler) == []


@pytest.mark.parametrize("num_items", [1, 4, 9, 11])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_without_drop_last_every_item_is_seen_once_by_all_processes_together(num_items, world):
    samplers = [EpochBatches(num_items, 4, rank, world, shuffle=True) for rank in range(world)]
    parts = [list(sampler) for sampler in samplers]
    assert sorted(index for part in parts for index in items(part)) == list(range(num_items))
    assert all(batch for part in parts for batch in part)
    assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]


def test_a_batch_that_cannot_be_split_names_both_ways_out():
    with pytest.raises(UserError) as caught:
        EpochBatches(100, 12, rank=0, world=8)
    assert str(caught.value) == (
        "loader.batch_size 12 is the global batch and cannot be split over 8 processes. "
        "Use loader.batch_size 8 or 16, or start 1, 2, 3, 4, 6, 12 processes"
    )
    with pytest.raises(UserError, match=r"Use loader.batch_size 8, or start 1, 2 processes"):
        EpochBatches(100, 2, rank=0, world=8)


@pytest.mark.parametrize(
    ("num_items", "batch_size", "options", "message"),
    [
        (11, 12, {"drop_last": True}, "batch_size 12 is more than the 11 items"),
        (0, 1, {}, "no items"),
        (5, 0, {}, "must be 1 or more, got 0"),
        (5, 2, {"rank": 2, "world": 2}, "rank 2 is not one of 2"),
    ],
)
def test_batches_that_cannot_exist_are_refused(num_items, batch_size, options, message):
    with pytest.raises((UserError, ValueError), match=message):
        EpochBatches(num_items, batch_size, **options)


@pytest.mark.parametrize("options", [{"num_workers": -1}, {"timeout": -1}, {"num_workers": 1, "prefetch_factor": 0}])
def test_negative_loader_options_are_refused(options):
    with pytest.raises(UserError, match="must be 0 or more and prefetch_factor 1 or more"):
        make_loader(Dots(), EpochBatches(11, 4), **options)


@pytest.mark.parametrize(
    ("accelerator", "cores", "processes", "gigabytes", "number", "reason"),
    [
        (False, 8, 1, 32, 1, "8 cores for each process, where the networks compute, too"),
        (False, 1, 1, 32, 0, "1 core for each process, where the networks compute, too"),
        (True, 16, 4, 64, 3, "4 cores for each process"),
        (True, 64, 4, 64, 8, "16 cores for each process; more seldom help"),
        (True, 1, 1, 64, 1, "1 core for each process"),
        (True, 16, 1, 1, 2, "0.5 GB of memory for the workers of each process"),
    ],
)
def test_workers_by_device_cores_and_memory(monkeypatch, accelerator, cores, processes, gigabytes, number, reason):
    monkeypatch.setattr(loaders, "_has_accelerator", lambda: accelerator)
    monkeypatch.setattr(loaders, "usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    memory = SimpleNamespace(available=gigabytes * 10**9)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert loaders.choose_workers(Dots(), batch_size=12) == (number, reason)


def test_auto_is_that_number_with_its_reason(monkeypatch):
    monkeypatch.setattr(loaders, "choose_workers", lambda dataset, batch_size: loaders.Choice(0, f"{batch_size} items"))
    loader = make_loader(Dots(), EpochBatches(12, 4, world=2), num_workers="auto")
    assert (loader.num_workers, loader.why_workers) == (0, "2 items")
    assert make_loader(Dots(), EpochBatches(11, 4)).why_workers == ""


def test_more_workers_than_cores_are_told_with_the_remedy(monkeypatch):
    monkeypatch.setattr(loaders, "usable_cores", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert make_loader(Dots(), EpochBatches(11, 4), num_workers=1).why_workers == ""
    loader = make_loader(Dots(), EpochBatches(11, 4), num_workers=2)  # torch's own warning would fail this test
    assert loader.why_workers == "more than the 1 core for each process; loader.num_workers: auto chooses their number"


def test_a_container_may_grant_fewer_cores(tmp_path, monkeypatch):
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(environment, "_QUOTA", str(quota))
    everything = environment.usable_cores()
    for text, cores in (("max 100000", everything), ("100000 100000", 1), ("50000 100000", 1)):
        quota.write_text(text)
        assert environment.usable_cores() == cores


def test_memory_is_pinned_for_the_device_that_trains(monkeypatch):
    """A run on the CPU of a machine with a GPU copies nothing there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    pinned = {device: make_loader(Dots(), EpochBatches(11, 4), device=device).pin_memory for device in ("cpu", "cuda")}
    assert pinned == {"cpu": False, "cuda": True}
    assert not make_loader(Dots(), EpochBatches(11, 4), device="cuda", pin_memory=False).pin_memory


def test_batches_are_copied_one_ahead_of_their_use(monkeypatch):
    """On a stream that the computing one waits for, and which must not reuse their memory before it is done."""
    log, current = [], ["computing"]

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

    class Copied:
        def __init__(self, number):
            self.number = number

        def to(self, device, non_blocking):
            assert non_blocking
            log.append(f"{current[-1]} {self.number}")
            return self

        def record_stream(self, stream):
            log.append(f"{self.number} kept for {stream.name}")

    @contextmanager
    def on(stream):
        current.append(stream.name)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copying"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("computing"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    batches = Prefetch(({"target": Copied(i)} for i in range(3)), torch.device("cuda"))
    log.extend(f"use {batch['target'].number}" for batch in batches)
    first, second, third = (["computing waits for copying", f"{i} kept for computing", f"use {i}"] for i in range(3))
    assert log == ["copying 0", "copying 1", *first, "copying 2", *second, *third]


@pytest.mark.parametrize(
    ("share", "most", "parts"), [(12, None, 1), (12, 12, 1), (12, 11, 2), (12, 5, 3), (6, 4, 2), (5, 4, 5), (3, 1, 3)]
)
def test_a_share_is_computed_in_as_few_equal_parts_as_fit(share, most, parts):
    assert equal_parts(share, most) == parts
    batch = {"index": torch.arange(share), "target": torch.arange(2.0 * share).reshape(share, 2)}
    cut = split(batch, parts)
    assert [len(part["index"]) for part in cut] == [share // parts] * parts
    for key, value in batch.items():
        assert torch.equal(torch.cat([part[key] for part in cut]), value)
    assert cut[-1]["target"].untyped_storage().data_ptr() == batch["target"].untyped_storage().data_ptr()


def test_on_a_cpu_batches_pass_through_one_by_one():
    read = iter([{"a": 1}, {"a": 2}])
    batches = iter(Prefetch(read, torch.device("cpu")))
    assert next(batches) == {"a": 1}
    assert next(read) == {"a": 2}  # nothing was read ahead
    assert list(batches) == []


many_workers = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def read(num_workers, **options):
    sampler = EpochBatches(11, 4, seed=5, shuffle=True)
    loader = make_loader(Dots(), sampler, num_workers=num_workers, **options)
    seen = []
    for epoch in range(2):
        sampler.set_position(epoch, start_batch=epoch)
        seen += list(loader)
    return seen


@many_workers
@pytest.mark.parametrize("options", [{}, {"persistent_workers": True, "prefetch_factor": 3, "timeout": 60}])
def test_batches_do_not_depend_on_the_number_of_workers(options):
    alone, helped = read(0, **options), read(2, **options)
    assert len(alone) == len(helped) == 5
    for one, other in zip(alone, helped, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert alone[0]["supports"].shape == (4, 1, 3, 4, 8)
    assert alone[0]["index"].dtype == torch.int64


def test_making_an_iterator_leaves_the_global_stream_alone():
    loader = make_loader(Dots(), EpochBatches(11, 4))
    before = torch.get_rng_state()
    next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


def test_depth_maps_of_different_size_ask_for_depth_size():
    dataset = Dots(odd=1)
    with pytest.raises(DataError) as caught:
        collate([dataset[0], dataset[1]])
    assert "'depth' has different sizes within one batch: (1, 2, 3) (item 0), (1, 2, 4) (item 1)" in str(caught.value)
    assert "Set dataset.depth_size: [width, height]" in str(caught.value)


@many_workers
def test_an_error_in_a_worker_is_its_message_alone():
    loader = make_loader(Dots(broken=2), EpochBatches(11, 4), num_workers=1)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert str(caught.value) == "dots.png is missing [item 2 of train: dots/2]"


@many_workers
def test_workers_serve_on_when_a_scheduler_signals_every_process_of_the_job():
    others = set(multiprocessing.active_children())
    batches = iter(make_loader(Dots(), EpochBatches(11, 1), num_workers=1, prefetch_factor=1))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        subprocess.run(["kill", f"-{int(signum)}", str(worker.pid)], check=True)  # from elsewhere
        time.sleep(0.05)
        assert worker.is_alive()
    assert len(list(batches)) == 10
    worker.join(timeout=10)
    assert worker.exitcode == 0


@many_workers
def test_a_worker_leaves_at_once_when_the_trainer_ends_it():
    others = set(multiprocessing.active_children())
    batches = iter(make_loader(Dots(), EpochBatches(11, 1), num_workers=1, prefetch_factor=1))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid, signal.SIGTERM)  # as multiprocessing does when a program ends
    worker.join(timeout=10)
    assert worker.exitcode == 0


@many_workers
def test_workers_may_start_afresh_instead_of_forking():
    (alone,) = make_loader(Dots(), EpochBatches(11, 11))
    (helped,) = make_loader(Dots(), EpochBatches(11, 11), num_workers=1, multiprocessing_context="spawn")
    assert all(torch.equal(alone[key], helped[key]) for key in alone)


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("options", [{"order": 2}, {"blocks": np.arange(11) // 3, "window": 2}])
def test_an_order_of_any_format_has_the_same_global_batches_on_any_number_of_processes(groups, options) -> None:
    def read(rank=0, world=1, epoch=2, start=0):
        sampler = EpochBatches(11, 2, rank, world, seed=5, shuffle=True, groups=groups, **options)
        sampler.set_position(epoch, start)
        return list(sampler)

    alone = read()
    assert sorted(key for batch in alone for key in batch) == [(2, index) for index in range(11)]
    assert read(0, 2) == [batch[:1] for batch in alone]
    assert read(1, 2) == [batch[1:] for batch in alone if len(batch) == 2]
    assert read(start=3) == alone[3:]
    assert [[index for _, index in batch] for batch in read(epoch=3)] != [[i for _, i in batch] for batch in alone]


def test_only_a_million_items_have_a_computed_order_and_their_first_batch_costs_nothing() -> None:
    assert EpochBatches(2**20 - 1, 4, shuffle=True).order == 1
    sampler = EpochBatches(10_000_000, 1000, shuffle=True, seed=1)
    assert sampler.order == 2
    tracemalloc.start()
    first = next(iter(sampler))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # bytes; the whole order has 80 million
    assert len({index for _, index in first}) == 1000


def test_an_order_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(UserError, match="the data set has 1,000,000,000,000 items"):
        EpochBatches(num_items=10**12, batch_size=4)


class Deadly(Dots):
    """The worker that reads item 2 is killed, as for want of memory, or hangs."""

    def __init__(self, hang: bool):
        super().__init__()
        self.hang = hang

    def load(self, index):
        if index == 2:
            time.sleep(60) if self.hang else os.kill(os.getpid(), signal.SIGKILL)
        return super().load(index)


@many_workers
def test_workers_that_hang_name_the_items_that_were_waited_for() -> None:
    loader = make_loader(Deadly(hang=True), EpochBatches(11, 2), num_workers=1, timeout=0.5)
    with pytest.raises(Exhausted, match=r"loader.timeout: 0.5 seconds.*\[waiting for item 2 \(dots/2\), item 3"):
        list(loader)


@many_workers
def test_a_worker_that_is_killed_is_known_by_the_words_of_this_torch() -> None:
    with pytest.raises(RuntimeError) as caught:
        list(make_loader(Deadly(hang=False), EpochBatches(11, 2), num_workers=1))
    assert "most likely for want of memory" in str(exhausted(caught.value))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_workers_keep_the_memory_that_they_free() -> None:
    code = """if True:
        import resource
        import numpy as np
        from trainer.runtime.environment import keep_freed_memory
        def faults():  # pages that the kernel had to find for twelve items of 4 MB, all of them freed in the end
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            items = [np.ones(4_000_000, np.uint8) for _ in range(12)]
            del items
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        usual = [faults() for _ in range(3)][-1]
        keep_freed_memory()
        print(usual, [faults() for _ in range(3)][-1])
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    usual, kept = map(int, found.split())
    assert kept < 0.1 * usual
