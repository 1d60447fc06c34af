"""What the tests on a GPU measured, as one table at the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Row = Callable[[str, str], None]


@pytest.fixture
def row(record_property: Callable[[str, object], None]) -> Row:
    """Return a function that adds a row to the table: what was measured, and the number."""
    return lambda what, number: record_property("gpu", (what, number))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, ())]
    table = [value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "gpu"]
    if table:
        terminalreporter.section("measured on the GPU")
        width = max(len(what) for what, _ in table)
        for what, number in table:
            terminalreporter.write_line(f"{what:<{width}}  {number}")
