"""Files damaged between two starts: always noticed, never loaded; the one before takes their place."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.fakes import make_batch, make_objective
from tests.faults.damage import DAMAGES, flipped, header_size, tensor_ranges
from tests.faults.supervisor import Check, Kill, Supervisor
from trainer.checkpoint import Checkpointer
from trainer.checkpoint.safefile import DamagedFile, read
from trainer.checkpoint.state import Position, TrainState
from trainer.runtime.rundir import LAST, PREVIOUS

OPTIONS = ("trainer.max_epochs=1",)
FALLBACK = "Continuing from the checkpoint before it, last.prev.safetensors"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Supervisor:
    """A run killed after its third step of four: `last` holds step 3, the one before step 2."""
    run = Supervisor(tmp_path_factory.mktemp("stopped"), OPTIONS, forks=True)
    run.kill(Kill("last:renamed", skip=2))
    assert (run.saved, run.readable_previous()) == (3, 2)
    return run


def contents(run: Supervisor) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.last.parent.iterdir()}


def damaged_bytes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every damage: a bit in each byte of the length, in many of the header, in each tensor; cuts; other content."""
    for index in range(8):
        yield f"bit 0 of byte {index}", flipped(data, index)
    rng = random.Random(0)
    for index in sorted(rng.sample(range(8, header_size(data)), 150)):
        yield f"a bit of byte {index} of the header", flipped(data, index, rng.randrange(8))
    for name, first, end in tensor_ranges(data):
        if end > first:
            index = rng.randrange(first, end)
            yield f"a bit of {name}, byte {index}", flipped(data, index, rng.randrange(8))
    for percent in range(0, 100, 10):
        yield f"cut at {percent} %", data[: len(data) * percent // 100]
    yield "cut by one byte", data[:-1]
    yield from ((name, damage(data)) for name, damage in DAMAGES.items())


def test_every_damage_is_noticed_and_the_one_before_is_read(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, hparams={}, monitor="loss")
    objective = make_objective()
    optimizer = torch.optim.Adam(objective.parameters())
    for step in (2, 3):
        objective(make_batch(seed=step)).loss.backward()
        optimizer.step()
        state = TrainState(Position(step=step))
        checkpointer.write_last(*checkpointer.pack_last(objective, optimizer, None, None, state))
    last, previous = tmp_path / LAST, tmp_path / PREVIOUS
    data, (before, _) = last.read_bytes(), read(previous)
    for name, damaged in damaged_bytes(data):
        assert damaged != data, name
        last.write_bytes(damaged)
        saved = checkpointer.load_last()
        assert saved is not None, name
        assert (saved.path, saved.state.position.step) == (previous, 2), name
        assert len(saved.notes) == 1, name
        assert str(last) in saved.notes[0], name
        assert all(saved.tensors[key].equal(before[key]) for key in before), name
    previous.write_bytes(flipped(previous.read_bytes(), -1))
    with pytest.raises(DamagedFile, match="The one before is no better"):
        checkpointer.load_last()


def continues_from_the_one_before(run: Supervisor, ends_alike: Check) -> None:
    run.expect(2)
    start = run.finish()
    assert start.code == 0, start.output[-3000:]
    assert (start.began, start.trained) == (2, 2)
    assert start.output.count(FALLBACK) == 1
    ends_alike(run)


@pytest.mark.long
@pytest.mark.slow
def test_a_run_with_a_damaged_last_ends_with_the_same_bytes(
    stopped: Supervisor, tmp_path: Path, ends_alike: Check
) -> None:
    run = stopped.copy(tmp_path)
    run.last.write_bytes(DAMAGES["a bit of the first tensor"](run.last.read_bytes()))
    (run.last.parent / ".last.safetensors.tmp-4194305").write_bytes(b"half")  # no such process can be alive
    (run.last.parent / ".best.safetensors.tmp-4194305").write_bytes(b"half")
    continues_from_the_one_before(run, ends_alike)


@pytest.mark.long
@pytest.mark.parametrize("damage", [*DAMAGES, "removed"])
def test_a_run_continues_after(damage: str, stopped: Supervisor, tmp_path: Path, ends_alike: Check) -> None:
    run = stopped.copy(tmp_path)
    data = run.last.read_bytes()
    run.last.unlink()
    if damage in DAMAGES:
        run.last.write_bytes(DAMAGES[damage](data))
    continues_from_the_one_before(run, ends_alike)


@pytest.mark.long
def test_damaged_twice_in_a_row(stopped: Supervisor, tmp_path: Path, ends_alike: Check) -> None:
    """A damaged `last` must not take the place of the good one before it when the next save is killed."""
    run = stopped.copy(tmp_path)
    run.last.write_bytes(DAMAGES["a bit of the tail"](run.last.read_bytes()))
    run.expect(2)
    run.kill(Kill("last:renamed"))  # step 3 again
    assert (run.saved, run.readable_previous()) == (3, 2)
    run.last.write_bytes(DAMAGES["a bit of the header"](run.last.read_bytes()))
    continues_from_the_one_before(run, ends_alike)


@pytest.mark.long
def test_both_damaged_is_an_error_and_nothing_is_overwritten(stopped: Supervisor, tmp_path: Path) -> None:
    run = stopped.copy(tmp_path)
    for path in (run.last, run.previous):
        path.write_bytes(DAMAGES["a bit of the tail"](path.read_bytes()))
    run.expect(3)
    before = contents(run)
    start = run.finish()
    assert start.code == 2
    assert start.output.count("error: ") == 1
    assert "Traceback" not in start.output
    assert str(run.last) in start.output
    assert str(run.previous) in start.output
    assert contents(run) == before


@pytest.mark.long
def test_the_file_of_another_run_is_refused(stopped: Supervisor, tmp_path: Path) -> None:
    """It is whole, so the one before is not needed: a person has to say which of the two was meant."""
    run, other = stopped.copy(tmp_path / "ours"), Supervisor(tmp_path / "other", OPTIONS)
    other.seed = 43
    other.kill(Kill("last:renamed", skip=1))
    run.last.write_bytes(other.last.read_bytes())
    run.expect(2)
    before = contents(run)
    start = run.finish()
    assert start.code == 2
    assert start.output.count("error: ") == 1
    assert "seed: 43 -> 42" in start.output
    assert contents(run) == before
