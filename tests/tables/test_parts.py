"""Tables of parts and of all: by category of the scene, mean rank, improvement over a row."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tables.test_tables import SYNS, column, tables_of, write_legacy, write_result, write_seeds
from trainer.runtime.errors import UserError
from trainer.tables.aggregate import Cell, Row, Table, best_two, make_tables
from trainer.tables.categories import by_category
from trainer.tables.layout import head, markdown
from trainer.tables.results import read_results
from trainer.tables.significance import warn_of_noise
from trainer.tables.summary import RANK, ranks, summarise
from trainer.tables.writing import file_names, wide_rows


def write_items(root: Path, model: str, seed: int, items: list[dict[str, Any]]) -> Path:
    """A result as of SYNS-Patches: its items have a category, and numbers on depth edges."""
    keys = [key for key in items[0] if key.startswith("abs_rel") or key.startswith("d1")]
    mean = {key: statistics.fmean(item[key] for item in items) for key in keys}
    path = write_result(root, model, seed, mean, dataset=SYNS, items=len(items))
    data = yaml.safe_load(path.read_text())
    data["items"] = [{"index": i, "name": f"{i}", "factor": 1.0, **item} for i, item in enumerate(items)]
    path.write_text(yaml.safe_dump({"format": 1, **data}, sort_keys=False))
    return path


def item(category: str, abs_rel: float, **more: float) -> dict[str, Any]:
    return {"cat": category, "subcat": f"{category} sub", "abs_rel": abs_rel, "d1": 1 - abs_rel, **more}


@pytest.fixture
def syns(tmp_path: Path) -> Path:
    """Two models with two seeds; `a` is better in nature, `b` indoors."""
    for seed, shift in ((1, 0.0), (2, 0.02)):
        a = [("Nature", 0.1), ("Nature", 0.2), ("Indoor", 0.4)]
        b = [("Nature", 0.3), ("Nature", 0.3), ("Indoor", 0.2)]
        for model, values in (("a", a), ("b", b)):
            rows = [item(cat, v + shift, abs_rel_edges=2 * v, factor_edges=1.0) for cat, v in values]
            write_items(tmp_path, model, seed, rows)
    return tmp_path


def parts_of(root: Path, kind: str = "category", metrics: list[str] | None = None) -> list[Table]:
    return make_tables(by_category(read_results(root), kind, metrics), root)


def test_one_table_per_metric_with_a_column_per_category(syns: Path) -> None:
    plain, edges = parts_of(syns)
    assert plain.title.startswith("abs_rel by category, syns_patches test, best, alignment median")
    assert head(plain) == ["model", "n", "Indoor ↓", "Nature ↓"]
    cell = plain.rows[0].cells[column(plain, "Nature")]
    assert cell.by_seed == {"1": pytest.approx(0.15), "2": pytest.approx(0.17)}
    assert (cell.mean, cell.sd) == (pytest.approx(0.16), pytest.approx(0.02 / math.sqrt(2)))  # ddof 1
    assert best_two(plain, column(plain, "Indoor")) == ({"b"}, {"a"})
    assert best_two(plain, column(plain, "Nature")) == ({"a"}, {"b"})
    assert plain.protocol["images"] == "Indoor 1, Nature 2"
    assert plain.columns[0].unit == "fraction"
    assert edges.protocol["pixels"] == "true depth edges"
    assert edges.rows[0].cells[column(edges, "Nature")].mean == pytest.approx(0.3)
    assert len(set(file_names([plain, edges]))) == 2
    warn_of_noise(plain)
    text = markdown(plain, plain.columns[0])
    assert "Images: Indoor 1, Nature 2." in text
    assert "unit: fraction\n" in text


def test_categories_weighted_by_their_images_are_the_whole(syns: Path) -> None:
    (table, _) = tables_of(syns)
    (parts, _) = parts_of(syns)
    of = parts.rows[1].cells
    whole = (of[column(parts, "Indoor")].mean + 2 * of[column(parts, "Nature")].mean) / 3
    assert whole == pytest.approx(table.rows[1].cells[column(table, "abs_rel")].mean)


def test_chosen_metrics_by_subcategory(syns: Path) -> None:
    abs_rel, d1 = [t for t in parts_of(syns, "subcategory", ["abs_rel", "d1"]) if "pixels" not in t.protocol]
    assert head(d1)[2:] == ["Indoor sub ↑", "Nature sub ↑"]
    assert best_two(d1, d1.columns[0]) == best_two(abs_rel, abs_rel.columns[0]) == ({"b"}, {"a"})


def test_other_images_have_a_table_of_their_own(syns: Path) -> None:
    write_items(syns, "c", 1, [item("Nature", 0.1), item("Indoor", 0.2), item("Indoor", 0.2)])
    tables = [table for table in parts_of(syns) if "pixels" not in table.protocol]
    assert [[row.model for row in table.rows] for table in tables] == [["a", "b"], ["c"]]


def test_an_image_without_category_and_one_without_number(tmp_path: Path) -> None:
    write_items(tmp_path, "a", 1, [item("", 0.1), item("Nature", 0.3), item("Nature", math.nan)])
    (table,) = parts_of(tmp_path)
    assert head(table)[2:] == ["(none) ↓", "Nature ↓"]
    assert table.protocol["images"] == "(none) 1, Nature 1"
    assert table.rows[0].cells[column(table, "Nature")].mean == 0.3


def test_categories_of_files_of_earlier_code(tmp_path: Path) -> None:
    rows = [
        {"Ratio": 5.0, "Cat": "Nature", "SubCat": "Hill", "AbsRel": 10.0, "AbsRel-Edges": 30.0, "Cat-Edges": "Nature"},
        {"Ratio": 5.0, "Cat": "Indoor", "SubCat": "Hall", "AbsRel": 20.0, "AbsRel-Edges": 50.0},
    ]
    write_legacy(tmp_path, "syns_test_best_mono.yaml", rows)
    plain, edges = sorted(parts_of(tmp_path), key=lambda table: len(table.protocol))
    assert plain.rows[0].cells[column(plain, "Indoor")].mean == 20.0
    assert edges.rows[0].cells[column(edges, "Indoor")].mean == 50.0
    assert plain.columns[0].direction == -1
    assert plain.name == "syns_test_best_median_AbsRel_category"


def test_a_formula_is_no_name_of_a_file(tmp_path: Path) -> None:
    metric = r"$\delta < 1.25$"
    write_legacy(tmp_path, "syns.yaml", [{"Cat": "Nature", metric: 0.5}])
    (table,) = parts_of(tmp_path, metrics=[metric])
    assert table.name == "syns_delta_1_25_category"


def test_results_without_categories_are_refused(tmp_path: Path) -> None:
    write_seeds(tmp_path, "a", {1: 0.1})
    write_items(tmp_path, "b", 1, [item("Nature", 0.1)])
    path = next((tmp_path / "b").rglob("*.yaml"))
    path.write_text(path.read_text().partition("items:\n")[0])
    with pytest.raises(UserError, match="no result has the category of its images"):
        parts_of(tmp_path)


def test_ranks_by_hand() -> None:
    assert ranks([0.1, 0.3, 0.2], -1) == [1, 3, 2]
    assert ranks([0.1, 0.3, 0.2], 1) == [3, 1, 2]
    assert ranks([5, 5, 1], 1) == [1.5, 1.5, 3]
    assert ranks([2, 2, 2], -1) == [2, 2, 2]


def cells(table: Table, key: str) -> dict[str, Cell]:
    return {row.label: row.cells[column(table, key)] for row in table.rows}


def test_mean_rank_and_improvement_by_hand(tmp_path: Path) -> None:
    """AbsRel 0.2 -> 0.1 is 50 % better, d1 0.5 -> 0.6 is 20 % better: 35 % together."""
    write_result(tmp_path, "base", 1, {"abs_rel": 0.2, "d1": 0.5})
    write_result(tmp_path, "good", 1, {"abs_rel": 0.1, "d1": 0.6})
    write_result(tmp_path, "odd", 1, {"abs_rel": 0.3, "d1": 0.7})
    (summary,) = summarise(tables_of(tmp_path), "base")
    assert summary.title == "summary of 2 numbers of table 1"
    assert f"table 1: {tables_of(tmp_path)[0].title}" in summary.notes
    rank, gain = summary.columns
    assert rank == RANK
    assert gain.key == "% better than base"
    assert {k: c.mean for k, c in cells(summary, "mean rank").items()} == {"base": 2.5, "good": 1.5, "odd": 2.0}
    gains = {k: c.mean for k, c in cells(summary, gain.key).items()}
    assert gains == pytest.approx({"base": 0.0, "good": 35.0, "odd": (-50 + 40) / 2})
    assert best_two(summary, rank) == ({"good"}, {"odd"})
    assert best_two(summary, gain) == ({"good"}, {"base"})
    assert wide_rows(summary)[0]["mean rank_sd"] == ""


def test_the_spread_of_an_improvement_is_over_seeds(tmp_path: Path) -> None:
    write_seeds(tmp_path, "base", {1: 0.2, 2: 0.2})
    write_seeds(tmp_path, "good", {1: 0.1, 2: 0.12})
    (summary,) = summarise(tables_of(tmp_path, metrics=["abs_rel"]), "base")
    cell = cells(summary, "% better than base")["good"]
    assert cell.by_seed == {"1": pytest.approx(50.0), "2": pytest.approx(40.0)}
    assert (cell.mean, cell.sd, cell.n) == (pytest.approx(45.0), pytest.approx(math.sqrt(50)), 2)


def test_tables_of_the_same_rows_are_summarised_together_and_others_apart(tmp_path: Path) -> None:
    for crop, swap in (("garg", False), ("none", True)):
        for model in ("a", "b"):
            write_result(tmp_path / crop, model, 1, {"abs_rel": 0.1 + 0.1 * ((model == "b") != swap)}, crop=crop)
    write_result(tmp_path / "stereo", "a", 1, {"abs_rel": 0.1}, alignment="stereo")
    tables = [table for crop in ("garg", "none", "stereo") for table in tables_of(tmp_path / crop)]
    (summary,) = summarise(tables)
    assert summary.title == "summary of 2 numbers of tables 1, 2"  # the table of one row has no order
    assert [c.mean for c in cells(summary, "mean rank").values()] == [1.5, 1.5]
    write_result(tmp_path / "stereo", "c", 1, {"abs_rel": 0.2}, alignment="stereo")
    both = summarise([*tables[:2], *tables_of(tmp_path / "stereo")])
    assert [table.title for table in both] == [summary.title, "summary of 1 number of table 3"]
    assert file_names(both) == ["summary_1", "summary_2"]


def test_what_not_every_row_has_does_not_count_and_is_named(tmp_path: Path) -> None:
    write_result(tmp_path, "a", 1, {"abs_rel": 0.0, "d1": 0.5, "Ratio": 5.0})
    write_result(tmp_path, "b", 1, {"abs_rel": 0.2, "d1": 0.4, "Ratio": 4.0, "RMSE": 3.0})
    write_result(tmp_path, "c", 1, {"abs_rel": 0.1, "d1": math.nan, "Ratio": 4.0})
    (summary,) = summarise(tables_of(tmp_path), "a")
    assert summary.title == "summary of 1 number of table 1"
    assert summary.columns == [RANK]  # 0 cannot be improved upon in per cent
    notes = "; ".join(summary.notes)
    assert "d1 of table 1 does not count: not every row has it" in notes
    assert "RMSE of table 1 does not count" in notes
    assert "abs_rel of table 1 is not compared: a has 0 or none" in notes
    assert "Ratio" not in notes


def test_improvement_over_a_published_row(tmp_path: Path) -> None:
    write_seeds(tmp_path, "a", {1: 0.1, 2: 0.1})
    write_seeds(tmp_path, "b", {1: 0.3, 2: 0.3})
    (table,) = tables_of(tmp_path)
    table.references = [Row("p (published)", {column(table, "abs_rel"): Cell(0.2, 0.01, 3)})]
    (summary,) = summarise([table], "p (published)")
    assert [c.mean for c in cells(summary, "% better than p (published)").values()] == pytest.approx([50, -50])
    with pytest.raises(UserError, match=r"--relative-to q: no table has this row.*Known: a, b, p \(published\)"):
        summarise([table], "q")
