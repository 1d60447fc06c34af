"""The command `generate_tables`: what it prints, what it writes, how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tables.test_parts import item, write_items
from tests.tables.test_tables import KEB, write_result, write_seeds
from trainer.commands.generate_tables import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two stereo systems whose order nobody knows, and one of video with a seed missing."""
    root = tmp_path / "models"
    write_seeds(root, "garg", {42: 0.100, 195: 0.110, 335: 0.120}, alignment="stereo", **KEB)
    write_seeds(root, "monodepth", {42: 0.101, 195: 0.111, 335: 0.121}, alignment="stereo", **KEB)
    write_seeds(root, "klodt", {42: 0.2, 335: 0.21}, alignment="median", **KEB)
    return root


def test_one_table_per_protocol_with_noise_and_missing_seeds(root: Path, capsys) -> None:
    assert main([str(root)]) == 0
    out = capsys.readouterr().out
    assert "table 1: kitti eigen_benchmark test, best, alignment median" in out
    assert "table 2: kitti eigen_benchmark test, best, alignment stereo" in out
    assert (
        "table 2 is apart from table 1: alignment stereo (not median); --mix alignment puts them side by side, or"
        " evaluate with the same --alignment\n" in out
    )
    assert "0.1100 ± 0.0100 ¹" in out
    assert "0.1110 ± 0.0100 ²" in out
    assert "warning: abs_rel: garg before monodepth is inside the seed noise (p = 0.91, Holm)" in out
    assert "pairs that their seeds tell apart (Welch, Holm, p < 0.05): abs_rel 0 of 1, d1 0 of 1\n" in out
    assert "orders that turn round with some choice of one seed each: abs_rel 1 of 1, d1 1 of 1\n" in out
    assert "klodt: no result of seed 195 (no run)" in out
    assert "garg: no result" not in out


def test_seeds_that_should_be_there(root: Path, capsys) -> None:
    assert main([str(root), "--seeds", "42", "195", "7"]) == 0
    out = capsys.readouterr().out
    assert "garg: no result of seed 7 (no run)" in out
    assert "klodt: no result of seeds 195 (no run), 7 (no run)" in out
    assert "seed 335" not in out


