"""The notebook docs/extending/tour.ipynb runs, with fewer steps, and shows what it stores."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import pytest

from tests.world import ROOT

FILE = ROOT / "docs/extending/tour.ipynb"
NOTEBOOK = json.loads(FILE.read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook_hook", ROOT / "docs/hooks/notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed(cell: dict[str, Any]) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Cell by cell; what is printed before the training is what the notebook stores, to the rounding of numbers."""
    monkeypatch.chdir(tmp_path)
    drawn: list[int] = []
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: drawn.append(1))
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    names: dict[str, Any] = {}
    trains = next(i for i, cell in enumerate(CODE) if "backward" in "".join(cell["source"]))
    try:
        for number, cell in enumerate(CODE):
            before = len(drawn)
            source = re.sub(r"^STEPS = \d+", "STEPS = 2", "".join(cell["source"]))
            exec(compile(source, f"{FILE.name}, code {number}", "exec"), names)
            told = capsys.readouterr().out
            if number < trains:
                assert re.sub(r"\d\.\d+", "x", told) == re.sub(r"\d\.\d+", "x", printed(cell))
            assert bool(told) == bool(printed(cell))
            assert len(drawn) - before == sum("image/png" in output.get("data", {}) for output in cell["outputs"])
    finally:
        matplotlib.pyplot.close("all")
        matplotlib.use(backend)
    losses = {name: float(loss(names["true"])[0]) for name, loss in names["objective"].losses.items()}
    assert losses["img_recon"] < 0.5 * names["curve"][0]  # true depth explains the pictures


def test_the_notebook_is_small_and_was_run_from_top_to_bottom() -> None:
    assert FILE.stat().st_size < 300_000
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not [output for cell in CODE for output in cell["outputs"] if output["output_type"] == "error"]
    assert "stderr" not in FILE.read_text(encoding="utf-8")
    assert str(Path.home()) not in FILE.read_text(encoding="utf-8")


def test_a_notebook_is_shown_as_markdown() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": ["print(1)\n"],
            "outputs": [{"text": ["1\n"]}, {"data": {"image/png": "QUJD\n", "text/plain": "<Figure>"}}],
        },
        {"cell_type": "code", "source": ["2"], "outputs": [{"data": {"text/plain": ["2"]}}]},
    ]
    assert hook().to_markdown({"cells": cells}) == (
        "# Title\ntext\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n"
        '<img alt="output of the code above" src="data:image/png;base64,QUJD">\n\n'
        "```python\n2\n```\n\n```text\n2\n```\n"
    )
