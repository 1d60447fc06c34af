"""`compare`: two result files image by image; what is refused, what is said, how sure it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.commands.evaluating import evaluate
from tests.tables.test_tables import write_result
from trainer.commands.compare import main
from trainer.tables.paired import compare_items, read_scored


def write_items(root: Path, model: str, values: Any, scene: int | None = None, **changes: Any) -> Path:
    """A result with one AbsRel per image, `scene` images of one scene after another."""
    path = write_result(
        root, model, 42, {"abs_rel": float(np.mean(values)), "d1": 1 - float(np.mean(values))}, **changes
    )
    data = yaml.safe_load(path.read_text())
    data["protocol"]["checkpoint"]["run"] = {"name": model, "version": "42"}
    scenes = [{} if scene is None else {"scene": f"drive {i // scene}"} for i in range(len(values))]
    data["items"] = [
        {"index": i, "name": f"image {i}", **scenes[i], "abs_rel": float(v), "d1": 1 - float(v)}
        for i, v in enumerate(values)
    ]
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def compared(capsys: Any, *words: str | Path) -> dict[str, Any]:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: Any, *words: str | Path) -> str:
    assert main([str(word) for word in words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    return message


def test_by_hand(tmp_path: Path, capsys) -> None:
    from scipy.stats import permutation_test  # not above: the import takes a second of every worker

    a = write_items(tmp_path, "a", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    b = write_items(tmp_path, "b", [0.09, 0.18, 0.27, 0.36, 0.45, 0.54, 0.77, 0.8])
    (facts,) = compared(capsys, a, b)["comparisons"][0]["metrics"]
    assert (facts["metric"], facts["better"]) == ("abs_rel", "lower")
    assert facts["difference"] == pytest.approx((-0.01 * (1 + 2 + 3 + 4 + 5 + 6) + 0.07) / 8)
    assert (facts["images_better"], facts["images_worse"], facts["scenes"]) == (6, 1, None)
    assert [row["name"] for row in facts["most_gained"]] == ["image 5", "image 4", "image 3"]
    assert [row["name"] for row in facts["most_lost"]] == ["image 6"]
    x, y = (np.array([row["abs_rel"] for row in yaml.safe_load(p.read_text())["items"]]) for p in (a, b))
    exact = permutation_test((x, y), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=np.inf)
    assert facts["p"] == pytest.approx(exact.pvalue)
    assert facts["verdict"].startswith("no difference in Abs Rel is shown between a/42 and b/42: -0.0175")
    low, high = facts["images"]["interval"]
    assert low < facts["difference"] < high


def test_frames_of_few_scenes_are_not_independent(tmp_path: Path, capsys) -> None:
    """One network is better in every image of three scenes: certain over images, nothing over scenes."""
    a = write_items(tmp_path, "a", np.linspace(0.2, 0.3, 30), scene=10)
    b = write_items(tmp_path, "b", np.linspace(0.2, 0.3, 30) - 0.01, scene=10)
    (facts,) = compared(capsys, a, b)["comparisons"][0]["metrics"]
    assert facts["images"]["p"] < 0.001
    assert facts["scenes"] == {"count": 3, "p": 2 / 8, "interval": None}
    assert "b/42 is better than a/42 in Abs Rel by 0.01 (4 %)" in facts["verdict"]
    assert "this holds for these scenes only" in facts["verdict"]


def test_many_scenes_decide(tmp_path: Path, capsys) -> None:
    scenes = np.repeat(np.random.default_rng(0).normal(-0.002, 0.01, 8), 20)
    a = write_items(tmp_path, "a", np.full(160, 0.2), scene=20)
    b = write_items(tmp_path, "b", 0.2 + scenes, scene=20)
    (facts,) = compared(capsys, a, b)["comparisons"][0]["metrics"]
    assert facts["scenes"]["count"] == 8
    assert facts["p"] == facts["scenes"]["p"]
    assert facts["images"]["p"] < 0.05 < facts["p"]
    assert facts["verdict"].endswith("over 8 scenes")
    assert facts["verdict"].startswith("no difference")


def test_several_files_against_the_first(tmp_path: Path, capsys) -> None:
    values = np.random.default_rng(1).uniform(0.1, 0.3, 40)
    files = [write_items(tmp_path, name, values + d) for name, d in (("a", 0), ("b", -0.02), ("c", 0.0))]
    found = compared(capsys, *files, "--metric", "d1", "abs_rel")["comparisons"]
    assert [[facts["metric"] for facts in one["metrics"]] for one in found] == [["d1", "abs_rel"]] * 2
    assert found[0]["metrics"][0]["verdict"].startswith("b/42 is better than a/42 in δ < 1.25 by 0.02")
    assert found[0]["metrics"][0]["p"] == pytest.approx(2 * found[0]["metrics"][0]["images"]["p"])  # Holm
    assert found[1]["metrics"][1]["verdict"] == "a/42 and c/42 are equal in Abs Rel"
    assert main([*map(str, files)]) == 0
    out = capsys.readouterr().out
    assert "p is corrected for 2 comparisons (Holm)" in out
    assert "second better in 40, worse in 0 of 40 images" in out
    assert "`monodepth tables` tests" in out


def test_other_protocols_are_refused(tmp_path: Path, capsys) -> None:
    a = write_items(tmp_path, "a", [0.1] * 8)
    b = write_items(tmp_path, "b", [0.1] * 7 + [0.2], crop="none", max_depth_m=100.0)
    message = refused(capsys, a, b)
    assert "crop: garg and none" in message
    assert "depth: 0.001-80 m and 0.001-100 m" in message
    assert "--anyway" in message
    assert main([str(a), str(b), "--anyway"]) == 0
    assert "warning: the protocols differ: crop: garg and none" in capsys.readouterr().err


def test_a_result_on_frames_of_the_own_training_is_named(tmp_path: Path, capsys) -> None:
    leaks = {"exact": 3, "frames": 8, "items": 8, "lists": [{"name": "zhou/train"}]}
    a, b = write_items(tmp_path, "a", [0.1] * 8), write_items(tmp_path, "b", [0.2] * 8, leaks=leaks)
    assert main([str(a), str(b)]) == 0
    words = "3 of its 8 frames are of its training (zhou/train)"
    assert capsys.readouterr().err == f"warning: {b}: {words}: the numbers flatter it\n"
    assert compared(capsys, a, b)["leaks"] == {str(b): words}


def test_the_size_of_the_input_is_about_the_network(tmp_path: Path, capsys) -> None:
    from tests.tables.test_tables import KITTI

    a = write_items(tmp_path, "a", [0.1] * 8)
    b = write_items(tmp_path, "b", [0.2] * 8, dataset={**KITTI, "size": [1024, 320]})
    (one,) = compared(capsys, a, b)["comparisons"]
    assert one["remarks"] == ["the networks differ in input size 640x192 and 1024x320"]


def test_images_of_one_file_alone(tmp_path: Path, capsys) -> None:
    a, b = write_items(tmp_path, "a", [0.1] * 8), write_items(tmp_path, "b", [0.2] * 10)
    assert f"2 of 10 images of {b} are not in {a}" in refused(capsys, a, b)
    (facts,) = compared(capsys, a, b, "--anyway")["comparisons"][0]["metrics"]
    assert facts["images"]["count"] == 8
    data = yaml.safe_load(b.read_text())
    for row in data["items"]:
        row["name"] += "x"
    b.write_text(yaml.safe_dump(data))
    assert "no image of both has abs_rel" in refused(capsys, a, b, "--anyway")


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    paths = write_items(tmp_path, "a", [0.1, 0.2, 0.3]), write_items(tmp_path, "b", [0.1, 0.3, 0.2])
    for path in paths:
        path.write_text(path.read_text().replace("image 2", "image 1"))
    difference = compare_items(*map(read_scored, paths))
    assert (difference.better, difference.worse) == (1, 1)


def test_mistakes(tmp_path: Path, capsys) -> None:
    a, b = write_items(tmp_path, "a", [0.1] * 8), write_items(tmp_path, "b", [0.2] * 8)
    assert "--metric abs_rle: not a metric of both" in refused(capsys, a, b, "--metric", "abs_rle")
    assert "Did you mean 'abs_rel'" in refused(capsys, a, b, "--metric", "abs_rle")
    assert f"{tmp_path / 'none.yaml'}: no such file. `monodepth evaluate`" in refused(capsys, a, tmp_path / "none.yaml")
    empty = write_result(tmp_path, "c", 42, {"abs_rel": 0.1})
    assert "holds no numbers of single images by name" in refused(capsys, a, empty)
    other = tmp_path / "other.yaml"
    other.write_text("dataset: {type: kitti}\n")
    assert "is no result file: it is a page of settings. Name a result" in refused(capsys, a, other)
    other.write_text("{chosen: {abs_rel: 1}, protocol: {alignment: median}, effects: []}\n")
    message = refused(capsys, a, other)
    assert "is no result file: it holds the variations of a protocol" in message
    assert "--file" not in message
    other.write_text("{mean: {ate: 1}, protocol: {metrics: {}}, sequences: []}\n")
    assert "other.yaml: it holds scores of camera paths" in refused(capsys, a, other)
    run = a.parents[1]
    (run / "hparams.yaml").write_text("config: {}\n")  # is no result
    second = a.with_stem("second")
    second.write_bytes(a.read_bytes())
    assert f"{run}: is a folder, which holds\n  {a}\n  {second}\nName result files" in refused(capsys, a, run)
    second.unlink()
    told = refused(capsys, a, run.parent)
    assert f"{run.parent}: is a folder of versions, which hold\n  {a}\n" in told
    assert "`monodepth tables`" in told
    (tmp_path / "bare").mkdir()
    assert "bare: is a folder without result files\n" in refused(capsys, a, tmp_path / "bare")
    with pytest.raises(SystemExit):
        main([str(a)])
    assert "two result files or more" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(run)])
    assert f"got one folder. Name files in it: {a}\n" in capsys.readouterr().err
    (tmp_path / "street.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "README.md").write_text("# A *title*: of\n- something: [\n")
    for name in ("street.jpg", "README.md"):
        told = refused(capsys, a, tmp_path / name)
        assert told == f"error: {tmp_path / name}: is no result file of `monodepth evaluate`, which are YAML\n"


def test_a_folder_of_one_result_stands_for_it(tmp_path: Path, capsys) -> None:
    a, b = write_items(tmp_path, "a", [0.1] * 8), write_items(tmp_path, "b", [0.2] * 8)
    assert compared(capsys, a.parents[1], b.parents[1]) == compared(capsys, a, b)


def test_what_evaluate_writes(run: Path, tmp_path: Path, capsys) -> None:
    """Two alignments of one network, whose protocols differ; images of one scene are known as such."""
    assert evaluate("--ckpt", run, "--alignment median lsqr_disp --save", tmp_path / "r.yaml") == 0
    printed = capsys.readouterr().out
    assert "Abs Rel, median: 0." in printed
    assert ", no interval: 4 images of 2 scenes are too few\n" in printed
    files = tmp_path / "r_median.yaml", tmp_path / "r_lsqr_disp.yaml"
    interval = yaml.safe_load(files[0].read_text())["interval"]
    assert (interval["images"]["count"], interval["scenes"]["count"]) == (4, 2)
    assert "alignment: median and lsqr_disp" in refused(capsys, *files)
    assert main([str(files[0]), str(files[0])]) == 0
    assert "are equal in Abs Rel" in capsys.readouterr().out


def test_drives_are_scenes(run: Path, recording: Path, tmp_path: Path) -> None:
    page, save = tmp_path / "page.yaml", tmp_path / "r.yaml"
    drive = next(recording.glob("*/*_sync"))
    (tmp_path / "split.txt").write_text("".join(f"{drive.parent.name}/{drive.name} {i} l\n" for i in (1, 2)))
    kitti = {"type": "kitti", "root": str(recording), "split_file": str(tmp_path / "split.txt")}
    page.write_text(yaml.safe_dump({"dataset": kitti, "evaluation": {"crop": "none"}}))
    assert evaluate("--ckpt", run, "-c", page, "--save", save) == 0
    result = yaml.safe_load(save.read_text())
    assert {item["scene"] for item in result["items"]} == {f"{drive.parent.name}/{drive.name}"}
    assert result["interval"]["scenes"] == {"count": 1}
