"""The command `list`: what it prints and writes, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.commands import list as list_command
from trainer.commands.jobs.list import as_markdown, as_text
from trainer.config.catalogue import Chapter, Entry, catalogue
from trainer.config.fields import Field


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Run the command: exit code, what it printed, what it complained of."""

    def run(*args: str) -> tuple[int, str, str]:
        code = list_command.main(args)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_everything_fits_the_terminal(run, monkeypatch) -> None:
    for columns, widest in (("100", 100), ("20", 80), ("300", 120)):
        monkeypatch.setenv("COLUMNS", columns)
        code, shown, _ = run()
        assert code == 0
        lines = shown.splitlines()
        assert max(map(len, lines)) <= widest
        assert max(map(len, lines)) > widest - 10
        assert {"NETWORKS", "DECODERS", "LOSSES", "DATASETS", "SCHEDULERS", "VALIDATION METRICS"} <= set(lines)


def test_one_entry(run, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    code, shown, _ = run("loss.disp_smooth")
    assert code == 0
    assert shown.splitlines()[:6] == [
        "LOSSES",
        "  YAML: loss.<name>: {...}; ~ removes one that an earlier file has",
        "",
        "  loss.disp_smooth",
        "    Gradient of the disparity relative to its mean; scale s counts 1 / 2**s.",
        "    source:   Garg et al., arXiv:1603.04992; Monodepth, arXiv:1609.03677; DVSO, arXiv:1807.02570; Monodepth2,",
    ]
    assert "    needs:    nothing" in shown
    assert "weight         factor of this loss in the total; {0: 0.9, 15: 0.95} =" in shown
    assert "use_laplacian  second differences instead of first ones [true or false; default false]" in shown
    assert run("disp_smooth")[1] == shown


def test_an_unknown_name_is_refused(run) -> None:
    code, shown, error = run("disp_smoth")
    assert (code, shown) == (2, "")
    assert error.startswith("error: 'disp_smoth' is not in the catalogue. Did you mean 'disp_smooth'? Chapters: ")


def test_write_and_check(run, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    code, _, error = run("--out", str(page), "--check")
    assert code == 1
    assert error == f"{page} is out of step with the code. Run: monodepth list --out {page}\n"
    assert run("--out", str(page)) == (0, f"wrote {page}\n", "")
    assert run("--out", str(page), "--check")[0] == 0
    assert run("--markdown")[1] == page.read_text()


COMMON = Field(float, 1.0, "how much.")
TWO = [
    Chapter(
        ("things", "thing"),
        "YAML: `thing: <name>`",
        (
            Entry("thing.a", "One.", "A, arXiv:1806.01260", {"w": COMMON, "x": Field(int)}, {"needs": "nothing"}),
            Entry("thing.b", "2**2 | 2**3.", "", {"w": COMMON}),
        ),
    )
]


def test_text() -> None:
    assert list(as_text(TWO, 60)) == [
        "THINGS",
        "  YAML: thing: <name>",
        "",
        "  all of them take",
        "    w  how much [a number; default 1.0]",
        "",
        "  thing.a",
        "    One.",
        "    source:   A, arXiv:1806.01260",
        "    needs:    nothing",
        "    x  [a whole number; required]",
        "",
        "  thing.b",
        "    2**2 | 2**3.",
        "    source:   none",
    ]


def test_markdown() -> None:
    text = "\n".join(as_markdown(TWO))
    assert "## Things\n\nYAML: `thing: <name>`.\n\nAll of them take\n\n| argument | type | default | meaning |" in text
    assert "| `w` | a number | 1.0 | how much |\n\n### `thing.a`" in text
    assert "- source: A, [arXiv:1806.01260](https://arxiv.org/abs/1806.01260)\n- needs: nothing\n" in text
    assert r"2\*\*2 \| 2\*\*3." in text


def test_each_entry_has_a_heading() -> None:
    text = "\n".join(as_markdown(catalogue()))
    assert all(f"\n### `{entry.key}`\n" in text for chapter in catalogue() for entry in chapter.entries)
