"""`evaluate --corrupt`: passes that are kept and continued, scores beside the baseline, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.commands.evaluating import evaluate, refused, saved
from tests.world import fork
from trainer.data.corruptions.kinds import KINDS
from trainer.evaluation import corruption
from trainer.evaluation.passes import Passes
from trainer.metrics.robustness import dee

TWO = "--corrupt pixelate gaussian_noise --corrupt-levels 1 5"
ENDING = "corrupt_gaussian_noise_pixelate_level15"  # kinds in the order of the table, whatever that of the words


@pytest.fixture
def own(run, tmp_path) -> Path:
    """A copy of the run, without results of other tests."""
    return Path(shutil.copytree(run / "ckpts", tmp_path / "md2" / "42" / "ckpts")).parent


@pytest.fixture
def scored(monkeypatch) -> list[int]:
    """A list that grows with every pass over the data."""
    passes: list[int] = []
    score = corruption.evaluate_side_by_side

    def counted(*args, **options):
        passes.append(len(passes))
        return score(*args, **options)

    monkeypatch.setattr(corruption, "evaluate_side_by_side", counted)
    return passes


def result(run: Path, ending: str = ENDING) -> Path:
    return run / "results" / f"synthetic_best_median_{ending}.yaml"


def passes_of(run: Path) -> Path:
    return run / "results" / "synthetic_best_median_corrupt.passes.json"


def test_scores_of_two_kinds(own, capsys):
    assert evaluate("--ckpt", own, TWO) == 0
    out = capsys.readouterr().out
    path = result(own)
    assert f"saved: {path}" in out
    found = saved(path)
    clean, noise, _ = found["kinds"]
    assert [row["kind"] for row in found["kinds"]] == ["clean", "gaussian_noise", "pixelate"]
    assert [(row["kind"], row["level"]) for row in found["passes"]][:2] == [
        ("gaussian_noise", 1),
        ("gaussian_noise", 5),
    ]
    means = {key: sum(row[key] for row in found["passes"][:2]) / 2 for key in ("abs_rel", "d1")}
    assert {key: noise[key] for key in means} == pytest.approx(means)
    assert noise["dee"] == dee(means["abs_rel"], means["d1"])
    assert noise["ce_pct"] == pytest.approx(100 * noise["dee"] / 0.384)
    assert noise["rr_pct"] == pytest.approx(100 * (1 - noise["dee"]) / (1 - clean["dee"]))
    assert found["mean"]["mean_ce_pct"] == pytest.approx(sum(row["ce_pct"] for row in found["kinds"][1:]) / 2)
    assert "mce_pct" not in found["mean"]
    assert out.splitlines()[-1].startswith("not KITTI-C: mean CE ")


def test_the_result_says_in_what_it_differs(own):
    assert evaluate("--ckpt", own, TWO, "--limit 1") == 0
    found = saved(result(own, f"1items_{ENDING}"))
    assert found["benchmark"] == "not KITTI-C"
    assert "input 96x64, not 640x192" in found["differs"]
    assert "items 1, not 697" in found["differs"]
    assert "corruptions gaussian_noise, pixelate x levels 1, 5, not 18 kinds x 5 levels" in found["differs"]
    protocol = found["protocol"]
    assert (protocol["kitti_c"], protocol["corruption_seed"], protocol["limit"]) == ("no", 0, "1 of 4, evenly spaced")
    assert "frost" not in protocol
    assert found["baseline"]["name"].startswith("Monodepth2")


def test_clean_pictures_score_as_without_corruption(own):
    assert evaluate("--ckpt", own, TWO) == 0
    assert evaluate("--ckpt", own) == 0
    plain = saved(own / "results" / "synthetic_best_median.yaml")["mean"]
    clean = saved(result(own))["kinds"][0]
    assert (clean["abs_rel"], clean["d1"]) == (plain["abs_rel"], plain["d1"])


def test_all_kinds_and_levels(own, scored):
    assert evaluate("--ckpt", own, "--corrupt all --limit 1") == 0
    found = saved(own / "results" / "synthetic_best_median_1items_corrupt.yaml")
    assert len(scored) == 91
    assert [row["kind"] for row in found["kinds"]] == ["clean", *KINDS]
    assert found["protocol"]["corruptions"] == "18 kinds x 5 levels"
    assert found["protocol"]["frost"] == "own texture, not comparable"


def test_it_continues_where_it_was_stopped(own, tmp_path, scored, monkeypatch, capsys):
    add = Passes.add

    def stopped(self, name, scores):
        add(self, name, scores)
        if len(self.done) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Passes, "add", stopped)
        with pytest.raises(SystemExit, match="130"):
            evaluate("--ckpt", own, TWO)
    assert len(json.loads(passes_of(own).read_text())["passes"]) == 2
    assert not result(own).exists()
    assert evaluate("--ckpt", own, TWO) == 0
    assert "2 of 5 passes are done" in capsys.readouterr().err
    assert len(scored) == 5
    first = result(own).read_bytes()
    assert evaluate("--ckpt", own, TWO) == 0  # nothing is missing
    assert len(scored) == 5
    assert evaluate("--ckpt", own, TWO, "--save", tmp_path / "other.yaml") == 0  # never stopped
    assert len(scored) == 10
    assert result(own).read_bytes() == first == (tmp_path / "other.yaml").read_bytes()


def test_other_kinds_use_what_is_there(own, scored):
    assert evaluate("--ckpt", own, "--corrupt pixelate --corrupt-levels 2") == 0
    assert evaluate("--ckpt", own, "--corrupt pixelate contrast --corrupt-levels 2") == 0
    assert len(scored) == 2 + 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ("--corrupt-seed 3", "corruption seed"),
        ("--crop garg", "protocol"),
        ("--set dataset.test.num_items=3", "data set, names of items"),
    ],
)
def test_it_starts_anew_when_something_has_changed(own, tmp_path, scored, capsys, changes, named):
    words = ["--ckpt", own, "--corrupt pixelate --corrupt-levels 2 --save", tmp_path / "r.yaml"]
    assert evaluate(*words) == 0
    assert evaluate(*words, changes) == 0
    message = capsys.readouterr().err
    assert f"{tmp_path}/r.passes.json: {named}" in message
    assert "start anew" in message
    assert len(scored) == 4


def test_the_sheet_shows_every_kind(own, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert evaluate("--ckpt", own, TWO, "--sheet", sheet) == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert f"sheet: {sheet}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--corrupt fogg", "Did you mean 'fog'?"),
        ("--corrupt-levels 2", "add --corrupt all"),
        ("--frost-pictures /tmp", "add --corrupt all"),
        ("--corrupt fog --frost-pictures /tmp", "no frost is asked for"),
        ("--corrupt frost --frost-pictures /nowhere", "/nowhere: holds 0 of the pictures of frost"),
        ("--corrupt fog --pose", "Leave out --pose"),
        ("--corrupt fog --metrics eigen", "Leave out --metrics"),
        ("--corrupt fog --num-sheet 2", "Leave out --num-sheet"),
        ("--corrupt fog --alignment median none", "one --alignment at a time"),
        ("--corrupt fog --sheet a.jpg", "must end in .png"),
    ],
)
def test_mistakes_are_named_before_the_work(own, capsys, words, message):
    assert message in refused(capsys, "--ckpt", own, words)


def test_predictions_in_a_file_cannot_be_corrupted(capsys, tmp_path):
    assert "name one with --ckpt" in refused(capsys, "--pred-file", tmp_path / "p.npz", "--corrupt all")


def test_another_file_of_passes_is_left_alone(own, tmp_path, capsys):
    other = tmp_path / "r.passes.json"
    other.write_text("[1]")
    message = refused(capsys, "--ckpt", own, "--corrupt fog --save", tmp_path / "r.yaml")
    assert f"{other}: is no file of finished passes" in message
    assert other.read_text() == "[1]"


@pytest.mark.slow
def test_two_processes_write_what_one_writes(own, tmp_path):
    for processes, name in ((1, "one"), (2, "two")):
        options = [*TWO.split(), "--save", tmp_path / f"{name}.yaml"]
        done = fork("launch/evaluate.py", "--ckpt", own, *options, processes=processes)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.yaml").read_bytes() == (tmp_path / "two.yaml").read_bytes()
    assert (tmp_path / "one.passes.json").read_bytes() == (tmp_path / "two.passes.json").read_bytes()
