"""A run folder belongs to one process while that lives, and keeps the state of the run."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.conftest import forked
from tests.world import environment
from trainer.checkpoint.state import Position
from trainer.runtime import rundir
from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite
from trainer.runtime.rundir import RunDir, diff_config, read_hparams

Refuse = Callable[[Any, str, int], None]

HOLD = """
import multiprocessing, sys, time
from trainer.runtime.rundir import RunDir
def wait(seconds):
    print("ready", flush=True)
    time.sleep(seconds)
run = RunDir(sys.argv[1], "m", "42").open()
if len(sys.argv) > 2:
    multiprocessing.get_context("fork").Process(target=wait, args=(5,)).start()
    time.sleep(60)
wait(60)
"""


@contextmanager
def held(folder: Path, *worker: str) -> Iterator[int]:
    """Hold the lock of run m/42 in another process until the block ends; yields its id."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *worker], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_folder_is_laid_out_as_promised(tmp_path: Path) -> None:
    with RunDir(tmp_path / "models" / "kitti", "mono", "042") as run:
        assert run.path == tmp_path / "models" / "kitti" / "mono" / "042"
        assert run.ckpts.is_dir()
        assert run.results.is_dir()
        assert run.last_path == run.path / "ckpts" / "last.safetensors"
        assert run.best_path == run.path / "ckpts" / "best.safetensors"
        assert run.capsule_path(7, 1) == run.path / "capsules" / "step_00000007_rank_1.safetensors"


def test_making_the_object_touches_nothing(tmp_path: Path) -> None:
    RunDir(tmp_path, "m", "42")
    assert list(tmp_path.iterdir()) == []


def test_other_processes_leave_no_trace(tmp_path: Path) -> None:
    with RunDir(tmp_path, "m", "42", is_main=False) as run:
        run.write_state("running", Position())
        run.write_hparams({"config": {}})
        assert not run.is_finished
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["", ".", "..", "a/b", "../a", ".hidden", "-v", "a b", "a\n", "x" * 201, "ü" * 101])
def test_names_of_no_folder_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"--name .* cannot name a folder"):
        RunDir(tmp_path, value, "42")
    with pytest.raises(UserError, match=r"--version .* cannot name a folder"):
        RunDir(tmp_path, "m", value)


@pytest.mark.parametrize("value", ["42", "monodepth2_MS", "lr=1e-4,b=12", "größe", "v1.0+fix@home"])
def test_names_are_used_as_given(tmp_path: Path, value: str) -> None:
    assert RunDir(tmp_path, value, value).path == tmp_path / value / value


def test_a_second_run_names_the_first(tmp_path: Path) -> None:
    with held(tmp_path) as pid, pytest.raises(UserError) as caught:
        RunDir(tmp_path, "m", "42").open()
    assert f"process {pid} on {os.uname().nodename}, since 20" in str(caught.value)
    assert "another --version" in str(caught.value)
    RunDir(tmp_path, "m", "43").open().close()


@pytest.mark.parametrize("worker", [(), ("worker",)], ids=["alone", "with a worker that survives"])
def test_the_lock_dies_with_its_process(tmp_path: Path, worker: tuple[str, ...]) -> None:
    """No stale lock after SIGKILL, not even while a forked loader worker still lives."""
    with held(tmp_path, *worker):
        pass
    with RunDir(tmp_path, "m", "42") as run:
        assert json.loads((run.path / ".lock").read_text())["pid"] == os.getpid()


def test_a_closed_folder_can_be_opened_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path, "m", "42")
    assert run.open() is run.open() is run  # opening twice is opening once
    with pytest.raises(UserError, match="another run is writing here"):
        RunDir(tmp_path, "m", "42").open()
    run.close()
    run.close()
    RunDir(tmp_path, "m", "42").open().close()


def test_an_unsigned_lock_is_still_a_lock(tmp_path: Path) -> None:
    with RunDir(tmp_path, "m", "42") as run:
        (run.path / ".lock").write_text("")
        with pytest.raises(UserError, match=r"process \? on \?"):
            RunDir(tmp_path, "m", "42").open()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, None])
def test_a_disk_or_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Refuse, caplog: Any, number: int | None
) -> None:
    if number is None:
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        refuse(fcntl, "flock", number)
    with RunDir(tmp_path, "m", "42"):
        assert "only one run" in caplog.text


@pytest.mark.parametrize(
    ("owner", "call", "number", "message"),
    [
        (fcntl, "flock", errno.EIO, r"\.lock: cannot be written: Input/output error"),
        (rundir.os, "open", errno.EACCES, r"\.lock: cannot be written: Permission denied.*may write"),
        (Path, "mkdir", errno.EROFS, "42: cannot be made: Read-only file system.*where you may write"),
        (Path, "mkdir", errno.EACCES, "42: cannot be made: Permission denied.*may write"),
        (Path, "mkdir", errno.ENOSPC, "42: cannot be made: No space left on device.*Free some"),
    ],
)
def test_a_refusal_of_the_disk_is_reported_with_a_remedy(
    tmp_path: Path, refuse: Refuse, owner: Any, call: str, number: int, message: str
) -> None:
    refuse(owner, call, number)
    with pytest.raises(CannotWrite, match=message):
        RunDir(tmp_path, "m", "42").open()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("")
    with pytest.raises(CannotWrite, match=r"/m: is a file, but a folder is needed there"):
        RunDir(tmp_path, "m", "42").open()


