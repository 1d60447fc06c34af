"""A file is replaced as a whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults.disks import mounted
from tests.runtime.conftest import forked
from trainer.checkpoint import safefile
from trainer.runtime import files
from trainer.runtime.files import CannotWrite

Refuse = Callable[[Any, str, int], None]


def test_killed_while_writing_the_old_file_is_still_good(tmp_path: Path) -> None:
    """A process is killed with the new file staged and not yet renamed; the next start cleans up."""
    path = tmp_path / "last.safetensors"
    safefile.write(path, {"t": torch.ones(3)}, {})

    def write() -> None:
        safefile._verify = lambda *_: time.sleep(60)
        safefile.write(path, {"t": torch.zeros(1000)}, {})

    writer, deadline = forked(write), time.monotonic() + 60
    staged = tmp_path / f".last.safetensors.tmp-{writer.pid}"
    while not (staged.exists() and staged.stat().st_size > 4000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.kill()
    writer.join()
    assert torch.equal(safefile.read(path)[0]["t"], torch.ones(3))
    assert files.clean_stale(tmp_path) == [staged]
    assert list(tmp_path.iterdir()) == [path]


def test_killed_at_any_moment_there_is_always_a_good_file(tmp_path: Path) -> None:
    """Processes that do nothing but write are killed at ten arbitrary moments."""
    path, previous = tmp_path / "last", tmp_path / "last.prev"

    def write(numbers: range = range(1000)) -> None:
        for i in numbers:
            tensors = {"t": torch.full((300_000,), float(i))}
            safefile.write(path, tensors, {"i": str(i)}, keep_previous=previous)

    write(range(998, 1000))
    for k in range(10):
        writer = forked(write)
        time.sleep(0.01 + 0.0037 * k)
        writer.kill()
        writer.join()
        for file in (path, previous):
            if file == path or file.exists():
                tensors, metadata = safefile.read(file)
                assert (tensors["t"] == float(metadata["i"])).all()
        files.clean_stale(tmp_path)
        assert {p.name for p in tmp_path.iterdir()} <= {"last", "last.prev"}


def test_a_file_size_limit_keeps_the_old_file(tmp_path: Path) -> None:
    """The kernel stops the write half way (EFBIG), as a full disk would."""
    path, messages = tmp_path / "x.safetensors", multiprocessing.get_context("fork").SimpleQueue()
    safefile.write(path, {"t": torch.ones(3)}, {})

    def write() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            safefile.write(path, {"t": torch.zeros(1_000_000)}, {})
        except CannotWrite as error:
            messages.put(str(error))

    writer = forked(write)
    message = messages.get()
    writer.join()
    assert f"{path}: cannot be written: File too large" in message
    assert "ulimit -f" in message
    assert "is untouched" in message
    assert torch.equal(safefile.read(path)[0]["t"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_larger_than_its_disk_is_refused(tmp_path: Path) -> None:
    """The old file stays, and no block of the new one."""
    with mounted(tmp_path, 1):
        path = tmp_path / "x.safetensors"
        safefile.write(path, {"t": torch.ones(3)}, {})
        free = shutil.disk_usage(tmp_path).free
        with pytest.raises(CannotWrite, match=r"No space left on device.*is untouched"):
            safefile.write(path, {"t": torch.zeros(300_000)}, {})
        assert torch.equal(safefile.read(path)[0]["t"], torch.ones(3))
        assert list(tmp_path.iterdir()) == [path]
        assert shutil.disk_usage(tmp_path).free == free


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "No space left on device.*MB free.*Free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "Read-only file system.*where you may write"),
        (errno.EACCES, "Permission denied.*where you may write"),
        (errno.EIO, "Check the disk"),
        (errno.ENOENT, "Its folder was deleted or moved while it was in use: put it back, or start the command again"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_refusal_of_the_disk_is_reported_with_a_remedy(
    tmp_path: Path, refuse: Refuse, number: int, fix: str, call: str
) -> None:
    refuse(os, call, number)
    with pytest.raises(CannotWrite, match=f"x.safetensors: cannot be written: .*{fix}") as caught:
        safefile.write(tmp_path / "x.safetensors", {"t": torch.zeros(2)}, {})
    assert "untouched" not in str(caught.value)  # there was nothing before
    assert list(tmp_path.iterdir()) == []


def test_interrupted_by_the_keyboard_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "x") as staged:  # noqa: PT012
        staged.write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_without_hard_links_the_older_file_is_still_kept(tmp_path: Path, refuse: Refuse) -> None:
    refuse(os, "link", errno.EPERM)
    for text in "abc":
        with files.replacing(tmp_path / "x", keep_previous=tmp_path / "previous") as staged:
            staged.write_text(text)
    assert (tmp_path / "x").read_text() == "c"
    assert (tmp_path / "previous").read_text() == "b"


def test_a_failed_second_name_keeps_the_old_file(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "x").write_text("old")
    refuse(os, "link", errno.EIO)
    with pytest.raises(CannotWrite), files.replacing(tmp_path / "x", keep_previous=tmp_path / "p") as staged:
        staged.write_text("new")
    assert (tmp_path / "x").read_text() == "old"


def test_only_files_of_dead_processes_are_cleaned(tmp_path: Path) -> None:
    dead = forked(lambda: None)
    dead.join()
    mine, theirs = tmp_path / f".x.tmp-{os.getpid()}", tmp_path / ".x.tmp-1"
    others = [tmp_path / ".x.tmp-abc", tmp_path / "x.tmp-99999999"]
    stale = [tmp_path / f".x.tmp-{dead.pid}", tmp_path / f".x.tmp-{10**30}"]
    for path in (mine, theirs, *others, *stale):
        path.touch()
    assert sorted(files.clean_stale(tmp_path)) == sorted(stale)
    assert sorted(tmp_path.iterdir()) == sorted([mine, theirs, *others])


def test_too_small_a_disk_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))
    files.require_space(tmp_path, 10**9, "checkpoints")
    with pytest.raises(CannotWrite, match="checkpoints need 1001 MB, but only 1000 MB are free"):
        files.require_space(tmp_path, 1_001_000_000, "checkpoints")


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace = os.replace

    def renaming(source: Path, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda fd: done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"))
    monkeypatch.setattr(os, "replace", renaming)
    files.write_text(tmp_path / "note", "new")
    safefile.write(tmp_path / "weights", {"t": torch.ones(1)}, {})
    assert done == ["file", "rename", "folder"] * 2


def test_a_disk_that_is_gone_is_said_before_training(tmp_path: Path, refuse) -> None:
    refuse(files.shutil, "disk_usage", errno.ESTALE)
    with pytest.raises(files.CannotWrite, match=f"{tmp_path}: cannot be written: Stale file handle"):
        files.require_space(tmp_path, 1, "checkpoints")
