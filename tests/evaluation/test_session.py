"""The device, the processes and the progress of an evaluation."""

from __future__ import annotations

import pytest
import torch

from trainer.evaluation import session
from trainer.runtime.processes import FoundByAll, Processes


@pytest.mark.parametrize(("use_cpu", "device"), [("true", "cpu"), ("1", "cpu"), ("false", "cuda"), (None, "cuda")])
def test_a_gpu_is_used_unless_accelerate_is_set_to_the_cpu(monkeypatch, use_cpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    if use_cpu:
        monkeypatch.setenv("ACCELERATE_USE_CPU", use_cpu)
    with session.start() as machine:
        assert machine.device == torch.device(device)


def test_the_first_process_reports_what_all_find(monkeypatch):
    for rank, kind in ((0, FoundByAll), (1, SystemExit)):
        machine = session.Machine(torch.device("cpu"), Processes(rank, 2))
        monkeypatch.setattr(session, "_meet", lambda machine=machine: machine)
        with pytest.raises(kind), session.start():
            raise FoundByAll("nothing was scored")


def test_progress_of_all_processes_is_shown_by_the_first(monkeypatch, capsys):
    monkeypatch.setattr("trainer.tracking.progress.LINE_SECONDS", 0.0)
    for rank, expected in ((0, "depth: 2 of 3 items\ndepth: 3 of 3 items\n"), (1, "")):
        machine = session.Machine(torch.device("cpu"), Processes(rank, 2))
        with session.progress("depth", 3, machine) as on_item:
            on_item()
            on_item()
        assert capsys.readouterr().err == expected
