"""The section `evaluation`, and settings that lie below all files, as those of a checkpoint do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.toys import TOYS
from trainer.config import Config, ConfigError, load_config, merge_settings


def test_without_the_section_saved_configurations_are_as_before(load):
    for text in ("{}", "evaluation:", "evaluation: {}"):
        cfg = load(text)
        assert "evaluation" not in cfg.to_dict()
        assert cfg.evaluation.crop is None


def test_later_sources_win_key_by_key(load):
    text = "evaluation: {metrics: benchmark, alignment: [none, median], crop: garg, max_depth: 50}"
    cfg = load(text, "evaluation.crop=~", "evaluation.max_depth=60")
    assert cfg.evaluation.metrics == ["benchmark"]
    assert cfg.evaluation.alignment == ["none", "median"]
    assert (cfg.evaluation.crop, cfg.evaluation.min_depth, cfg.evaluation.max_depth) == (None, None, 60)
    saved = cfg.to_dict()
    assert list(saved)[-1] == "evaluation"
    assert saved["evaluation"] == {
        "metrics": ["benchmark"], "alignment": ["none", "median"], "crop": None, "max_depth": 60,
    }  # fmt: skip
    assert Config.from_dict(saved, registries=TOYS) == cfg


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("evaluation: {max_dept: 80}", "1: evaluation.max_dept is not a key of evaluation. Did you mean 'max_depth'?"),
        ("evaluation: {max_depth: far}", "1: evaluation.max_depth: expected a number > 0 or null, got 'far'"),
        ("evaluation:\n  max_depth: -1", "2: evaluation.max_depth: expected a number > 0 or null, got -1"),
        ("evaluation: [eigen]", "1: evaluation: expected a mapping of keys, got [\"eigen\"]"),
        ("evaluation: {crop: grag}", "1: evaluation.crop: 'grag' is not a known crop. Did you mean 'garg'?"),
        ("evaluation:\n  crop: garg\n  metrics: [eigen, egien]", "3: evaluation.metrics: 'egien' is not a known"),
        ("evaluation:\n  alignment: mean", "2: evaluation.alignment: 'mean' is not a known alignment"),
        ("evaluation: {alignment: []}", "1: evaluation.alignment: names no alignment"),
        ("evaluation:\n  min_depth: 9\n  max_depth: 5",
         "3: evaluation.max_depth: 5 must be above min_depth 9 (x.yaml:2)"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_line(problems, text, line):
    (shown,) = problems(text)
    assert shown.startswith(f"x.yaml:{line}")


def test_a_base_lies_below_the_defaults_and_has_its_own_place(load):
    base = load("trainer: {max_epochs: 7, monitor: loss}\nevaluation: {crop: garg}").to_dict()
    base["loss"]["disp_smooth"]["weight"] = "much"
    base["dataset"]["test"] = {"splt": "a"}
    Path("x.yaml").write_text("loss: {disp_smooth: {weight: 3}}\nevaluation: {max_depth: 9}")
    with pytest.raises(ConfigError) as caught:
        load_config("x.yaml", base=base, base_name="best.safetensors", registries=TOYS)
    (line,) = caught.value.problems
    assert line.startswith("best.safetensors: dataset.test.splt is not an argument of dataset 'kitti'")
    del base["dataset"]["test"]
    cfg = load_config("x.yaml", base=base, registries=TOYS)
    assert (cfg.loss["disp_smooth"]["weight"], cfg.trainer.max_epochs) == (3, 7)
    assert (cfg.evaluation.crop, cfg.evaluation.max_depth) == ("garg", 9)
    cfg = load_config("x.yaml", "default.yaml", base=base, registries=TOYS)
    assert cfg.trainer.max_epochs == 30
    assert load_config([], base=base | {"loss": {"disp_smooth": {}}}, registries=TOYS).trainer.max_epochs == 7


def test_settings_are_merged_without_defaults_or_checks(tmp_path):
    (tmp_path / "a.yaml").write_text("dataset: {type: kiti, split: a}")
    (tmp_path / "b.yaml").write_text("dataset: {split: b, test: {split: c}}")
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "absent.yaml"]
    assert merge_settings(files, ["dataset.test.size=3", "nonsense", "loss={a: {}}"]) == {
        "dataset": {"type": "kiti", "split": "b", "test": {"split": "c", "size": 3}},
        "loss": {"a": {}},
    }
