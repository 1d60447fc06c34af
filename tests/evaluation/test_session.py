"""The device, the processes and the progress of an evaluation."""

from __future__ import annotations

import pytest
import torch

from trainer.evaluation import session
from trainer.runtime.processes import FoundByAll, Processes


@pytest.mark.parametrize(
    ("use_cpu", "device"), [("true", "cpu"), ("1", "cpu"), ("false", "cuda"), (None, "cuda")]
)
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


def test_without_a_terminal_progress_is_a_line_a_minute(monkeypatch, capsys):
    now = iter([])
    monkeypatch.setattr(session.time, "monotonic", lambda: next(now))
    for rank, expected in ((0, "depth: 4 of 7 items\ndepth: 7 of 7 items\n"), (1, "")):
        now = iter([0, 30, 61, 61, 62, 122, 122])
        machine = session.Machine(torch.device("cpu"), Processes(rank, 2))
        with session.progress("depth", 7, machine) as on_item:
            for _ in range(4):
                on_item()
        assert capsys.readouterr().err == expected
