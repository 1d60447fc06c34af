"""Tables over seeds: what is averaged, what is best, what must not share a table, and how sure an order is."""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.world import ROOT
from trainer.checkpoint.state import Position
from trainer.metrics import METRICS
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import RunDir
from trainer.tables import pictures, reference
from trainer.tables.aggregate import Cell, Row, Table, best_two, headline, make_tables, name_differences, unevaluated
from trainer.tables.columns import Column, direction_of
from trainer.tables.events import average, read_curves
from trainer.tables.latex import escape, latex
from trainer.tables.layout import head, markdown
from trainer.tables.pictures import draw_bars, draw_curves
from trainer.tables.report.views import leader
from trainer.tables.results import read_result, read_results
from trainer.tables.significance import compare, flips, holm, warn_of_noise, welch
from trainer.tables.writing import file_names, wide_rows, write_table

EIGEN = {"version": 1, "units": {"abs_rel": "fraction", "d1": "fraction"}, "higher_is_better": ["d1"]}
KITTI = {"type": "kitti", "split": "eigen", "mode": "test", "size": [640, 192]}
SYNS = {"type": "syns_patches", "mode": "test", "size": [640, 192]}
KEB = {
    "crop": "none",
    "max_depth_m": 100.0,
    "items": 652,
    "dataset": {**KITTI, "split": "eigen_benchmark", "use_benchmark": True},
}


def write_result(root: Path, model: str, seed: int | str, mean: dict[str, float], /, **protocol: Any) -> Path:
    """Write a result file as `evaluate` does, with changes to its protocol."""
    protocol = {
        "alignment": "median",
        "factor": "median(truth) / median(prediction), per image",
        "crop": "garg",
        "min_depth_m": 0.001,
        "max_depth_m": 80.0,
        "metrics": {"eigen": EIGEN},
        "items": 697,
        "limit": None,
        "dataset": {**KITTI, "root": f"/{seed}"},
        "checkpoint": {"file": f"{model}/{seed}/ckpts/best.safetensors", "step": 1},
        "trainer_version": str(seed),
        **protocol,
    }
    path = root / model / str(seed) / "results" / f"kitti_eigen_best_{protocol['alignment']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"mean": mean, "protocol": protocol, "items": []}, sort_keys=False))
    return path


def write_seeds(root: Path, model: str, values: dict[int, float], **protocol: Any) -> None:
    """One result per seed: AbsRel as given, d1 = 1 - AbsRel."""
    for seed, value in values.items():
        write_result(root, model, seed, {"abs_rel": value, "d1": 1 - value}, **protocol)


def tables_of(root: Path, **options: Any) -> list[Table]:
    return make_tables(read_results(root), root, **options)


def table_of(root: Path, values: dict[str, dict[int, float]], **protocol: Any) -> Table:
    """The table of models with these values of AbsRel by seed."""
    for model, by_seed in values.items():
        write_seeds(root, model, by_seed, **protocol)
    (table,) = tables_of(root)
    return table


def published_beside(root: Path, **options: Any) -> list[Table]:
    """Tables with the rows of the published benchmark."""
    tables = tables_of(root, **options)
    reference.add_references(tables, "benchmark")
    return tables


def write_legacy(root: Path, name: str, data: Any) -> None:
    """Write a result file of earlier code."""
    folder = root / "garg" / "042" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(data, sort_keys=False))


def column(table: Table, key: str) -> Column:
    return next(c for c in table.columns if c.key == key)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """`far` is clearly worse; `a` and `b` overlap."""
    write_seeds(tmp_path, "a", {42: 0.10, 195: 0.11, 335: 0.12})
    write_seeds(tmp_path, "b", {42: 0.105, 195: 0.115, 335: 0.125})
    write_seeds(tmp_path, "far", {42: 0.30, 195: 0.301, 335: 0.302})
    return tmp_path


@pytest.fixture
def table(three: Path) -> Table:
    return tables_of(three)[0]


