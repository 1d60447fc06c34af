"""A locked folder is one process's own, and says whose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainer.runtime.errors import UserError
from trainer.runtime.locks import locked


def test_a_second_one_is_told_whose_it_is_and_what_to_do(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with locked(out, "choose another --out"):
        message = rf"out: another run is writing here: process {os.getpid()} on .*, or choose another --out"
        with pytest.raises(UserError, match=message), locked(out, "choose another --out"):
            pytest.fail("two at once")
    assert (out / ".lock").read_bytes() == b""  # nothing of this run is left in what it made
    with locked(out, ""):
        pass


def test_an_error_releases_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path, ""):
        raise KeyboardInterrupt
    with locked(tmp_path, ""):
        pass
