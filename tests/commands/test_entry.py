"""The console script `monodepth`, which is `python -m trainer.commands`, and the files under `launch/`."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.world import ROOT, command, fork
from trainer.commands.__main__ import COMMANDS, main


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments of calls of `export_depth`, which returns 7."""
    calls: list[list[str]] = []
    module = importlib.import_module("trainer.commands.export_depth")
    monkeypatch.setattr(module, "main", lambda argv: calls.append(argv) or 7)
    return calls


@pytest.mark.parametrize("name", ["export-depth", "export_depth"])
def test_the_command_gets_the_other_arguments_and_gives_the_exit_code(played, monkeypatch, name) -> None:
    assert main([name, "--ckpt", "x", "--help"]) == 7
    monkeypatch.setattr(sys, "argv", ["monodepth", name])
    assert main() == 7
    assert played == [["--ckpt", "x", "--help"], []]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "'trian' is not a command. Did you mean 'train'?"),
        ([], "required: COMMAND"),
        (["--version"], "required: COMMAND"),
    ],
)
def test_an_unknown_command(capsys, arguments, message) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-5", "18446744073709551616", "9" * 5000, "1.5", "x"])
def test_a_seed_is_refused_by_its_option(capsys, seed) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "-c", "x.yaml", "-o", "x", "-n", "x", "-v", "1", "-s", seed])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "argument -s/--seed: expected a whole number from 0 to 2^63 - 1, got" in last
    assert len(last) < 150


def test_help_names_every_command(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.partition("commands:\n")[2].splitlines()}
    files = {p.stem for p in (ROOT / "trainer/commands").glob("*.py")} - {"__init__", "__main__", "cli"}
    assert listed == set(COMMANDS) == {name.replace("_", "-") for name in files}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("script", "prefix"),
    [("/venv/bin/monodepth", "monodepth "), (f"{ROOT}/trainer/commands/__main__.py", "monodepth "), ("", "")],
)
def test_usage_is_what_was_typed(capsys, monkeypatch, name: str, script: str, prefix: str) -> None:
    module = name.replace("-", "_")
    monkeypatch.setattr(sys, "argv", [script or f"/venv/bin/{module}"])
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {prefix}{name if prefix else module} ")


def test_help_of_a_command_loads_no_torch() -> None:
    done = command("-X", "importtime", "-m", "trainer.commands", "train", "--help")
    assert (done.returncode, done.stdout[:22]) == (0, "usage: monodepth train")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "timm", "accelerate", "matplotlib", "tensorboard"}


def test_a_mistake_in_a_command_ends_with_2() -> None:
    done = fork("trainer/commands/__main__.py", "generate-tables", "no_such_folder")
    assert (done.returncode, done.stderr) == (2, "error: no_such_folder: no such folder\n")
