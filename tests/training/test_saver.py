"""Checkpoints are written when due, in the foreground or in a thread; the policy decides about failed writes."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trainer.checkpoint import Checkpointer, safefile
from trainer.checkpoint.state import Position, TrainState
from trainer.runtime.files import CannotWrite
from trainer.training.averages import Averages
from trainer.training.guard import NonFiniteLoss, StepGuard
from trainer.training.saver import Parts, Saver
from trainer.training.stopping import EarlyStopping


class Net(nn.Module):
    def __init__(self, value: float = 0.0):
        super().__init__()
        self.networks = nn.ModuleDict({"depth": nn.Linear(2, 1)})
        nn.init.constant_(self.networks["depth"].weight, value)
        nn.init.constant_(self.networks["depth"].bias, value)


def make_saver(folder, is_main=True, **kwargs):
    accelerator = SimpleNamespace(scaler=None, num_processes=1, process_index=0, device=torch.device("cpu"))
    net = Net()
    checkpointer = Checkpointer(folder, {"config": {}}, "AbsRel", is_main=is_main)
    guard = StepGuard(accelerator, net, checkpointer, None)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    parts = Parts(net, optimizer, None, TrainState(), guard, Averages(), EarlyStopping("AbsRel", 3))
    kwargs = {"warn": lambda text: None, **kwargs}
    return Saver(accelerator, checkpointer, parts, **kwargs), parts


def set_weights(parts, value, step=0):
    with torch.no_grad():
        parts.objective.networks["depth"].weight.fill_(value)
    parts.state.position = Position(step=step)


def saved_value(folder, name="last.safetensors"):
    tensors, metadata = safefile.read(folder / name)
    return float(tensors["networks.depth.weight"][0, 0]), int(metadata["step"])


class Disk:
    """Stands before `safefile.write`: refuses while `full`, waits while `held`."""

    def __init__(self, monkeypatch):
        self.full, self.free, self.write = False, threading.Event(), safefile.write
        self.free.set()
        self.began = threading.Event()
        monkeypatch.setattr(safefile, "write", self)

    def __call__(self, path, *args, **kwargs):
        self.began.set()
        assert self.free.wait(20)
        if self.full:
            raise CannotWrite(f"{path}: cannot be written: No space left on device")
        return self.write(path, *args, **kwargs)


def test_due_every_so_many_steps(tmp_path) -> None:
    saver, _ = make_saver(tmp_path, every_steps=3)
    assert [step for step in range(1, 10) if saver.is_due_at(step)] == [3, 6, 9]
    assert not make_saver(tmp_path)[0].is_due_at(3)


def test_due_by_the_clock_since_the_last_save(tmp_path) -> None:
    seconds = [0.0]
    options = {"every_minutes": 2, "clock": lambda: seconds[0]}
    saver, _ = make_saver(tmp_path, **options)
    other, _ = make_saver(tmp_path, is_main=False, **options)
    due = []
    for seconds[0] in (119.0, 120.0, 239.0, 240.0):
        due.append(saver.is_due_now())
        if due[-1]:
            saver.save_last()
    assert due == [False, True, False, True]
    assert not other.is_due_now()  # the main process's clock decides
    assert not make_saver(tmp_path)[0].is_due_now()


def test_a_write_in_the_background_holds_the_state_at_its_start(tmp_path, monkeypatch) -> None:
    disk = Disk(monkeypatch)
    saver, parts = make_saver(tmp_path, background=True)
    with saver:
        set_weights(parts, 1.0, step=1)
        disk.free.clear()
        saver.save_last()  # returns at once, nothing is written yet
        assert disk.began.wait(20)
        assert not (tmp_path / "last.safetensors").exists()
        set_weights(parts, 2.0, step=2)  # training goes on
        disk.free.set()
    assert saved_value(tmp_path) == (1.0, 1)


def test_writes_follow_one_another_and_the_end_waits(tmp_path) -> None:
    saver, parts = make_saver(tmp_path, background=True)
    with saver:
        for step in range(1, 6):
            set_weights(parts, float(step), step)
            saver.save_last()
        saver.finish()
        assert saved_value(tmp_path) == (5.0, 5)
    assert saved_value(tmp_path, "last.prev.safetensors") == (4.0, 4)
    assert not [t for t in threading.enumerate() if t.name.startswith("checkpoints")]


def test_files_are_the_same_however_they_are_written(tmp_path) -> None:
    for name, background in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        saver, parts = make_saver(tmp_path / name, background=background)
        with saver:
            set_weights(parts, 3.0, step=3)
            saver.save_last()
            assert saver.save_best(parts.objective)
    for file in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_stop_ends_the_run_and_keeps_the_older_file(tmp_path, monkeypatch) -> None:
    disk = Disk(monkeypatch)
    saver, parts = make_saver(tmp_path)
    set_weights(parts, 1.0, step=1)
    saver.save_last()
    disk.full = True
    set_weights(parts, 2.0, step=2)
    with pytest.raises(CannotWrite, match="No space left"):
        saver.save_last()
    assert saved_value(tmp_path) == (1.0, 1)


def test_stop_comes_at_a_later_step_when_writing_in_the_background(tmp_path, monkeypatch) -> None:
    disk = Disk(monkeypatch)
    disk.full = True
    saver, _ = make_saver(tmp_path, background=True)
    disk.free.clear()
    saver.save_last()
    assert not saver.has_to_stop()
    disk.free.set()
    saver._pool.shutdown()
    assert saver.has_to_stop()
    with pytest.raises(CannotWrite, match="No space left"):
        saver.raise_trouble()


@pytest.mark.parametrize("background", [False, True])
def test_continue_warns_and_tries_again(tmp_path, monkeypatch, background) -> None:
    disk, said = Disk(monkeypatch), []
    saver, parts = make_saver(tmp_path, background=background, on_error="continue", warn=said.append)
    disk.full = True
    set_weights(parts, 1.0, step=1)
    saver.save_last()
    assert not saver.save_best(parts.objective)
    assert not saver.has_to_stop()
    assert said
    assert all("No space left" in text and "Training goes on" in text for text in said)
    disk.full = False
    set_weights(parts, 2.0, step=2)
    saver.save_last()
    saver.finish()
    assert saved_value(tmp_path) == (2.0, 2)


@pytest.mark.parametrize("still_full", [True, False])
def test_the_end_tries_once_more_and_then_raises(tmp_path, monkeypatch, still_full) -> None:
    disk = Disk(monkeypatch)
    saver, parts = make_saver(tmp_path, on_error="continue")
    disk.full = True
    set_weights(parts, 1.0, step=1)
    saver.save_last()
    disk.full = still_full
    with pytest.raises(CannotWrite, match="No space left") if still_full else nullcontext():
        saver.finish()
    assert still_full or saved_value(tmp_path) == (1.0, 1)


def test_weights_that_are_not_finite_do_not_replace_a_good_file(tmp_path) -> None:
    saver, parts = make_saver(tmp_path)
    set_weights(parts, 1.0, step=1)
    saver.save_last()
    set_weights(parts, float("inf"), step=2)
    with pytest.raises(NonFiniteLoss):
        saver.save_last()
    assert saved_value(tmp_path) == (1.0, 1)


def test_other_processes_write_nothing(tmp_path) -> None:
    saver, parts = make_saver(tmp_path, is_main=False)
    with saver:
        saver.save_last()
        assert saver.save_best(parts.objective)
        saver.finish()
    assert list(tmp_path.iterdir()) == []


def test_parts_come_back_with_their_state(tmp_path) -> None:
    saver, parts = make_saver(tmp_path)
    parts.stopping.update(0.5, 0)
    parts.guard.epoch, parts.guard.skipped, parts.guard.skipped_in_epoch = 2, 3, 1
    saver.save_last()
    _, again = make_saver(tmp_path)
    again.state = saver.checkpointer.load_last().state
    again.restore()
    assert again.stopping.state_dict() == parts.stopping.state_dict()
    assert again.guard.state_dict() == {"epoch": 2, "skipped": 3, "skipped_in_epoch": 1}
    assert again.state.extra == {}
