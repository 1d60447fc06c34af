"""A terminal for the tests of progress displays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tracking.displays import Terminal


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    terminal = Terminal()
    yield terminal
    terminal.close()