def test_mixed_alignments_and_published_rows_side_by_side(root: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main([str(root), "--mix", "alignment", "--reference", "benchmark", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "table 2" not in printed
    assert "hrdepth_MS (published)" in printed
    name = "kitti_eigen_benchmark_test_best"
    endings = (".md", ".tex", ".csv", "_seeds.csv", "_pairs.csv", "_bars.png")
    assert {p.name for p in out.iterdir()} == {name + ending for ending in endings}  # no events, so no curves
    for path in out.iterdir():
        assert f"saved: {path}" in printed
    assert (out / f"{name}_bars.png").read_bytes().startswith(b"\x89PNG")
    text = (out / f"{name}.md").read_text()
    assert "| garg | stereo | 3 | **0.1100 ± 0.0100** |" in text
    assert "d1: garg (stereo) before monodepth (stereo) is inside the seed noise" in text


def test_chosen_metrics_and_digits(root: Path, capsys) -> None:
    assert main([str(root), "--models", "klodt", "--metrics", "d1", "--decimals", "3", "--sort", "d1"]) == 0
    out = capsys.readouterr().out
    assert "0.795 ± 0.007" in out
    assert "abs_rel" not in out


def test_same_results_same_files(root: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main([str(root), "--out", str(tmp_path / name)]) == 0
    for path in (tmp_path / "a").iterdir():
        if path.suffix != ".png":
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mix", "crp"], "Did you mean 'crop'"),
        (["--models", "grag"], "Did you mean 'garg'"),
        (["--metrics", "abs_rle"], "Did you mean 'abs_rel'"),
        (["--metrics", "AbsRel"], "Did you mean 'abs_rel'"),
        (["--seeds", "7"], "no result of the seeds 7"),
        (["--sort", "abs_rle"], "Did you mean 'abs_rel'"),
        (["--file", "none*.yaml"], "Evaluate a run first"),
        (["--reference", "bench"], "Did you mean 'benchmark'"),
        (["--relative-to", "grag"], "Did you mean 'garg'"),
        (["--by", "category"], "no result has the category"),
        (["--curves", "val/AbsRel", "--out", "tables"], "no run has this scalar"),
    ],
)
def test_errors_are_sentences(root: Path, tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(root), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err


def test_a_folder_that_is_not_there(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "file")]) == 2
    assert "file: is a file. Name a folder of runs" in capsys.readouterr().err


def test_a_model_of_one_metric_more_leaves_blanks(tmp_path: Path, capsys) -> None:
    write_result(tmp_path, "a", 1, {"abs_rel": 0.1, "chamfer": 2.0})
    write_result(tmp_path, "b", 1, {"abs_rel": 0.2})
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Chamfer [m] ↓" in out
    assert "1 seed, so no spread is known" in out
    assert "warning" not in out
    assert "seed by seed" not in out


def test_a_broken_file_is_left_out_and_named_at_the_end(root: Path, capsys) -> None:
    (root / "garg" / "42" / "results" / "kitti_eigen_best_stereo.yaml").write_text("mean: [")
    assert main([str(root)]) == 1
    printed = capsys.readouterr()
    assert "garg: no result of seed 42 (no run)" in printed.out
    assert "warning: left out: " in printed.err
    assert "kitti_eigen_best_stereo.yaml: cannot be read as a result file" in printed.err


def test_summary_and_improvement(root: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main([str(root), "--relative-to", "garg", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "table 3: summary of 2 numbers of table 2" in printed
    assert "% better than garg ↑" in printed
    assert "ranks count every order, those inside the seed noise too" in printed
    assert "| monodepth | 3 | <u>2.000</u> | <u>-0.511 ± 5.107</u> |" in (out / "summary.md").read_text()
    assert main([str(root), "--summary", "--models", "klodt"]) == 0
    assert "no summary: no table has two rows" in capsys.readouterr().out


def test_by_category(tmp_path: Path, capsys) -> None:
    for model, shift in (("a", 0.0), ("b", 0.1)):
        rows = [item(name, value + shift) for name, value in (("Nature", 0.1), ("Indoor", 0.3))]
        write_items(tmp_path, model, 1, rows)
    assert main([str(tmp_path), "--by", "category", "--sort", "d1", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "table 2: d1 by category, syns_patches test" in printed
    assert "images: Indoor 1, Nature 1" in printed
    assert "is apart from" not in printed  # it is no protocol of its own
    name = "syns_patches_test_best_median_d1_category.md"
    assert "| a | 1 | **0.7000** | **0.9000** |" in (tmp_path / "out" / name).read_text()


def test_by_category_of_models_some_of_which_know_none(tmp_path: Path, capsys) -> None:
    write_items(tmp_path, "a", 1, [item("Nature", 0.1)])
    write_items(tmp_path, "b", 1, [item("Nature", 0.2)])
    write_seeds(tmp_path, "kitti_only", {1: 0.3})
    assert main([str(tmp_path), "--by", "category", "--models", "a", "kitti_only"]) == 0
    assert "table 3: abs_rel by category, syns_patches test" in capsys.readouterr().out


def test_rows_are_sorted_best_first(tmp_path: Path, capsys) -> None:
    for model, abs_rel, d1 in (("a", 0.1, 0.5), ("b", 0.2, 0.7), ("c", 0.3, 0.6)):
        write_result(tmp_path, model, 1, {"abs_rel": abs_rel, "d1": d1})
    write_result(tmp_path, "abs_rel_alone", 1, {"abs_rel": 0.05})
    write_result(tmp_path, "other", 1, {"abs_rel": 0.1}, alignment="stereo")  # a table without d1 stays
    out = tmp_path / "out"
    assert main([str(tmp_path), "--sort", "d1", "--relative-to", "a", "--out", str(out)]) == 0
    rows = (out / "kitti_eigen_test_best_median.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["model", "b", "c", "a", "abs_rel_alone"]
    assert "% better than a" in capsys.readouterr().out


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_no_cell_is_cut_on_a_narrow_terminal(tmp_path: Path, capsys, monkeypatch, term: str) -> None:
    metrics = {f"RMSE{i}": 123456.789 for i in range(15)}
    for seed in (1, 2):
        write_result(tmp_path, "a_model_with_a_long_name", seed, metrics)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", term)
    assert main([str(tmp_path)]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.count("123456.79 ± 0.00") > 1]
    assert line.count("123456.79 ± 0.00") == 15
    assert "a_model_with_a_long_name" in line
