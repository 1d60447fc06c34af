"""Three rows per method: reported, official weights, trained here."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.tables.test_tables import KEB, published_beside, tables_of, write_result, write_seeds
from trainer.commands.generate_tables import main
from trainer.tables.methods import by_method

BENCHMARK = {"version": 1, "units": {"abs_rel_pct": "%"}, "higher_is_better": []}


def write_official(root: Path, name: str, value: float, **protocol) -> None:
    """A result of converted weights: all lie in one folder, named by their checkpoint."""
    place = {"file": f"{root}/imported/{name}.safetensors", "imported": "Monodepth2"}
    path = write_result(root, "x", name, {"abs_rel_pct": value}, checkpoint=place, **protocol)
    target = root / "imported" / "results" / f"{name}_{path.name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    protocol = {**KEB, "alignment": "stereo", "metrics": {"benchmark": BENCHMARK}}
    for seed, value in {42: 7.8, 195: 8.0, 335: 8.2}.items():
        write_result(tmp_path, "monodepth2_MS", seed, {"abs_rel_pct": value}, **protocol)
        write_result(tmp_path, "mine", seed, {"abs_rel_pct": value + 1}, **protocol)
    write_official(tmp_path, "monodepth2_MS", 7.95, **protocol)
    write_official(tmp_path, "garg", 7.7, **protocol)
    return tmp_path


def test_official_weights_are_no_seed_of_ours(root: Path) -> None:
    ours, official = tables_of(root)
    assert [(row.model, row.n) for row in ours.rows] == [("mine", 3), ("monodepth2_MS", 3)]
    assert [(row.model, row.n) for row in official.rows] == [("garg", 1), ("monodepth2_MS", 1)]
    assert "official weights" in official.title
    assert ours.notes == official.notes == []  # nobody expects seeds of official weights
    (chosen, _) = tables_of(root, seeds=["42"])
    assert [row.n for row in chosen.rows] == [1, 1]


def test_three_rows_in_their_order(root: Path) -> None:
    (table,) = by_method(published_beside(root))
    (column,) = table.columns
    rows = [(row.model, row.shown["origin"], row.n, row.cells[column].mean) for row in table.references]
    assert rows == [
        ("garg", "reported", 3, 7.65),
        ("garg", "official weights", 1, 7.7),
        ("mine", "trained here", 3, pytest.approx(9.0)),
        ("monodepth2_MS", "reported", 3, 7.90),
        ("monodepth2_MS", "official weights", 1, 7.95),
        ("monodepth2_MS", "trained here", 3, pytest.approx(8.0)),
    ]
    assert table.rows == []  # nothing is ranked
    assert table.notes == ["garg: no row of trained here", "mine: no row of reported, official weights"]


def test_two_checkpoints_of_ours_are_told_apart(root: Path) -> None:
    for path in root.glob("mine/*/results/*.yaml"):
        data = yaml.safe_load(path.read_text())
        data["protocol"]["checkpoint"]["file"] = "mine/ckpts/last.safetensors"
        path.write_text(yaml.safe_dump(data))
    (table,) = by_method(tables_of(root))
    origins = {row.model: row.shown["origin"] for row in table.references if "here" in row.shown["origin"]}
    assert origins == {"mine": "trained here, last", "monodepth2_MS": "trained here, best"}


def test_other_protocols_stay_apart(tmp_path: Path) -> None:
    write_seeds(tmp_path, "a", {42: 0.1})
    write_official(tmp_path, "a", 9.0, alignment="stereo")
    assert by_method(tables_of(tmp_path)) == []


def test_the_command(root: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main([str(root), "--methods", "--reference", "benchmark", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "three per method" in printed
    rows = [line for line in printed.splitlines() if "official weights" in line and "monodepth2_MS" in line]
    assert any("7.950" in line for line in rows)
    (page,) = out.glob("*three_per_method.md")
    text = page.read_text()
    assert "| monodepth2_MS | official weights | 1 | 7.950 |" in text
    assert "| monodepth2_MS | trained here | 3 | 8.000 ± 0.200 |" in text
    assert (out / page.with_suffix(".tex").name).read_text().count(r"\midrule") == 1
    assert main([str(root), "--methods", "--models", "mine"]) == 0
    assert "no rows per method" in capsys.readouterr().out