def test_opening_deletes_files_of_a_killed_process(tmp_path: Path) -> None:
    dead = forked(lambda: None)
    dead.join()
    with RunDir(tmp_path, "m", "42") as run:
        stale = [folder / f".x.tmp-{dead.pid}" for folder in (run.path, run.ckpts, run.results)]
    for path in stale:
        path.touch()
    with RunDir(tmp_path, "m", "42"):
        assert not any(path.exists() for path in stale)


def test_the_state_of_a_run_is_written_and_read(tmp_path: Path) -> None:
    with RunDir(tmp_path, "m", "42") as run:
        assert run.read_state() is None
        run.write_state("running", Position(1, 5, 17))
        assert not run.is_finished
        run.write_state("finished", Position(2, 0, 24))
        assert run.is_finished
        state = run.read_state()
        assert state is not None
        assert (state.state, state.epoch, state.step, state.pid) == ("finished", 2, 24, os.getpid())
        assert abs((datetime.now().astimezone() - datetime.fromisoformat(state.time)).total_seconds()) < 3600
        assert json.loads(run.state_path.read_text()) == vars(state)
        run.write_state("finished", Position(2, 0, 24), "nothing", 1.5)
        state = run.read_state()
        assert state is not None
        assert (state.learned, state.constant_ratio) == ("nothing", 1.5)
        older = {key: value for key, value in vars(state).items() if key not in ("learned", "constant_ratio")}
        run.state_path.write_text(json.dumps(older))
        assert run.is_finished
        with pytest.raises(ValueError, match="'done' is not a state"):
            run.write_state("done", Position())


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"state": "running"}', "\udcff"])
def test_an_unreadable_state_hinders_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    with RunDir(tmp_path, "m", "42") as run:
        run.state_path.write_bytes(text.encode(errors="surrogateescape"))
        assert run.read_state() is None
        run.state_path.unlink()
        os.mkfifo(run.state_path)  # would keep a reader waiting
        assert run.read_state() is None
        assert not run.is_finished
    assert "state.json is ignored" in caplog.text


def test_hparams_survive_being_written_for_people(tmp_path: Path) -> None:
    hparams = {
        "name": "m",
        "version": "42",
        "seed": 42,
        "config": {
            "optimizer": {"lr": 1e-4, "betas": (0.9, 0.999), "text": "1e-4"},
            "trainer": {"clip": math.inf, "load_ckpt": None, "benchmark": True, "root": Path("/data")},
            "loss": {"b": {"weight": 1}, "a": {"weight": 1e-3}},
            "größe": [640, 192],
        },
    }
    with RunDir(tmp_path, "m", "42") as run:
        run.write_hparams(hparams, command=["train", "-c", "x y.yaml"])
        read = read_hparams(run.hparams_path)
        text = run.hparams_path.read_text()
    assert read.pop("command") == ["train", "-c", "x y.yaml"]
    assert diff_config(hparams, read) == []
    assert list(read["config"]["loss"]) == ["b", "a"]  # the order of losses is the order of their sum
    assert text.startswith("# ")
    assert "  größe: [640, 192]\n" in text
    assert read["config"]["optimizer"]["text"] == "1e-4"


def test_hparams_that_are_not_data_are_refused(tmp_path: Path) -> None:
    with RunDir(tmp_path, "m", "42") as run, pytest.raises(TypeError, match="expected plain data"):
        run.write_hparams({"config": {"f": print}})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1", "no section `config`"),
        ("config: 3", "no section `config`"),
        ("a: [", "not valid YAML"),
        ("", "holds nothing"),
    ],
)
def test_a_useless_hparams_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "h.yaml").write_text(text)
    with pytest.raises(UserError, match=reason):
        read_hparams(tmp_path / "h.yaml")
    with pytest.raises(UserError, match="no such file"):
        read_hparams(tmp_path / "nothing.yaml")


def test_differences_are_listed_by_dotted_key() -> None:
    old = {"seed": 1, "net": {"depth": {"enc_name": "resnet18"}}, "loss": {"a": {"weight": 1}}, "x": {}}
    new = {"seed": 1, "net": {"depth": {"enc_name": "resnet50"}}, "loss": {"b": {"weight": 1}}, "x": {}}
    assert diff_config(old, new) == [
        "net.depth.enc_name: resnet18 -> resnet50",
        "loss.a.weight: 1 -> (absent)",
        "loss.b.weight: (absent) -> 1",
    ]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ((1, 2), [1, 2], True),
        (1, 1.0, True),
        (math.nan, math.nan, True),
        ([math.nan], [math.nan], True),
        (1, True, False),
        (0, False, False),
        (None, False, False),
        ("1", 1, False),
        ([1, 2], [2, 1], False),
        ([1], [1, 2], False),
        ([{"a": (1,)}], [{"a": [1]}], True),
        ([{"a": 1}], [{"a": True}], False),
        ({}, None, False),
    ],
)
def test_values_are_compared_as_yaml_means_them(old: object, new: object, same: bool) -> None:
    assert (diff_config({"k": old}, {"k": new}) == []) is same


def test_the_lock_of_another_machine_says_what_to_do_when_that_is_dead(tmp_path: Path, monkeypatch) -> None:
    with RunDir(tmp_path, "m", "42") as run:
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")  # this one from there
        with pytest.raises(UserError) as caught:
            RunDir(tmp_path, "m", "42").open()
    assert " is dead, the file server releases the lock when it notices" in str(caught.value)
    assert f"deleting {run.path / '.lock'} does the same" in str(caught.value)
