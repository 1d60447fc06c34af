"""A file is replaced as a whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from tests.world import ROOT
from trainer.checkpoint import safefile
from trainer.runtime import files
from trainer.runtime.files import CannotWrite


def run(code: str, *args: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], env=environment, stdout=subprocess.PIPE
    )


def test_killed_while_writing_the_old_file_is_still_good(tmp_path: Path) -> None:
    """A process is killed with the new file staged and not yet renamed; the next start cleans up."""
    path = tmp_path / "last.safetensors"
    safefile.write(path, {"t": torch.ones(3)}, {})
    code = (
        "import sys, time, torch; from pathlib import Path; from trainer.checkpoint import safefile\n"
        "safefile._verify = lambda *_: (print('staged', flush=True), time.sleep(60))\n"
        "safefile.write(Path(sys.argv[1]), {'t': torch.zeros(1000)}, {})\n"
    )
    writer = run(code, path)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"staged\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    staged = tmp_path / f".last.safetensors.tmp-{writer.pid}"
    assert staged.stat().st_size > 4000
    assert torch.equal(safefile.read(path)[0]["t"], torch.ones(3))
    assert files.clean_stale(tmp_path) == [staged]
    assert list(tmp_path.iterdir()) == [path]


def test_killed_at_any_moment_there_is_always_a_good_file(tmp_path: Path) -> None:
    """Processes that do nothing but write are killed at ten arbitrary moments."""
    code = """
import multiprocessing, sys, time, torch
from pathlib import Path
from trainer.checkpoint import safefile; from trainer.runtime import files
folder = Path(sys.argv[1])
path, previous = folder / "last", folder / "last.prev"
def write_on(first):
    for i in range(first, 1000):
        tensor = torch.full((300_000,), float(i))
        safefile.write(path, {"t": tensor}, {"i": str(i)}, keep_previous=previous)
write_on(998)
for k in range(10):
    process = multiprocessing.get_context("fork").Process(target=write_on, args=(0,))
    process.start()
    time.sleep(0.01 + 0.0037 * k)
    process.kill()
    process.join()
    for file in (path, previous):
        if file == path or file.exists():
            tensors, metadata = safefile.read(file)
            assert (tensors["t"] == float(metadata["i"])).all()
    files.clean_stale(folder)
    assert {p.name for p in folder.iterdir()} <= {"last", "last.prev"}
"""
    killer = run(code, tmp_path)
    killer.communicate()
    assert killer.returncode == 0


def test_a_file_size_limit_keeps_the_old_file(tmp_path: Path) -> None:
    """The kernel stops the write half way (EFBIG), as a full disk would."""
    path = tmp_path / "x.safetensors"
    safefile.write(path, {"t": torch.ones(3)}, {})
    code = (
        "import resource, signal, sys, torch; from pathlib import Path; from trainer.checkpoint import safefile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: safefile.write(Path(sys.argv[1]), {'t': torch.zeros(1_000_000)}, {})\n"
        "except safefile.UserError as error: print(error)\n"
    )
    output = run(code, path).communicate()[0].decode()
    assert f"{path}: cannot be written: File too large" in output
    assert "ulimit -f" in output
    assert "is untouched" in output
    assert torch.equal(safefile.read(path)[0]["t"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "No space left on device.*MB free.*Free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "Read-only file system.*where you may write"),
        (errno.EACCES, "Permission denied.*where you may write"),
        (errno.EIO, "Check the disk"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_the_disk_refuses_is_told_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str, call: str
) -> None:
    path = tmp_path / "x.safetensors"

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(CannotWrite, match=f"x.safetensors: cannot be written: .*{fix}") as caught:
        safefile.write(path, {"t": torch.zeros(2)}, {})
    assert "untouched" not in str(caught.value)  # there was nothing before
    assert list(tmp_path.iterdir()) == []


def test_interrupted_by_the_keyboard_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "x") as staged:  # noqa: PT012
        staged.write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_without_hard_links_the_older_file_is_still_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    for text in "abc":
        with files.replacing(tmp_path / "x", keep_previous=tmp_path / "previous") as staged:
            staged.write_text(text)
    assert (tmp_path / "x").read_text() == "c"
    assert (tmp_path / "previous").read_text() == "b"


def test_a_failed_second_name_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    (tmp_path / "x").write_text("old")
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(CannotWrite), files.replacing(tmp_path / "x", keep_previous=tmp_path / "p") as staged:
        staged.write_text("new")
    assert (tmp_path / "x").read_text() == "old"


def test_only_what_the_dead_left_is_cleaned(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
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

    monkeypatch.setattr(
        os, "fsync", lambda fd: done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
    )
    monkeypatch.setattr(os, "replace", renaming)
    files.write_text(tmp_path / "note", "new")
    safefile.write(tmp_path / "weights", {"t": torch.ones(1)}, {})
    assert done == ["file", "rename", "folder"] * 2
