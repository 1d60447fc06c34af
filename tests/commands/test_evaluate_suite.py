"""`evaluate --suite`: what is here is scored, the rest is named, one table; results that exist are kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.commands.evaluating import evaluate, hparams_of, refused, saved, write_run
from tests.world import ROOT, fork
from trainer.commands.generate_tables import main as tables
from trainer.evaluation.suite import read_suite
from trainer.runtime.errors import UserError

SUITES = sorted((ROOT / "cfg/eval/suites").glob("*.yaml"))


def write_page(path: Path, data: dict, head: str = "", **evaluation) -> Path:
    path.write_text(head + yaml.safe_dump({"dataset": data, "evaluation": evaluation}))
    return path


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "models" / "md2" / "42", ignore=shutil.ignore_patterns("results")))


@pytest.fixture
def suite(tmp_path: Path, recording: Path, raw: Path) -> Path:
    """A data set that is here twice over, one that is not, one with a damaged picture."""
    (picture,) = raw.glob("*/*/image_02/data/0000000003.png")
    picture.write_bytes(picture.read_bytes().replace(b"IDAT", b"XDAT"))  # found only when it is decoded
    lines = "".join(f"{picture.parents[3].name}/{picture.parents[2].name} {i} l\n" for i in (2, 3))
    (raw / "two.txt").write_text(lines)
    write_page(tmp_path / "scenes.yaml", {"type": "synthetic", "test": {"num_items": 4}}, metrics=["eigen"])
    source = "# A page.\n# Data: ask the authors, https://example.org\n"
    write_page(tmp_path / "absent.yaml", {"type": "kitti", "root": str(tmp_path / "nowhere")}, source)
    kitti = {"type": "kitti", "root": str(raw), "split_file": str(raw / "two.txt")}
    write_page(tmp_path / "damaged.yaml", kitti, crop="none")
    path = tmp_path / "mine.yaml"
    corridor = {
        "page": "scenes",
        "name": "corridor",
        "set": ["dataset.scene=corridor"],
        "evaluation": {"max_depth": 20},
    }
    corridor["evaluation"] |= {"alignment": ["median", "lsqr_disp"], "metrics": ["benchmark"]}
    path.write_text(yaml.safe_dump({"sets": ["scenes", "absent", "damaged", corridor]}))
    return path


def states(run: Path, name: str = "mine") -> list[tuple[str, str]]:
    return [(row["set"], row["state"]) for row in saved(run / "suites" / f"{name}_best.yaml")["sets"]]


SCORED = [("scenes", "scored"), ("absent", "not here"), ("damaged", "broken"), *[("corridor", "scored")] * 2]


def test_one_present_one_missing_one_broken(own_run: Path, suite: Path, capsys) -> None:
    assert evaluate("--ckpt", own_run, "--suite", suite) == 1  # one is broken
    out, err = capsys.readouterr()
    assert states(own_run) == SCORED
    assert out.count("absent") == 1  # a row of the table
    assert "not here: ask the authors, https://example.org" in out
    assert re.search(r"data that are not here were looked for in .*/data \(working directory\)\. To name another", out)
    assert "MONODEPTH_DATA, or DATA_ROOTS in PATHS.yaml" in out
    assert "error: damaged: " in err
    assert "0000000003.png" in err
    assert "Traceback" not in err
    (table,) = (own_run / "suites").glob("*.md")
    lines = [line for line in table.read_text().splitlines() if line.startswith("|")]
    assert lines[0] == "| set | images | protocol | Abs Rel ↓ | 95 % | RMSE [m] ↓ | δ<1.25 ↑ |"
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == [name for name, _ in SCORED]
    assert lines[3].startswith("| absent | - | not here: ask the authors, https://example.org | - ")
    assert "lsqr_disp, crop none, 0.001-20 m" in lines[6]
    result = saved(own_run / "results" / "mine_corridor_best_median.yaml")
    assert result["protocol"]["dataset"]["scene"] == "corridor"
    assert f"| {result['mean']['abs_rel_pct'] / 100:.4f} |" in lines[5]  # a fraction, whatever the metric set
    capsys.readouterr()
    assert tables([str(own_run.parents[1])]) == 0  # the table of a suite is no result


def test_a_suite_continues(own_run: Path, suite: Path, capsys, tmp_path: Path) -> None:
    content = yaml.safe_load(suite.read_text())
    suite.write_text(yaml.safe_dump({"sets": [content["sets"][0], content["sets"][3]]}))
    results = own_run / "results"

    def times() -> list[int]:
        return [path.stat().st_mtime_ns for path in sorted(results.glob("*.yaml"))]

    assert evaluate("--ckpt", own_run, "--suite", suite) == 0
    before = times()
    assert len(before) == 3
    capsys.readouterr()
    assert evaluate("--ckpt", own_run, "--suite", suite) == 0
    assert times() == before
    assert [state for _, state in states(own_run)] == ["kept"] * 3
    assert "scenes, median: kept, the same checkpoint and protocol" in capsys.readouterr().out
    # One of two alignments is gone: both are scored again. Another protocol is another result.
    (results / "mine_corridor_best_lsqr_disp.yaml").unlink()
    assert evaluate("--ckpt", own_run, "--suite", suite) == 0
    assert [state for _, state in states(own_run)] == ["kept", "scored", "scored"]
    assert evaluate("--ckpt", own_run, "--suite", suite, "--max-depth 30") == 0
    assert {state for _, state in states(own_run)} == {"scored"}
    assert saved(results / "mine_scenes_best_median.yaml")["protocol"]["max_depth_m"] == 30
    assert evaluate("--ckpt", own_run, "--suite", suite, "--max-depth 30 --again") == 0
    assert {state for _, state in states(own_run)} == {"scored"}
    other = write_run(tmp_path / "other" / "42", [-1, 1], **{"net.depth.out_scales": [0]})
    (own_run / "ckpts/best.safetensors").write_bytes((other / "ckpts/best.safetensors").read_bytes())
    assert evaluate("--ckpt", own_run, "--suite", suite, "--max-depth 30") == 0
    assert {state for _, state in states(own_run)} == {"scored"}  # another checkpoint
    assert evaluate("--ckpt", own_run, "--suite", suite, "--limit 2") == 0
    assert (results / "mine_scenes_best_median_2items.yaml").is_file()
    assert "| scenes | 2 of 4 | median, " in (own_run / "suites" / "mine_best_2items.md").read_text()
    assert "| scenes | 4 | median, " in (own_run / "suites" / "mine_best.md").read_text()  # that of the whole stays


def test_numbers_are_those_of_a_single_evaluation(own_run: Path, suite: Path, tmp_path: Path) -> None:
    suite.write_text("sets: [scenes]\n")
    assert evaluate("--ckpt", own_run, "--suite", suite) == 0
    assert evaluate("--ckpt", own_run, "-c", tmp_path / "scenes.yaml", "--save", tmp_path / "one.yaml") == 0
    alone = (tmp_path / "one.yaml").read_bytes()
    assert (own_run / "results" / "mine_scenes_best_median.yaml").read_bytes() == alone


def test_nothing_here(own_run: Path, suite: Path, capsys) -> None:
    suite.write_text("sets: [absent]\n")
    assert evaluate("--ckpt", own_run, "--suite", suite) == 1
    assert "no data set of this suite is on this machine" in capsys.readouterr().err
    assert not (own_run / "suites").exists()


@pytest.mark.slow
def test_two_processes_go_on_after_a_broken_set(own_run: Path, suite: Path) -> None:
    done = fork("launch/evaluate.py", "--ckpt", own_run, "--suite", suite, "--batch-size", "1", processes=2)
    assert done.returncode == 1
    assert states(own_run) == SCORED
    assert done.stderr.count("error: damaged: ") == 1
    two = {path.name: path.read_bytes() for path in (own_run / "results").glob("*.yaml")}
    assert evaluate("--ckpt", own_run, "--suite", suite, "--again --batch-size 1") == 1
    assert {path.name: path.read_bytes() for path in (own_run / "results").glob("*.yaml")} == two


MISTAKES = {
    "nosuch: [a]": "'nosuch' is not a key here",
    "sets: []": "expected a list of pages",
    "sets: [scenes, 3]": "sets[1]: expected a page, or a mapping with `page`, got 3",
    "sets: [{page: scenes, nmae: x}]": "sets[0]: 'nmae' is not a key here. Did you mean 'name'",
    "sets: [sceens]": "sets[0]: sceens: no such page",
    "sets: [scenes, scenes]": "2 sets are called 'scenes'",
    "sets: [{page: scenes, set: a=b}]": "sets[0]: set: expected a list of KEY=VALUE",
    "{sets: [scenes], evaluation: median}": "evaluation: expected settings",
    "{sets: [scenes], columns: d1}": "columns: expected a list",
    "{sets: [scenes], columns: [abs_rle]}": "columns: 'abs_rle': Did you mean 'abs_rel'",
    "{sets: [scenes], evaluation: {crop: garg, alignmnt: median}}": "alignmnt",
    "sets: [scenes, {page: scenes, name: b, evaluation: {metrics: [nosuch]}}]": "nosuch",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_named_before_any_work(own_run: Path, suite: Path, capsys, text: str) -> None:
    suite.write_text(text + "\n")
    assert MISTAKES[text] in refused(capsys, "--ckpt", own_run, "--suite", suite)
    assert not (own_run / "results").exists()


def test_options_that_do_not_go_together(own_run: Path, suite: Path, tmp_path: Path, capsys) -> None:
    assert "--save is about one data set" in refused(capsys, "--ckpt", own_run, "--suite", suite, "--save x.yaml")
    assert "--pose is about one data set" in refused(capsys, "--ckpt", own_run, "--suite", suite, "--pose")
    assert "--again is about" in refused(capsys, "--ckpt", own_run, "--again")
    message = refused(capsys, "--ckpt", own_run, "--suite", tmp_path / "mien.yaml")
    assert "mien.yaml: no such file. Did you mean 'mine.yaml'" in message
    message = refused(capsys, "--ckpt", own_run, "--suite eval/suites/kbrr")
    assert "eval/suites/kbrr: no such file, and no page of this name. Did you mean 'eval/suites/kbr'" in message
    message = refused(capsys, "--ckpt", own_run, "--suite", suite, "-c eval/synthetic")
    assert "leave out one of --cfg-file and --suite. --set changes all sets of a suite" in message
    message = refused(capsys, "--ckpt", own_run, "-c eval/suites/kbr")
    assert "eval/suites/kbr: is a suite, which lists pages: use `monodepth evaluate --suite eval/suites/kbr`" in message
    assert len(message.splitlines()) == 1
    assert "is a page of one data set" in refused(capsys, "--ckpt", own_run, "--suite eval/synthetic")


def _pages(path: Path) -> Iterator[Path]:
    for entry in yaml.safe_load(path.read_text())["sets"]:
        yield ROOT / "cfg" / f"{entry if isinstance(entry, str) else entry['page']}.yaml"


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_shipped_suites(path: Path) -> None:
    if absent := [page.stem for page in _pages(path) if not page.is_file()]:
        with pytest.raises(UserError) as error:
            read_suite(path)
        assert len(str(error.value).splitlines()) == len(absent)  # nothing else is wrong
        assert set(absent) <= {"nyud", "diode_indoors", "diode_outdoor", "eth3d", "sintel", "ddad", "ibims", "tum"}
        return
    suite = read_suite(path)
    assert [one.page for one in suite.sets] == list(_pages(path))
    assert all(one.source for one in suite.sets) or path.stem == "synthetic"


def test_the_suite_without_files(own_run: Path) -> None:
    """Each set is another, although the checkpoint was trained on tidy streets."""
    assert hparams_of(own_run)["config"]["dataset"]["clutter"] == 0
    assert evaluate("--ckpt", own_run, "--suite eval/suites/synthetic --limit 2") == 0
    rows = saved(own_run / "suites" / "synthetic_best_2items.yaml")["sets"]
    assert len({row["mean"]["abs_rel"] for row in rows}) == 3
    assert [row["protocol"]["dataset"]["clutter"] for row in rows] == [1, 1, 0]
    assert [(row["set"], row["state"]) for row in rows] == [
        ("road", "scored"),
        ("corridor", "scored"),
        ("empty road", "scored"),
    ]
