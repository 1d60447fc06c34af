"""Event files: what TensorBoard shows, whatever happened to the files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from tests.runs import scalars
from trainer.tables.events import read_events


def write(run: Path, steps: range, purge: int | None = None, value: float = 1.0) -> Path:
    known = set(run.glob("events*"))
    with SummaryWriter(str(run), purge_step=purge) as writer:
        for step in steps:
            writer.add_scalar("val/AbsRel", value * step, step)
    (path,) = set(run.glob("events*")) - known
    return path.rename(run / f"events.out.tfevents.{len(known)}")


def steps_of(run: Path) -> list[int]:
    return [step for step, _, _ in read_events(run).points["val/AbsRel"]]


def test_a_run_that_continues_hides_what_it_writes_again(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    write(tmp_path, range(4, 8), purge=4, value=10.0)
    found = read_events(tmp_path)
    assert [(s, v) for s, v, _ in found.points["val/AbsRel"]] == scalars(tmp_path)["val/AbsRel"]
    assert [s * (10 if s > 3 else 1) for s in range(1, 8)] == found.curves["val/AbsRel"][1].tolist()
    assert found.first <= found.last


def test_a_record_that_is_being_written_is_not_damage(tmp_path: Path) -> None:
    path = write(tmp_path, range(5))
    for cut in (1, 20, 40):
        path.write_bytes(path.read_bytes()[:-cut])
        assert read_events(tmp_path).problems == []
    assert steps_of(tmp_path)[:3] == [0, 1, 2]


@pytest.mark.parametrize("of_length", [True, False])
def test_damage_costs_the_rest_of_one_file(tmp_path: Path, of_length: bool) -> None:
    first = write(tmp_path, range(4))
    write(tmp_path, range(4, 6))
    content = bytearray(first.read_bytes())
    place = content.rindex(b"val/AbsRel")
    record = content.rindex(b"\x09", 0, place) - 12  # an event begins with the tag of its time, behind 12 bytes
    content[record if of_length else place] ^= 1
    first.write_bytes(content)
    found = read_events(tmp_path)
    assert steps_of(tmp_path) == [0, 1, 2, 4, 5]
    (problem,) = found.problems
    assert problem.startswith(f"{first}: damaged at byte ")


def test_a_pipe_or_nonsense_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.out.tfevents.pipe")
    (tmp_path / "events.out.tfevents.text").write_text("not an event file at all")
    assert len(read_events(tmp_path).problems) == 2
