"""Disks that are full, broken or closed: the run says so, and the last good checkpoint stays."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.faults.account import Start
from tests.faults.disks import fill, unchangeable
from tests.faults.supervisor import STEPS_PER_EPOCH, Check, Kill, Supervisor
from trainer.checkpoint.safefile import read

OPTIONS = ("trainer.max_epochs=2",)
SAID = {
    "ENOSPC": "No space left on device",
    "EDQUOT": "Your quota is used up",
    "EIO": "Input/output error",
    "EROFS": "Read-only file system",
    "flip": "what was read back differs from what was written",
}
# (moment, what happens there): every system call of a save, each with an error that it can give.
FAULTS = [
    ("last:open", "ENOSPC"),
    ("last:half", "ENOSPC"),
    ("last:half", "EDQUOT"),
    ("last:fsync", "EIO"),
    ("last:synced", "flip"),
    ("last:verify", "EIO"),
    ("last:unlink", "EROFS"),
    ("last:link", "ENOSPC"),
    ("last:rename", "EIO"),
    ("best:half", "ENOSPC"),
    ("best:synced", "flip"),
    ("best:rename", "EDQUOT"),
]


def meet(run: Supervisor, fault: tuple[str, str]) -> Start:
    """Start a run that meets a fault in its second save of `last`, or in its first of `best`."""
    at, what = fault
    return run.finish(at=at, do=what, skip="1" if at.startswith("last") else "0")


each_fault = pytest.mark.parametrize("fault", FAULTS, ids=" ".join)


@pytest.mark.long
@each_fault
def test_an_error_at_any_moment_of_a_save(
    fault: tuple[str, str], saving: str, tmp_path: Path, ends_alike: Check
) -> None:
    """The start ends with one sentence about the file, and leaves the newest good `last` and nothing half-written."""
    run, is_last = Supervisor(tmp_path, (*OPTIONS, saving)), fault[0].startswith("last")
    start = meet(run, fault)
    # Later than 1: the disk failed after a new name, or while the training went on, which then saved once more.
    assert run.saved in (range(1, STEPS_PER_EPOCH + 1) if is_last else (STEPS_PER_EPOCH,))
    assert start.code == 1, start.output[-3000:]
    assert start.output.count("error: ") == 1
    assert "Traceback" not in start.output
    assert str(run.last if is_last else run.best) in start.output
    assert SAID[fault[1]] in start.output
    assert run.state["state"] == "failed"
    assert int(read(run.last)[1]["step"]) == run.saved
    assert not list(run.last.parent.glob(".*.tmp-*"))
    assert run.finish().code == 0
    ends_alike(run)


@pytest.mark.long
@each_fault
def test_a_run_told_to_continue_goes_on_after(
    fault: tuple[str, str], saving: str, tmp_path: Path, ends_alike: Check
) -> None:
    """The next save makes up for the one that failed."""
    run = Supervisor(tmp_path, (*OPTIONS, saving, "trainer.on_save_error=continue"))
    start = meet(run, fault)
    assert start.code == 0, start.output[-3000:]
    assert start.output.count("warning: ") == 1
    assert SAID[fault[1]] in start.output
    assert start.trained == 2 * STEPS_PER_EPOCH
    ends_alike(run)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["last", "best"])
def test_a_full_disk(kind: str, saving: str, disk: Path, ends_alike: Check) -> None:
    """The disk is full to the last byte in the middle of a run; with space again it ends with the same bytes."""
    options = ("trainer.max_epochs=24", saving)
    run = Supervisor(disk, options)
    process = run.begin()
    assert run.wait_for(process, "done in" if kind == "last" else "validating")
    filler = fill(disk)
    start = run.end(process)
    assert start.code == 1, start.output[-3000:]
    assert "Traceback" not in start.output
    assert "No space left on device" in start.output
    assert str(run.last.parent) in start.output
    step = int(read(run.last)[1]["step"])
    assert step == run.saved
    assert not list(run.last.parent.glob(".*.tmp-*"))
    again = run.finish()  # still full: it must not take long to say so, nor spoil anything
    assert again.code in (1, 2), again.output[-3000:]
    assert "Traceback" not in again.output
    assert "error: " in again.output
    assert int(read(run.last)[1]["step"]) == step
    filler.unlink()
    assert run.finish().code == 0
    ends_alike(run)


@pytest.mark.long
def test_a_folder_that_becomes_read_only(saving: str, tmp_path: Path, ends_alike: Check) -> None:
    options = ("trainer.max_epochs=24", saving)
    run = Supervisor(tmp_path, options)
    process = run.begin()
    assert run.wait_for(process, "done in")
    with unchangeable(run.last.parent):
        start = run.end(process)
        assert start.code == 1, start.output[-3000:]
        assert start.output.count("error: ") == 1
        assert "Choose a folder where you may write" in start.output
        assert "Traceback" not in start.output
        assert run.state["state"] == "failed"
        assert int(read(run.last)[1]["step"]) == run.saved
    assert run.finish().code == 0
    ends_alike(run)


@pytest.mark.long
def test_a_disk_that_is_read_only_from_the_start(disk: Path) -> None:
    run = Supervisor(disk, OPTIONS)
    run.kill(Kill("last:renamed"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = run.last.read_bytes()
    start = Supervisor(disk, OPTIONS, notes=disk.parent).finish()
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert start.code == 2
    assert "\nerror: " in f"\n{start.output}"
    assert "Read-only file system" in start.output
    assert "Traceback" not in start.output
    assert run.last.read_bytes() == before