@pytest.fixture
def gap(three: Path) -> Table:
    """The same without seed 42 of `b`."""
    (three / "b" / "42" / "results" / "kitti_eigen_best_median.yaml").unlink()
    (table,) = tables_of(three)
    warn_of_noise(table)
    return table


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures that were drawn; none is saved."""
    drawn: list[Any] = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: drawn.append(figure) or path)
    return drawn


def test_mean_and_sample_standard_deviation_over_seeds(table: Table) -> None:
    assert [row.model for row in table.rows] == ["a", "b", "far"]
    cell = table.rows[0].cells[column(table, "abs_rel")]
    assert (cell.mean, cell.sd, cell.n) == (pytest.approx(0.11), pytest.approx(0.01), 3)  # ddof 1, else 0.0082
    assert cell.by_seed == {"42": 0.10, "195": 0.11, "335": 0.12}
    assert table.notes == []
    assert [best_two(table, c) for c in table.columns] == [({"a"}, {"b"})] * 2
    assert head(table)[2:] == ["abs_rel ↓", "d1 ↑"]


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"alone": {42: 0.1}, "other": {42: 0.2}})
    assert math.isnan(table.rows[0].cells[column(table, "abs_rel")].sd)
    assert "| alone | 1 | **0.1000** |" in markdown(table, None)
    assert compare(table, column(table, "abs_rel")) == []
    warn_of_noise(table)
    assert table.warnings == [], "nothing can be compared, in no column"
    text = markdown(table, column(table, "abs_rel"))
    assert "1 seed, so no spread is known" in text
    assert "seed by seed" not in text
    assert "One seed." in latex(table)
    several = table_of(tmp_path / "several", {"alone": {42: 0.1}, "other": {42: 0.2, 7: 0.21}})
    warn_of_noise(several)
    assert "abs_rel: no spread is known of alone: one seed" in several.warnings


def test_every_registered_metric_has_its_direction() -> None:
    metrics = [m for name in METRICS.names() for m in METRICS.get(name).metrics]  # type: ignore[attr-defined]
    assert metrics
    for metric in metrics:
        assert direction_of(metric.key) == (1 if metric.higher_is_better else -1)
        if metric.legacy:
            assert direction_of(metric.legacy) == direction_of(metric.key), metric.legacy


def test_direction_of_earlier_names() -> None:
    lower = "AbsRel SqRel RMSE LogRMSE MAE InvMAE InvRMSE LogMAE LogSI Chamfer ChamferDist EdgeAcc EdgeComp"
    higher = (r"$\delta < 1.25^2$", r"$\delta_{.25}$", "F-Score-20", "F-Score (5)", "IoU", "DirAcc")
    assert {direction_of(key) for key in (*lower.split(), "Dir (-)", "Dir (+)")} == {-1}
    assert {direction_of(key) for key in higher} == {1}
    assert {direction_of(key) for key in ("Ratio", "Scale", "Shift", "anything")} == {0}


def row_of(model: str, key: Column, *values: float) -> Row:
    return Row(model, {key: Cell.of({str(i): v for i, v in enumerate(values)})})


def test_best_and_second_best() -> None:
    key = Column("abs_rel", direction=-1)
    for values, best, second in (
        ([1.0, 2.0, 3.0], {"a"}, {"b"}),
        ([1.0, 1.0, 3.0], {"a", "b"}, {"c"}),
        ([1.0, 1.0], set(), set()),  # nobody is better than another
        ([1.0, 2.0, 2.0], {"a"}, {"b", "c"}),
        ([math.nan, 2.0, 3.0], {"b"}, {"c"}),
        ([math.nan, 2.0], set(), set()),
        ([1.0], set(), set()),
    ):
        table = Table({}, [key], [row_of(*pair) for pair in zip("abc", [key] * 3, values, strict=False)])
        assert best_two(table, key) == (best, second), values


def test_the_leader_of_a_page_is_that_of_the_table_with_most_rows_on_whole_data() -> None:
    key, mute = Column("abs_rel", direction=-1), Column("Ratio")
    part = Table({"items": "40 of 200, evenly spaced"}, [key], [row_of("a", key, 0.5), row_of("b", key, 0.6)])
    whole = Table({"items": "200"}, [key], [row_of("a", key, 0.2), row_of("b", key, 0.1)])
    alone = Table({"items": "200"}, [key], [row_of("a", key, 0.3)])
    without = Table({"items": "200"}, [mute], [row_of(name, mute, 5.4) for name in "abc"])
    found = leader([(table, []) for table in (alone, part, without, whole)])
    assert found is not None
    assert (found["model"], found["value"], found["of"]) == ("b", "0.1000", 2)
    assert leader([(without, [])]) is None
    assert leader([]) is None


def test_a_metric_without_direction_marks_nobody(tmp_path: Path) -> None:
    write_result(tmp_path, "a", 1, {"Ratio": 5.4, "AbsRel": 0.1})
    write_result(tmp_path, "b", 1, {"Ratio": 5.0, "AbsRel": 0.2})
    (table,) = tables_of(tmp_path)
    assert best_two(table, column(table, "Ratio")) == (set(), set())
    assert headline(table) == column(table, "AbsRel")


def test_a_seed_that_is_not_finite_is_named_and_left_out(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"a": {1: 0.1, 2: 0.2, 3: math.nan}})
    cell = table.rows[0].cells[column(table, "abs_rel")]
    assert (cell.mean, cell.n) == (pytest.approx(0.15), 2)
    assert any("abs_rel is not finite with seed 3" in note for note in table.notes)


def test_missing_seeds_are_named_with_the_state_of_their_run(three: Path) -> None:
    (three / "far" / "195" / "results" / "kitti_eigen_best_median.yaml").unlink()
    for model, seed in (("far", "195"), ("never", "42")):
        with RunDir(three, model, seed) as run:
            run.write_state("failed", Position(7, 0, 9))
    (table,) = tables_of(three, seeds=["42", "195", "335", "7"])
    assert "far: no result of seeds 195 (run failed, epoch 7), 7 (no run)" in table.notes
    assert "a: no result of seed 7 (no run)" in table.notes
    assert "| far | 2 |" in markdown(table, None)
    (mixed,) = tables_of(three, seeds=["42", "7"], mix=["alignment"])
    assert "a (median): no result of seed 7 (no run)" in mixed.notes
    (lost,) = unevaluated(three, read_results(three))
    assert lost.endswith("never: no result at all, of seeds 42 (run failed, epoch 7)")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"crop": "none"}, "crop"),
        ({"max_depth_m": 100.0}, "depth"),
        ({"alignment": "stereo"}, "alignment"),
        ({"items": 652}, "items"),
        ({"limit": "20 of 697, evenly spaced"}, "items"),
        ({"flip_post_processing": True}, "flip_post_processing"),
        ({"dataset": {**KITTI, "split": "eigen_zhou"}}, "dataset"),
        ({"dataset": {**KITTI, "size": [1024, 320]}}, "size"),
        ({"dataset": {**KITTI, "use_benchmark": True}}, "data"),
        ({"checkpoint": {"file": "last.safetensors"}}, "checkpoint"),
    ],
)
def test_other_protocols_have_tables_of_their_own(tmp_path: Path, change: dict, field: str) -> None:
    write_seeds(tmp_path, "a", {1: 0.1, 2: 0.2})
    write_seeds(tmp_path, "b", {1: 0.1, 2: 0.2}, **change)
    tables = tables_of(tmp_path)
    assert sorted([row.model for row in table.rows] for table in tables) == [["a"], ["b"]]
    told = name_differences(tables, ["size"])
    assert len(told) == (field != "dataset")  # another data set is in the title
    assert all(line.startswith(f"table 2 is apart from table 1: {field} ") for line in told)
    assert all(line.endswith(f"; --mix size {field} puts them side by side") for line in told if field != "alignment")
    assert len(set(file_names(tables))) == 2
    (mixed,) = tables_of(tmp_path, mix=[field])
    assert [row.model for row in mixed.rows] == ["a", "b"]
    assert field in head(mixed)


def test_tables_are_told_apart_from_the_first_of_their_data_set(tmp_path: Path) -> None:
    zhou = {**KITTI, "split": "eigen_zhou"}
    write_seeds(tmp_path, "a", {1: 0.1})
    write_seeds(tmp_path, "b", {1: 0.1}, dataset={**zhou, "use_benchmark": True, "depth_along": "axis"})
    write_seeds(tmp_path, "c", {1: 0.1}, dataset={**zhou, "use_benchmark": False, "depth_along": "axis"})
    (line,) = name_differences(tables_of(tmp_path))
    assert line.startswith("table 3 is apart from table 2: data use_benchmark ")
    assert "depth_along" not in line


def test_a_metric_that_changed_its_meaning_is_another_column(tmp_path: Path) -> None:
    write_seeds(tmp_path, "a", {1: 0.1})
    write_seeds(tmp_path, "b", {1: 0.1}, metrics={"eigen": {**EIGEN, "version": 2}})
    (table,) = tables_of(tmp_path)
    assert head(table)[2:] == ["abs_rel v1 ↓", "d1 v1 ↑", "abs_rel v2 ↓", "d1 v2 ↑"]


def test_a_run_folder_is_a_root_too_and_a_file_can_be_named_by_its_path(three: Path, monkeypatch) -> None:
    monkeypatch.chdir(three / "a" / "42")
    (result,) = read_results(Path("."))
    assert (result.folder, result.seed) == (three / "a", "42")
    assert [row.model for row in tables_of(Path("."))[0].rows] == ["a"]
    assert [r.path for r in read_results(three / "b", [str(result.path.absolute())])] == [result.path.absolute()]


def test_metric_sets_of_the_same_weights_share_a_row(tmp_path: Path) -> None:
    def checkpoint(sha256: str) -> dict[str, str]:
        return {"file": "a/1/ckpts/best.safetensors", "sha256": sha256}

    first = write_result(tmp_path, "a", 1, {"abs_rel": 0.1}, checkpoint=checkpoint("abc"))
    other = first.rename(first.with_stem(f"{first.stem}_benchmark"))
    for numbers, sha256, agree in (({"rmse": 4.0}, "abc", True), ({"rmse": 4.0}, "abd", False),
                                   ({"abs_rel": 0.2, "rmse": 4.0}, "abc", False)):  # fmt: skip
        write_result(tmp_path, "a", 1, numbers, checkpoint=checkpoint(sha256))
        if agree:
            (table,) = tables_of(tmp_path)
            (row,) = table.rows
            assert {column.key: cell.mean for column, cell in row.cells.items()} == {"abs_rel": 0.1, "rmse": 4.0}
        else:
            with pytest.raises(UserError, match="have one protocol but different numbers"):
                tables_of(tmp_path)
    assert other.exists()


def test_two_files_of_one_seed_must_agree(tmp_path: Path) -> None:
    first = write_result(tmp_path, "a", 1, {"abs_rel": 0.1})
    copy = first.with_name("copy.yaml")
    copy.write_text(first.read_text())
    assert len(tables_of(tmp_path)[0].rows) == 1
    copy.write_text(first.read_text().replace("0.1", "0.2"))
    with pytest.raises(UserError, match=r"copy\.yaml and .*best_median\.yaml have one protocol but"):
        tables_of(tmp_path)
    assert make_tables(read_results(tmp_path, ["kitti*.yaml"]), tmp_path)


def test_models_of_one_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    write_seeds(tmp_path / "x", "m.v1", {1: 0.1})
    write_seeds(tmp_path / "y", "m.v1", {1: 0.2})
    table = table_of(tmp_path, {"y/other": {1: 0.3}})
    assert [row.model for row in table.rows] == ["other", "x/m.v1", "y/m.v1"]


def test_edges_have_a_table_of_their_own_and_nothing_published(tmp_path: Path) -> None:
    write_result(tmp_path, "a", 1, {"abs_rel": 0.1, "abs_rel_edges": 0.3}, alignment="stereo", **KEB)
    plain, edges = published_beside(tmp_path)
    assert [(c.key, c.direction) for c in edges.columns] == [("abs_rel", -1)]
    assert edges.protocol["pixels"] == "true depth edges"
    assert edges.rows[0].cells[edges.columns[0]].mean == 0.3
    assert "pixels" not in plain.protocol
    assert (len(plain.references), edges.references) == (13, [])


def test_camera_motion_has_tables_without_a_depth_range(tmp_path: Path) -> None:
    odometry = {"version": 1, "units": {"ate_m": "m"}, "higher_is_better": []}
    absent = dict.fromkeys(("crop", "min_depth_m", "max_depth_m", "items"))
    write_result(tmp_path, "a", 1, {"ate_m": 0.02}, alignment="scale", metrics={"odometry": odometry}, **absent)
    (table,) = tables_of(tmp_path)
    assert table.title == "kitti eigen test, best, alignment scale, input 640x192"
    assert table.columns[0].direction == -1


def test_files_of_earlier_code(tmp_path: Path) -> None:
    """A mapping of means, and a list of images with categories; the file name is their protocol."""
    means = {"Ratio": 5.4, "AbsRel": 0.1, r"$\delta < 1.25$": 0.9}
    write_legacy(tmp_path, "kitti_eigen_best_stereo.yaml", means)
    rows = [{"Cat": "Nature", "AbsRel": 10.0, "AbsRel-Edges": 30.0}, {"Cat": "Indoor", "AbsRel": 20.0}]
    write_legacy(tmp_path, "syns_test_last_mono.yaml", rows)
    eigen, syns, edges = sorted(read_results(tmp_path), key=lambda r: (r.path, "pixels" in r.protocol))
    found = [eigen.protocol[key] for key in ("dataset", "checkpoint", "alignment")]
    assert found == ["kitti_eigen", "best", "stereo"]
    assert [c.direction for c in eigen.values] == [0, -1, 1]
    assert (syns.protocol["alignment"], syns.protocol["items"], syns.seed) == ("median", "2", "042")
    assert syns.values == {Column("AbsRel"): 15.0}
    assert edges.values == {Column("AbsRel"): 30.0}


@pytest.mark.parametrize(
    "text",
    [
        *("a: [", "just text", "[]", "{}", "- {a: {b: 1}}", "protocol: {}"),
        "mean: {a: b}\nprotocol: {}",
        "mean: {1: 2}\nprotocol: {}",
        "mean: {a: 1}\nprotocol: {dataset: kitti}",
        "mean: {a: 1}\nprotocol: {metrics: [eigen]}",
        "mean: {a: 1}\nprotocol: {metrics: {eigen: 3}}",
    ],
)
def test_a_file_that_is_no_result_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m" / "1" / "results" / "x.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml"):
        read_result(path)


def test_all_files_that_are_no_results_are_named_and_the_others_are_read(three: Path) -> None:
    for model in ("a", "b"):
        (three / model / "42" / "results" / "broken.yaml").write_text("a: [")
    with pytest.raises(UserError) as error:
        read_results(three)
    assert str(error.value).count("broken.yaml: cannot be read") == 2
    problems: list[str] = []
    assert (len(read_results(three, problems=problems)), len(problems)) == (9, 2)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        read_results(three, ["broken.yaml"], problems)  # nothing is left


def test_versions_need_not_be_numbers(tmp_path: Path) -> None:
    for seed in ("2", "10", "run-b", "1.5", "²"):
        write_result(tmp_path, "a", seed, {"abs_rel": 0.1})
    assert tables_of(tmp_path)[0].rows[0].seeds == ("2", "10", "1.5", "run-b", "²")


def test_chosen_metrics_in_the_chosen_order(three: Path) -> None:
    (table,) = tables_of(three, metrics=["d1", "abs_rel"], models=["far", "a"])
    assert head(table) == ["model", "n", "d1 ↑", "abs_rel ↓"]
    assert [row.model for row in table.rows] == ["a", "far"]


def test_holm_by_hand() -> None:
    """0.01 x 3, 0.02 x 2, then 0.03 x 1, which may not fall below its predecessor."""
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_an_order_inside_the_seed_noise_is_warned_of(table: Table) -> None:
    comparisons = warn_of_noise(table)
    assert len(comparisons) == 6  # three pairs, two metrics
    expected = "abs_rel: a before b is inside the seed noise (p = 0.57, Holm)"
    assert [w for w in table.warnings if w.startswith("abs_rel")] == [expected]
    sure = {(c.better, c.worse) for c in comparisons if not c.is_noise}
    assert sure == {("a", "far"), ("b", "far")}
    assert flips(table, column(table, "abs_rel")) == (1, 3)


def test_markdown_and_comments_in_latex_name_everything(gap: Table) -> None:
    text = markdown(gap, column(gap, "abs_rel"))
    for expected in (
        "## kitti eigen test, best, alignment median, crop garg, 0.001-80 m, items 697, input 640x192",
        "| a | 3 | **0.1100 ± 0.0100** | **0.8900 ± 0.0100** |",
        "| b | 2 | <u>0.1200 ± 0.0071</u> |",
        "| b | - | 0.1150 | 0.1250 | 0.0100 |",
        "- b: no result of seed 42 (no run)",
        "a before b is inside the seed noise",
    ):
        assert expected in text.replace("| seed 42", "")
    comments = [line for line in latex(gap).splitlines() if line.startswith("%")]
    assert "% b: no result of seed 42 (no run)" in comments
    assert any(line.startswith("% abs_rel: a before b is inside the seed noise") for line in comments)
    assert any("crop garg;" in line for line in comments)


def test_latex_is_booktabs_with_marks_of_any_length(tmp_path: Path) -> None:
    rows = {"long_name&co": {1: 123456.123456, 2: 123457.123456}, "second": {1: 200000.0, 2: 200001.0}}
    table = table_of(tmp_path, rows)
    text = latex(table, decimals=6)
    assert r"\begin{tabular}{@{}llrr@{}}" in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert r"\best{123456.623456 \ensuremath{\pm} 0.707107}" in text
    assert r"\nbest{200000.500000 \ensuremath{\pm} 0.707107}" in text
    assert r"long\_name\&co" in text
    assert r"Abs Rel $\downarrow$" in text
    assert text.count("{") == text.count("}")


def test_latex_escapes_all_that_has_a_meaning_but_formulas_in_the_names_of_metrics(tmp_path: Path) -> None:
    write_result(tmp_path, "cost $1 or $2", 1, {r"$\delta_{.25}$ at 5 %": 0.1})
    text = latex(tables_of(tmp_path)[0])
    assert r"& $\delta_{.25}$ at 5 \% $\uparrow$ \\" in text
    assert r"cost \$1 or \$2" in text
    assert escape("a_b%c&d#e{f}g$h") == r"a\_b\%c\&d\#e\{f\}g\$h"
    assert escape("a~b^c\\d") == r"a\textasciitilde{}b\textasciicircum{}c\textbackslash{}d"
    assert escape("<|>") == r"\textless{}\textbar{}\textgreater{}"  # other signs in LaTeX's own font encoding
    assert escape("[x]*") == "{[}x]{*}"  # after \\ they would be its arguments


def test_heads_are_those_of_papers_where_people_read_and_keys_where_programs_do(tmp_path: Path) -> None:
    eigen = METRICS.get("eigen").metrics  # type: ignore[attr-defined]
    declared = {
        "units": {m.key: m.unit for m in eigen},
        "higher_is_better": [m.key for m in eigen if m.higher_is_better],
    }
    write_result(tmp_path, "a", 1, {m.key: 0.1 for m in eigen}, metrics={"eigen": declared})
    write_legacy(tmp_path, "x.yaml", {m.legacy: 0.1 for m in eigen})
    for table in tables_of(tmp_path):
        names = "Abs Rel ↓ | Sq Rel ↓ | RMSE ↓ | RMSE log ↓ | δ < 1.25 ↑ | δ < 1.25² ↑ | δ < 1.25³ ↑"
        assert markdown(table, None).splitlines()[2] == f"| model | n | {names} |"
        assert "**" not in markdown(table, None)  # one row: no mark, and none explained
        (heads,) = [line for line in latex(table).splitlines() if "Model" in line]
        for title in ("Abs Rel", "RMSE log", r"$\delta < 1.25$", r"$\delta < 1.25^2$", r"$\delta < 1.25^3$"):
            assert f"& {title} $" in heads
    assert {"d1_mean", "log_rmse_sd"} <= wide_rows(next(t for t in tables_of(tmp_path) if t.columns[0].unit))[0].keys()


def test_two_metrics_of_one_name_are_told_apart_by_their_keys(tmp_path: Path) -> None:
    write_result(tmp_path, "a", 1, {"abs_rel": 0.1, "abs_rel_pct": 10.0, "d1": 0.9})
    (table,) = tables_of(tmp_path)
    assert head(table, "title")[2:] == ["Abs Rel (abs_rel) ↓", "Abs Rel (abs_rel_pct) ↓", "δ < 1.25 ↑"]
    assert r"& Abs Rel (abs rel pct) $\downarrow$" in latex(table)
    assert "Keys: Abs Rel is `abs_rel`, Abs Rel is `abs_rel_pct`, δ < 1.25 is `d1`." in markdown(table, None)


def test_csv_has_all_digits_every_seed_and_every_pair(table: Table, tmp_path: Path) -> None:
    comparisons = warn_of_noise(table)
    out = tmp_path / "out"
    paths = write_table(table, out, "t", comparisons, column(table, "abs_rel"))
    assert {p.name for p in paths} == {"t.md", "t.tex", "t.csv", "t_seeds.csv", "t_pairs.csv"}
    files = {path.stem: list(csv.DictReader(path.read_text().splitlines())) for path in out.glob("*.csv")}
    assert [row["model"] for row in files["t"]] == ["a", "b", "far"]
    assert float(files["t"][2]["abs_rel_mean"]) == statistics.fmean([0.30, 0.301, 0.302])
    assert len(files["t_seeds"]) == 3 * 3 * 2
    assert {row["inside_seed_noise"] for row in files["t_pairs"]} == {"True", "False"}
    write_table(table, out, "t")
    assert not (out / "t_pairs.csv").exists()  # nothing was compared: no stale answer stays


def test_published_benchmark_is_complete() -> None:
    data = yaml.safe_load(reference.references()["benchmark"].read_text())
    systems = {p.stem for p in (ROOT / "cfg" / "benchmark").glob("*.yaml")} - {"default"}
    assert set(data["methods"]) == systems
    assert "arXiv:2307.10713" in data["source"]
    assert data["methods"]["garg"]["eigen_benchmark"]["abs_rel_pct"] == [7.65, 0.09]
    assert data["methods"]["sfm_learner"]["syns_lsqr"]["f_score_10"] == [13.5, 0.3]


def test_welch_on_the_published_numbers_by_hand() -> None:
    """Of the 78 orders of 13 stereo systems 22 are outside the seed noise one by one, and none after correction."""
    from scipy.stats import t

    data = yaml.safe_load(reference.references()["benchmark"].read_text())["methods"].values()
    stereo = [Cell(*m["eigen_benchmark"]["abs_rel_pct"], 3) for m in data if m["scale"] == "stereo"]
    pairs = list(itertools.combinations(stereo, 2))
    ps = [welch(a, b) for a, b in pairs]
    for p, (a, b) in zip(ps, pairs, strict=True):
        u, v = a.sd**2 / 3, b.sd**2 / 3
        freedom = (u + v) ** 2 / (u**2 / 2 + v**2 / 2)
        assert p == pytest.approx(2 * t.sf(abs(a.mean - b.mean) / math.sqrt(u + v), freedom))
    assert (len(ps), sum(p < 0.05 for p in ps), sum(p < 0.05 for p in holm(ps))) == (78, 22, 0)
    same, other = Cell(1.0, 0.0, 3), Cell(2.0, 0.0, 3)
    assert (welch(same, same), welch(same, other)) == (1.0, 0.0)


def test_published_rows_stand_below_and_are_not_ranked(tmp_path: Path) -> None:
    write_seeds(tmp_path, "garg", {1: 0.5, 2: 0.51}, alignment="stereo", **KEB)
    (table,) = published_beside(tmp_path)
    assert len(table.references) == 13  # stereo scale; the five of video are at median scale
    published = {row.model: row.cells[column(table, "abs_rel")].mean for row in table.references}
    assert published["garg (published)"] == pytest.approx(0.0765)  # per cent there, a fraction here
    assert best_two(table, column(table, "abs_rel")) == (set(), set())  # alone
    assert wide_rows(table)[-1]["n"] == 3
    assert latex(table).count(r"\midrule") == 2
    assert "published rows: arXiv:2307.10713" in table.notes[-1]


def test_ours_beside_published_numbers(tmp_path: Path) -> None:
    """garg is published as 7.65 ± 0.09 % of three seeds."""
    ours = {"garg": {1: 0.0765, 2: 0.0766, 3: 0.0764}, "monodepth": {1: 0.0901, 2: 0.0902, 3: 0.0903}}
    table = table_of(tmp_path, ours, alignment="stereo", **KEB)
    reference.add_references([table], "benchmark")
    warn_of_noise(table)
    garg, monodepth = (note for note in table.notes if "abs_rel" in note)
    assert garg == "garg: abs_rel 0.0765 agrees with the published 0.0765 (p = 1, Welch, uncorrected)"
    assert monodepth.startswith("monodepth: abs_rel 0.0902 differs from the published 0.0773 (p = 0.00")


def test_published_rows_of_all_alignments_when_they_are_mixed(tmp_path: Path) -> None:
    """Those of KITTI have one alignment each, those of SYNS-Patches two."""
    for alignment in ("stereo", "median", "lsqr_disp"):
        folder, syns = tmp_path / alignment, {**KEB, "dataset": SYNS, "items": 775}
        write_seeds(folder / "kitti", "garg", {1: 0.5}, alignment=alignment, **KEB)
        write_seeds(folder / "syns", "garg", {1: 0.5}, alignment=alignment, **syns)
    tables = published_beside(tmp_path, mix=["alignment"])
    counts = [Counter(row.shown["alignment"] for row in table.references) for table in tables]
    assert counts == [{"stereo": 13, "median": 5}, {"median": 18, "lsqr_disp": 18}]
    assert "protocol syns_median, syns_lsqr; not ranked" in tables[1].notes[-1]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"crop": "garg"}, "crop none, not garg"),
        ({"max_depth_m": 80}, "depth 0.001-100 m"),
        ({"items": 80}, "items 652, not 80"),
        ({"items": 12, "dataset": SYNS, "alignment": "lsqr_disp"}, "syns_lsqr has items 775, not 12"),
    ],
)
def test_published_rows_of_another_protocol_are_refused_by_name(tmp_path: Path, change, difference) -> None:
    write_seeds(tmp_path, "garg", {1: 0.5}, **{"alignment": "stereo", **KEB, **change})
    (table,) = published_beside(tmp_path)
    assert table.references == []
    assert table.notes[-1].startswith("no published rows: ")
    assert difference in table.notes[-1]


def test_published_rows_beside_files_of_earlier_code(tmp_path: Path) -> None:
    write_legacy(tmp_path, "kitti_eigen_benchmark_best_stereo.yaml", {"AbsRel": 7.7, "F-Score": 53.0})
    (table,) = published_beside(tmp_path)
    assert table.references == []  # the name of the file lacks the test part
    assert table.notes


@pytest.mark.parametrize("text", ["a: 1", "protocols: {x: {}}\nmethods: {m: 3}", "["])
def test_a_file_that_holds_no_published_numbers(three: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="is no file of published numbers"):
        reference.add_references(tables_of(three), str(path))


def test_the_mean_curve_outlives_a_seed_that_stopped() -> None:
    seeds = ([1.0, 2.0, 3.0], [3.0, 4.0, 5.0], [5.0])
    steps, mean, sd, count = average([(np.arange(len(values)), np.array(values)) for values in seeds])
    assert (steps.tolist(), mean.tolist(), count.tolist()) == ([0, 1, 2], [3.0, 3.0, 4.0], [3, 2, 2])
    assert sd.tolist() == pytest.approx([2.0, 2**0.5, 2**0.5])


def test_curves_and_bars_are_pictures(three: Path, table: Table) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for seed in ("42", "195"):
        with SummaryWriter(str(three / "a" / seed)) as writer:
            for step in (10, 20):
                writer.add_scalar("val/AbsRel", 50 - step, step)
    with SummaryWriter(str(three / "a" / "42"), purge_step=25) as writer:  # what an earlier version wrote before
        writer.add_scalar("val_metrics/AbsRel", 55, 5)
        writer.add_scalar("val_metrics/MAE", 5, 5)
    before = read_curves(three / "a" / "42")
    assert before["val/AbsRel"][0].tolist() == [5, 10, 20]
    assert before["val/AbsRel"][1].tolist() == pytest.approx([0.55, 40.0, 30.0])
    assert before["val/MAE"][1].tolist() == [5]
    steps, values = (column[1:] for column in before["val/AbsRel"])
    assert (steps.tolist(), values.tolist()) == ([10, 20], [40.0, 30.0])
    folders = {name: three / name for name in ("a", "b")}
    assert draw_curves(folders, "absent", three / "none.png", required=False) is None
    with pytest.raises(UserError, match="Did you mean 'val/AbsRel'"):
        draw_curves(folders, "val/AbsRle", three / "none.png")
    curves = draw_curves(folders, "val/AbsRel", three / "curves.png")
    for path in (curves, draw_bars(table, three / "bars.png")):
        assert path is not None
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_curves_says_who_is_who_and_where_seeds_end(tmp_path, monkeypatch, figures) -> None:
    """12 models, more than there are colours, each with three seeds, one of which ends early."""
    names = [f"_model{i:02}" for i in range(12)]  # a legend hides what begins with _
    for name, seed in itertools.product(names, "123"):
        (tmp_path / name / seed).mkdir(parents=True)
    monkeypatch.setattr(
        pictures, "read_curves", lambda run: {"x$y$": (np.arange(n := 2 + (run.name < "3")), np.ones(n))}
    )
    draw_curves({name: tmp_path / name for name in names}, "x$y$", tmp_path / "c.png")
    (axes,) = figures[0].axes
    assert axes.get_ylabel() == "x$y$"
    lines, labels = axes.get_legend_handles_labels()
    assert [label.strip() for label in labels] == [f"{name} (n = 3)" for name in names]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12
    assert all(line.get_xdata().tolist() == [0, 1] for line in lines)  # all three seeds
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [line.get_xdata().tolist() for line in dotted] == [[0, 1, 2]] * 12
    assert all(line.get_marker() == "o" for line in dotted)  # a mean of one validation shows, too
    figures[0].canvas.draw()


def test_a_picture_of_curves_tells_the_unit(tmp_path: Path, monkeypatch, figures: list[Any]) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    units = {"val/AbsRel": " [fraction]", "train/LogSI": " [ln m]", "train_losses/AbsRel": ""}
    monkeypatch.setattr(pictures, "read_curves", lambda run: dict.fromkeys(units, (np.arange(2), np.ones(2))))
    for tag in units:
        draw_curves({"a": tmp_path / "a"}, tag, tmp_path / "c.png")
    labels = [figure.axes[0].get_ylabel() for figure in figures]
    assert labels == [f"{tag}{unit}" for tag, unit in units.items()]


def test_bars_name_the_rows_once_and_show_known_spreads_alone(tmp_path: Path, figures: list[Any]) -> None:
    write_result(tmp_path, "a", 1, {"abs_rel": 0.1, "d1": 0.9})
    write_seeds(tmp_path, "b", {1: 0.2, 2: 0.3})
    (table,) = tables_of(tmp_path)
    table.references = [row_of("c (published)", column(table, "abs_rel"), 0.1, 0.2)]
    draw_bars(table, tmp_path / "b.png")
    first, second = figures[0].axes
    assert [t.get_text() for t in first.get_yticklabels()] == ["a", "b", "c (published)"]
    assert not any(t.get_visible() for t in second.get_yticklabels())
    assert first.get_ylim() == second.get_ylim() == (2.5, -0.5)
    middles = [[round(b.get_y() + b.get_height() / 2) for b in axes.patches] for axes in (first, second)]
    assert middles == [[0, 1, 2], [0, 1]]
    assert len([c for c in first.containers if type(c).__name__ == "ErrorbarContainer"]) == 2
    assert [(text.get_text(), text.xy[1]) for text in first.texts] == [("0.1000", 0), ("0.2500", 1), ("0.1500", 2)]
    assert first.texts[1].xy[0] == pytest.approx(0.25 + 0.1 / math.sqrt(2))  # behind the spread
    assert [axes.get_title() for axes in (first, second)] == ["Abs Rel ↓ [fraction]", "δ < 1.25 ↑ [fraction]"]
