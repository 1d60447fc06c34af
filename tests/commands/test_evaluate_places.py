"""`evaluate`: where it looks for a run, where it writes, on what it computes, and how it ends when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.commands.test_evaluate import write_run
from trainer.commands.evaluate import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on video."""
    return write_run(tmp_path_factory.mktemp("runs") / "md2" / "42", [-1, 1])


@pytest.mark.parametrize("given", ["", "md2", "md2/43", "md3"])
def test_a_folder_above_runs_names_them(tmp_path, capsys, given):
    for version in ("42", "7"):
        write_run(tmp_path / "exp" / "md2" / version, [-1, 1])
    place = tmp_path / "exp" / given
    assert main(["--ckpt", str(place)]) == 2
    err = capsys.readouterr().err
    assert f"error: {place}: " in err
    assert ("42, 7" if given.startswith("md2") else "md2/42, md2/7") in err


def test_of_many_runs_the_first_are_named(tmp_path, capsys):
    for version in range(12):
        (tmp_path / f"{version:02d}" / "ckpts").mkdir(parents=True)
        (tmp_path / f"{version:02d}" / "ckpts" / "last.safetensors").touch()
    assert main(["--ckpt", str(tmp_path)]) == 2
    assert "00, 01, 02, 03, 04, 05, 06, 07, ... (12 in all)" in capsys.readouterr().err


def test_an_earlier_result_is_replaced_and_told(run, tmp_path, capsys):
    arguments = ["--ckpt", str(run), "--limit", "1", "--save", str(tmp_path / "r.yaml")]
    assert main(arguments) == 0
    assert "replaces" not in capsys.readouterr().out
    assert main(arguments) == 0
    assert f"saved: {tmp_path / 'r.yaml'} (replaces an earlier one)" in capsys.readouterr().out


def test_a_place_where_nobody_may_write_is_told_before_the_work(run, tmp_path, capsys, monkeypatch):
    from trainer.commands.jobs import evaluate

    monkeypatch.setattr(evaluate, "load_objective", None)  # would fail: nothing is loaded
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main(["--ckpt", str(run)]) == 2
    assert f"error: {run}" in (err := capsys.readouterr().err)
    assert "you may not write there. Choose another place with --save" in err
    monkeypatch.undo()
    assert main(["--ckpt", str(run), "--limit", "1", "--save", str(tmp_path)]) == 2
    assert f"{tmp_path}: is a folder. Name a file with --save" in capsys.readouterr().err


def test_a_sheet_that_cannot_be_drawn_leaves_the_old_one(run, tmp_path, monkeypatch):
    def full(rows, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"old")
    monkeypatch.setattr("trainer.tracking.viz.picture_sheet", full)
    arguments = ["--limit", "1", "--save", str(tmp_path / "r.yaml"), "--sheet", str(sheet)]
    assert main(["--ckpt", str(run), *arguments]) == 2
    assert sheet.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.yaml", "sheet.png"]


def test_interrupted_it_ends_with_130(run, tmp_path, monkeypatch, capsys):
    from trainer.commands.jobs import evaluate

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "evaluate_side_by_side", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["--ckpt", str(run), "--save", str(tmp_path / "r.yaml")])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted: nothing more is written\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("told", "device"), [("true", "cpu"), ("1", "cpu"), ("false", "cuda"), (None, "cuda")]
)
def test_a_gpu_is_used_unless_accelerate_is_told_not_to(monkeypatch, told, device):
    from trainer.evaluation import session

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    if told:
        monkeypatch.setenv("ACCELERATE_USE_CPU", told)
    with session.start() as machine:
        assert machine.device == torch.device(device)


def test_without_a_terminal_progress_is_a_line_a_minute(monkeypatch, capsys):
    from trainer.evaluation import Processes, session

    now = iter([])
    monkeypatch.setattr(session.time, "monotonic", lambda: next(now))
    for rank, expected in ((0, "depth: 4 of 7 items\ndepth: 7 of 7 items\n"), (1, "")):
        now = iter([0, 30, 61, 61, 62, 122, 122])
        machine = session.Machine(torch.device("cpu"), Processes(rank, 2))
        with session.progress("depth", 7, machine) as on_item:
            for _ in range(4):
                on_item()
        assert capsys.readouterr().err == expected
