"""`monodepth doctor` reports what is there and names what does not work with its fix; no check keeps others waiting."""

from __future__ import annotations

import email
import getpass
import importlib.metadata
import json
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from tests.world import call
from trainer import __version__
from trainer.commands.jobs import checkup, doctor, trials
from trainer.commands.jobs.doctor import Problem, anonymous, examine

QUICK = dict.fromkeys(("extras", "machine"), 60.0)  # these import no torch, and ask little of a machine


def test_all_that_is_well_is_printed_and_the_exit_code_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LIMITS", QUICK)
    done = call("launch/doctor.py")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "extras"
    assert {"machine", "all is well"} <= set(lines)
    assert lines[lines.index("machine") + 1].startswith("  cores             ")
    told = json.loads(call("launch/doctor.py", "--json").stdout)
    assert (told["ok"], told["version"], [*told["checks"]]) == (True, __version__, [*QUICK])
    assert told["checks"]["machine"]["facts"].keys() >= {"cores", "memory", "load"}


def test_a_check_that_hangs_or_crashes_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time for the first; the second imports a package that kills its process; the third is run all the same."""
    (tmp_path / "psutil.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(tmp_path)
    results = dict(examine({"software": 0.0, "machine": 60.0, "disks": 60.0}))
    assert results["software"].problems == [Problem("the check gave no answer within 0 s", doctor.REPORT)]
    assert results["machine"].problems == [Problem("the check died of SIGSEGV", doctor.REPORT)]
    assert "working directory" in results["disks"].facts


def test_what_does_not_work_comes_last_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LIMITS", {"extras": 60.0, "nothing": 60.0})  # there is no such check
    done = call("launch/doctor.py")
    assert done.returncode == 1
    last = ["not well: 1", "  nothing: KeyError: 'nothing'", "    fix: paste this report into a bug report"]
    assert done.stdout.splitlines()[-3:] == last


def test_packages_that_are_missing_or_too_old_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version("torch")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch<1", "no-such>=2", 'a; extra == "b"'])
    found = list(checkup.software())
    assert ("torch", version) in found
    assert found[-2:] == [
        Problem(f"torch {version} is not <1", 'pip install "torch<1"'),
        Problem("no-such is missing", 'pip install "no-such>=2"'),
    ]


def test_extras_are_those_of_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Name: x\nProvides-Extra: video\nProvides-Extra: lines\nRequires-Dist: torch\n"
    text += 'Requires-Dist: no-such>=2; extra == "video"\nRequires-Dist: torch>=1; extra == "lines"\n'
    metadata = email.message_from_string(text)
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: metadata)
    assert list(checkup.extras()) == [
        ("video", "no-such missing"),
        ("lines", f"torch {importlib.metadata.version('torch')}"),
    ]


def test_too_little_room_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(64_000_000, 0, 64_000_000))
    problems = [found.what for found in checkup.disks() if isinstance(found, Problem)]
    assert f"{Path.cwd()} has 0.06 GB free" in problems
    if Path("/dev/shm").is_dir():
        assert problems[-1] == "/dev/shm has 0.06 GB free, where workers put their batches"


def test_a_step_and_a_checkpoint_are_tried_where_training_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("training runs on", trials.device_type()) in list(trials.devices())
    assert [name for name, _ in trials.training_step()] == ["three steps"]
    assert [name for name, _ in trials.checkpoint()] == ["written and read"]
    monkeypatch.setattr(torch, "isfinite", lambda x: torch.zeros((), dtype=torch.bool))
    *_, problem = trials.training_step()
    assert isinstance(problem, Problem)
    assert "numbers that are not finite" in problem.what


@pytest.mark.long
def test_processes_that_do_not_meet_say_why_and_how_they_would(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(trials.processes()) == [("two processes", "meet over gloo and add")]
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    (problem,) = trials.processes()
    assert isinstance(problem, Problem)
    assert "Unable to find address for: nowhere0" in problem.what
    assert problem.fix.startswith("export GLOO_SOCKET_IFNAME=lo")


def test_a_report_names_no_user_home_or_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    monkeypatch.setattr(socket, "gethostname", lambda: "lovelace")
    assert (
        anonymous("/home/ada/data /home/adam /scratch/ada/x adaptive") == "~/data /home/adam /scratch/USER/x adaptive"
    )
    assert anonymous("no route to lovelace: lovelace.example.org") == "no route to HOST: HOST.example.org"
