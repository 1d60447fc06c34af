"""Loading the toy default with a file and overrides on top."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.toys import DEFAULT, TOYS
from trainer.config import Config, ConfigError, load_config


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load the toy default with a file on top (`text`) and overrides, from a folder where names are short."""
    monkeypatch.chdir(tmp_path)
    Path("default.yaml").write_text(DEFAULT)

    def load(text: str = "", *overrides: str | dict) -> Config:
        Path("x.yaml").write_text(text or "{}")
        return load_config("x.yaml", "default.yaml", overrides, registries=TOYS)

    return load


@pytest.fixture
def problems(load):
    """The lines that loading gives."""

    def problems(text: str = "", *overrides: str | dict) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        assert str(caught.value) == "\n".join(caught.value.problems)
        return caught.value.problems

    return problems
