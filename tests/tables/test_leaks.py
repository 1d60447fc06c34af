"""Results on frames of the own training: left out, or struck through and never ranked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tables.test_tables import write_result, write_seeds
from trainer.commands.generate_tables import main
from trainer.tables.aggregate import make_tables
from trainer.tables.latex import latex
from trainer.tables.layout import STRUCK, grid, markdown
from trainer.tables.results import read_results
from trainer.tables.writing import wide_rows

LISTS = [{"name": "eigen_zhou/train", "digest": "55", "items": 9, "known_as": "KITTI benchmark training list"}]
REASON = "451 of its 697 frames are of its training (KITTI benchmark training list)"


def leaks(**changes: Any) -> dict[str, Any]:
    """The section of a protocol, clean unless it is changed."""
    clean = {"training": "known", "lists": LISTS, "items": 697, "frames": 697, "exact": 0, "same_pictures": None}
    return {**clean, **changes}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The best numbers are those of a network that knows the answers."""
    root = tmp_path / "models"
    write_seeds(root, "clean", {1: 0.12, 2: 0.13}, leaks=leaks())
    write_seeds(root, "old", {1: 0.14, 2: 0.15})
    write_seeds(root, "knows", {1: 0.05, 2: 0.06}, leaks=leaks(exact=451))
    return root


def test_a_leaking_row_is_left_out_with_file_and_reason(root: Path, capsys) -> None:
    assert main([str(root)]) == 0
    printed = capsys.readouterr()
    assert "knows" not in printed.out
    assert "0.1250 ± 0.0071 ¹" in printed.out
    for seed in (1, 2):
        path = root / "knows" / str(seed) / "results" / "kitti_eigen_best_median.yaml"
        assert f"warning: left out: {path}: {REASON}. --allow-leak shows it struck through\n" in printed.err


def test_it_is_shown_struck_through_and_not_ranked(root: Path, tmp_path: Path, capsys) -> None:
    assert main([str(root), "--allow-leak", "--summary", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "left out" not in printed.err
    assert "0.0550 ± 0.0071 (leak)" in printed.out
    assert "0.1250 ± 0.0071 ¹" in printed.out
    assert f"note: knows is struck through and not ranked: {REASON}" in printed.out
    assert "struck through: trained on what it is scored on" in printed.out
    (table,) = make_tables(read_results(root), root)
    assert [row.label for row in table.rows] == ["clean", "old"]
    lines = grid(table)
    assert [cell.mark for cell in lines[2]][2:] == [STRUCK, STRUCK]
    assert "| knows | 2 | ~~0.0550 ± 0.0071~~ |" in markdown(table, None)
    assert r"\struck{0.0550 \ensuremath{\pm} 0.0071}" in latex(table)
    assert r"\providecommand{\struck}" in latex(table)
    assert [row["leak"] for row in wide_rows(table)] == [False, False, True]
    assert "knows" not in (tmp_path / "out" / "summary.md").read_text()


def test_clean_tables_look_as_before(root: Path) -> None:
    clean = [result for result in read_results(root) if not result.leak]
    (table,) = make_tables(clean, root)
    assert "struck" not in latex(table) + markdown(table, None)
    assert "leak" not in wide_rows(table)[0]


def test_only_leaking_rows(tmp_path: Path, capsys) -> None:
    write_result(tmp_path, "a", 1, {"abs_rel": 0.1}, leaks=leaks(same_pictures=3, lists=[]))
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "3 of its 697 pictures are of its training\n" in error
    assert "no other result is there. --allow-leak shows them struck through" in error
    assert main([str(tmp_path), "--allow-leak", "--out", str(tmp_path / "out")]) == 0
    assert "0.1000 (leak)" in capsys.readouterr().out


def test_a_seed_that_leaks_does_not_hide_the_others(tmp_path: Path, capsys) -> None:
    write_seeds(tmp_path, "a", {1: 0.2, 2: 0.3})
    write_seeds(tmp_path, "a", {3: 0.1}, leaks=leaks(exact=1))
    assert main([str(tmp_path), "--allow-leak"]) == 0
    printed = capsys.readouterr().out
    assert "0.2500 ± 0.0707" in printed
    assert "0.1000 (leak)" in printed
    assert "no result of seed 3" not in printed
