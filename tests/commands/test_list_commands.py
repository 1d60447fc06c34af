"""The page of all commands: made from the parsers, the same everywhere, in step with them."""

from __future__ import annotations

import argparse
import re

import pytest

from tests.world import ROOT
from trainer.commands import list as list_command
from trainer.commands.__main__ import COMMANDS
from trainer.commands.jobs.list_commands import _section, as_markdown, parser_of


def test_committed_page_is_in_step(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "reference" / "commands.md"
    assert list_command.main(["--commands", "--out", str(page), "--check"]) == 0, capsys.readouterr().err


def test_every_command_and_every_option_is_on_the_page() -> None:
    sections = dict(re.findall(r"^## monodepth (\S+)\n(.*?)(?=^## |\Z)", "\n".join(as_markdown()), re.M | re.S))
    assert list(sections) == list(COMMANDS)
    assert all(f"](#monodepth-{name}) |" in "\n".join(as_markdown()) for name in COMMANDS)
    shown = {f"--{name}" for name in re.findall(r"`--([a-z-]+)`", sections["train"])}
    assert shown == {
        *("--cfg-file", "--cfg-default", "--set", "--plugins", "--ckpt-dir", "--name", "--version", "--seed"),
        *("--progress", "--timings", "--profile"),
    }


def test_a_section_says_what_must_be_given_and_what_is_taken_otherwise() -> None:
    parser = argparse.ArgumentParser(description="Do it to <run>.", epilog="Example: it a")
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--left", metavar="N")
    either.add_argument("--right", action="store_true")
    parser.add_argument("pair", nargs=2, metavar=("W", "H"), help="sides")
    parser.add_argument("--must", "-m", required=True, choices=("a", "b"), help="a | b")
    parser.add_argument("--many", nargs="+", default=[3, 4])
    parser.add_argument("--told", default=7, help="so many (default %(default)s)")
    parser.add_argument("--secret", help=argparse.SUPPRESS)
    lines = list(_section(parser, "it", 2))
    assert "Do it to &lt;run>." in lines
    assert "it W H (--left N | --right) -m {a,b} [options]" in lines
    assert "Example: `it a`" in lines
    assert "| `--must`, `-m` | `a` `b` | a \\| b; required |" in lines
    assert "| `--many` | `MANY [MANY ...]` | default 3 4 |" in lines
    assert "| `--told` | `TOLD` | so many (default 7) |" in lines
    assert not any("secret" in line for line in lines)


def test_nothing_on_the_page_belongs_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = "\n".join(as_markdown())
    monkeypatch.setenv("COLUMNS", "40")
    assert "\n".join(as_markdown()) == before
    assert not re.search(r"/root|/home|/tmp/", before)


def test_a_command_that_parses_nothing_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="parses no options"):
        parser_of(lambda argv: None)


def test_it_prints_and_writes(capsys, tmp_path) -> None:
    assert list_command.main(["--commands"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# Commands\n")
    assert list_command.main(["--commands", "--out", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == text
    (tmp_path / "page.md").write_text("other")
    capsys.readouterr()
    assert list_command.main(["--commands", "--out", str(tmp_path / "page.md"), "--check"]) == 1
    assert f"Run: monodepth list --commands --out {tmp_path / 'page.md'}" in capsys.readouterr().err


def test_names_and_plugins_do_not_go_with_it(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        list_command.main(["--commands", "losses"])
    assert stop.value.code == 2
    assert "--commands lists all commands: it takes no names" in capsys.readouterr().err
