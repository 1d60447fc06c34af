"""Finished passes in a file: kept, shared, dropped when what they depend on has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.evaluation.passes import Passes
from trainer.runtime.errors import UserError


def test_passes_are_kept(tmp_path, capsys):
    path = tmp_path / "deep" / "r.passes.json"
    first = Passes(path, {"seed": 1, "size": (64, 96)})
    assert first.done == {}
    first.add("clean", {"abs_rel": 0.1})
    first.add("fog 1", {"abs_rel": 1 / 3})
    assert Passes(path, {"seed": 1, "size": [64, 96]}).done == {"clean": {"abs_rel": 0.1}, "fog 1": {"abs_rel": 1 / 3}}
    assert capsys.readouterr().err == ""


def test_two_commands_keep_what_the_other_has_done(tmp_path):
    one, other = (Passes(tmp_path / "r.json", {"seed": 1}) for _ in range(2))
    one.add("fog 1", {"d1": 0.1})
    other.add("snow 1", {"d1": 0.2})
    one.add("fog 2", {"d1": 0.3})
    assert set(Passes(tmp_path / "r.json", {"seed": 1}).done) == {"fog 1", "snow 1", "fog 2"}


def test_another_identity_starts_anew_and_says_why(tmp_path, capsys):
    path = tmp_path / "r.json"
    Passes(path, {"seed": 1, "limit": None, "old": 3}).add("clean", {"d1": 0.5})
    changed = Passes(path, {"seed": 2, "limit": None})
    assert changed.done == {}
    assert capsys.readouterr().err == f"{path}: seed, old changed since; all passes start anew\n"
    changed.add("fog 1", {"d1": 0.5})
    assert Passes(path, {"seed": 2, "limit": None}).done == {"fog 1": {"d1": 0.5}}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"identity": {}, "passes": [1]}', '{"identity": 1, "passes": {}}'])
def test_another_kind_of_file_is_refused(tmp_path: Path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"r\.json: is no file of finished passes .* Delete it to start anew"):
        Passes(path, {"seed": 1})
    assert path.read_text() == text
