"""Merging sources, and the configuration that results."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from tests.config.toys import TOYS
from trainer.config import Config, ConfigError, load_config, override_conflict
from trainer.runtime import yaml_text


def test_later_sources_win_key_by_key(load):
    cfg = load("loss: {img_recon: {use_min: true}}\noptimizer: {lr: 2e-4}", "loss.img_recon.weight=3")
    assert cfg.loss["img_recon"] == {"weight": 3, "loss_name": "ssim", "use_min": True, "mask_name": None}
    assert cfg.optimizer["lr"] == 2e-4
    assert cfg.trainer.max_epochs == 30


def test_lists_are_replaced_not_merged(load):
    assert load("dataset: {supp_idxs: [0, 1]}").supp_idxs == (0, 1)
    assert load("dataset: {supp_idxs: 1}").supp_idxs == (1,)


def test_order_of_losses_is_order_of_the_merged_files(load):
    cfg = load("loss: {feat_recon: {}, img_recon: {}}")
    assert list(cfg.loss) == ["img_recon", "disp_smooth", "feat_recon"]


def test_null_removes_entries_of_registry_sections(load):
    cfg = load("net: {pose: ~}\nloss: {disp_smooth: ~}\nscheduler: ~", "dataset.supp_idxs=0")
    assert list(cfg.net) == ["depth"]
    assert list(cfg.loss) == ["img_recon"]
    assert cfg.scheduler is None
    assert cfg.scheduler_kwargs() == {}


def test_another_scheduler_removes_the_arguments_of_the_first(load):
    cfg = load("scheduler: {type: cos, T_max: 30, step_size: ~, gamma: ~}")
    assert cfg.scheduler_kwargs() == {"type": "cos", "T_max": 30}


def test_another_dataset_removes_the_arguments_of_the_first(load):
    text = "dataset: {type: rendered, split: ~, size: ~, supp_idxs: [0], train: ~, val: ~}"
    assert load(text, "trainer.monitor=loss").dataset_kwargs("train") == (
        "rendered",
        {"supp_idxs": [0], "num_items": 8, "mode": "train"},
    )


def test_keys_of_a_replaced_type_are_left_out_with_a_warning(load):
    cfg = load("{}", "dataset.type=rendered", "dataset.supp_idxs=[0]", "dataset.num_items=4", "trainer.monitor=loss")
    assert cfg.dataset_kwargs("train") == ("rendered", {"supp_idxs": [0], "num_items": 4, "mode": "train"})
    assert any("dataset.split is left out: it is not an argument of dataset 'rendered'" in w for w in cfg.warnings)
    assert load("scheduler: {type: cos, T_max: 30}").scheduler_kwargs() == {"type": "cos", "T_max": 30}


def test_a_misspelt_key_beside_the_new_type_is_still_a_mistake(load):
    with pytest.raises(ConfigError, match=r"dataset\.num_item is not an argument of dataset 'rendered'"):
        load("dataset: {type: rendered, num_item: 4}")


def test_weights_by_epoch_are_sorted_and_merged_like_any_mapping(load):
    text = "loss: {img_recon: {weight: {15: 1, 0: .9, 3: .5}}}"
    assert list(load(text).loss["img_recon"]["weight"].items()) == [("0", 0.9), ("3", 0.5), ("15", 1.0)]
    assert load(text, "loss.img_recon.weight={3: ~}").loss["img_recon"]["weight"] == {"0": 0.9, "15": 1.0}
    assert load(text, "loss.img_recon.weight.15=2").loss["img_recon"]["weight"]["15"] == 2
    assert load(text, "loss.img_recon.weight=2").loss["img_recon"]["weight"] == 2
    assert load("", "loss.img_recon.weight={0: 1, 2: 0.5}").loss["img_recon"]["weight"] == {"0": 1.0, "2": 0.5}
    config = load(text)
    assert Config.from_dict(config.to_dict(), registries=TOYS) == config


def test_weights_that_change_too_late_or_change_the_monitor_are_warned_of(load):
    config = load("loss: {img_recon: {weight: {0: 1, 90: 2}}}", "trainer.max_epochs=90", "trainer.monitor=loss")
    late, monitor = (line for line in config.warnings if "weight" in line)
    assert late == "loss.img_recon.weight: epoch 90, counted from 0, is never reached with trainer.max_epochs: 90"
    assert monitor.startswith("trainer.monitor: loss: the total changes with loss.img_recon.weight")


def test_null_is_a_value_elsewhere(load):
    cfg = load("trainer: {max_depth: ~, gradient_clip_val: 0, accumulate_grad_batches: ~, trackers: ~}")
    assert (cfg.trainer.max_depth, cfg.trainer.gradient_clip_val) == (None, None)
    assert (cfg.trainer.accumulate_grad_batches, cfg.trainer.trackers) == (1, [])


def test_several_files(load, tmp_path):
    load()
    for name, epochs in (("a", 1), ("b", 2), ("c", 3)):
        Path(f"{name}.yaml").write_text(f"trainer: {{max_epochs: {epochs}}}")
    cfg = load_config(["b.yaml", "a.yaml"], ["default.yaml", "c.yaml"], registries=TOYS)
    assert cfg.trainer.max_epochs == 1
    assert load_config("default.yaml", registries=TOYS).trainer.max_epochs == 30


def test_overrides_as_mapping_nested_or_dotted(load):
    cfg = load("", {"trainer.max_epochs": 2, "dataset": {"size": (64, 64)}})
    assert cfg.trainer.max_epochs == 2
    assert cfg.dataset_kwargs("val")[1]["size"] == (64, 64)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("-2e+3", -2000.0), ("1.5e-3", 1.5e-3), (".5", 0.5), ("1.", 1.0),
        ("1_000", 1000),
        ("0x10", 16), ("-7", -7), ("~", None), ("", None), ("yes", True), ("Off", False), ("'1e-4'", "1e-4"),
        ("[1, 2e-1]", [1, 0.2]), ("{a: 1e1}", {"a": 10.0}), ("007", "007"), ("2011-09-26", "2011-09-26"),
        ("1:30", "1:30"), ("2011_09_26", 20110926), ("1e", "1e"), ("e4", "e4"), ("v1e-4", "v1e-4"),
    ],
)  # fmt: skip
def test_scalars_are_read_as_people_mean_them(text, value):
    problems: list[str] = []
    layer = yaml_text.read_text(text, "x", problems)
    assert not problems
    assert layer.data == value
    assert type(layer.data) is type(value)
    assert yaml_text.read_text(yaml_text.dump({"a": value}), "x", []).data == {"a": value}


def test_scientific_numbers_from_file_and_command_line(load):
    cfg = load("optimizer: {lr: 3e-5, eps: 1e-7}", "optimizer.weight_decay=1e-2", "optimizer.betas=[0.9, 95e-2]")
    expected = {"type": "adam", "lr": 3e-5, "eps": 1e-7, "weight_decay": 1e-2, "betas": (0.9, 0.95)}
    ours = {"backbone_lr": None, "layer_decay": None, "group_lr": None, "frozen_bn": False}
    assert cfg.optimizer_kwargs() == {**expected, **ours}


def test_a_rate_of_a_part_is_taken_away_by_null(load):
    cfg = load("optimizer: {group_lr: {pose: 1e-3, depth: 2e-4}}", "optimizer.group_lr={depth: ~}")
    assert cfg.optimizer_kwargs()["group_lr"] == {"pose": 1e-3}


def test_yaml_anchors_and_merge_keys(load):
    cfg = load("loss:\n  img_recon: &base {weight: 2, use_min: true}\n  feat_recon: {<<: *base, weight: 0.5}")
    assert cfg.loss["feat_recon"] == {"weight": 0.5, "use_min": True, "loss_name": "ssim", "mask_name": None}
    assert cfg.loss["img_recon"]["weight"] == 2


def test_inputs_are_not_changed(load):
    overrides = {"loss": {"img_recon": {"weight": 2}}, "dataset": {"supp_idxs": [1]}, "net": {"pose": None}}
    data = load().to_dict()
    before = copy.deepcopy((overrides, data))
    with pytest.raises(ConfigError):
        load("", overrides)
    Config.from_dict(data, registries=TOYS)
    assert (overrides, data) == before


def test_a_config_cannot_be_changed(load):
    cfg = load()
    before = cfg.to_dict()
    cfg.loss["img_recon"]["weight"] = 9
    cfg.dataset["train"].clear()
    cfg.dataset_kwargs("train")[1]["supp_idxs"].append(5)
    cfg.to_dict()["net"].clear()
    with pytest.raises(ValueError, match="frozen"):
        cfg.trainer.max_epochs = 1
    assert cfg.to_dict() == before


# The result


def test_modes_override_common_keys(load):
    cfg = load("dataset: {test: {split: eigen, size: [64, 64]}}")
    name, train = cfg.dataset_kwargs("train")
    assert (name, train["mode"], train["use_aug"], train["use_depth"]) == ("kitti", "train", True, False)
    val = cfg.dataset_kwargs("val")[1]
    assert (val["mode"], val["use_aug"], val["use_depth"], val["size"]) == ("val", False, True, (640, 192))
    test = cfg.dataset_kwargs("test")[1]
    assert (test["mode"], test["split"], test["size"]) == ("test", "eigen", (64, 64))
    assert "seed" not in train  # the command line decides it


def test_modes_may_differ_in_type(load):
    val = {"type": "rendered", "num_items": 4}
    dataset = {"type": "kitti", "supp_idxs": [0], "train": {"split": "a", "size": [64, 64]}, "val": val}
    plain = {**load("net: {pose: ~}", "dataset.supp_idxs=0").to_dict(), "dataset": dataset}
    cfg = Config.from_dict(plain, registries=TOYS)
    assert cfg.dataset_kwargs("train")[0] == "kitti"
    assert cfg.dataset_kwargs("val") == ("rendered", {"supp_idxs": [0], "num_items": 4, "mode": "val"})
    assert Config.from_dict(cfg.to_dict(), registries=TOYS) == cfg
    with pytest.raises(ConfigError, match=r"dataset\.test: the common keys are not enough"):
        cfg.dataset_kwargs("test")


def test_loader_defaults_depend_on_the_mode(load):
    keys = ("shuffle", "drop_last", "batch_size", "pin_memory", "persistent_workers")

    def kwargs(cfg: Config, mode: str) -> list:
        return [cfg.loader_kwargs(mode)[key] for key in keys]

    cfg = load()
    assert kwargs(cfg, "train") == [True, True, 8, True, True]
    assert kwargs(cfg, "val") == [False, False, 8, True, True]
    cfg = load("loader: {drop_last: true, shuffle: false, num_workers: 0, val: {batch_size: 2}}")
    assert kwargs(cfg, "train") == [True, True, 8, True, False]
    assert kwargs(cfg, "val") == [False, True, 2, True, False]


@pytest.mark.parametrize(
    ("given", "meant"),
    [("32", 32), ("bf16", "bf16"), ("16-mixed", 16), ("bf16-mixed", "bf16"), ("fp16", 16), ("'32'", 32)],
)
def test_precision_spellings(load, given, meant):
    assert load(f"trainer: {{precision: {given}}}").trainer.precision == meant


def test_trackers_may_be_one_name(load):
    assert load("trainer: {trackers: tensorboard}").trainer.trackers == ["tensorboard"]


def test_opt_is_an_alias_of_type(load):
    cfg = load("optimizer: {opt: sgd, type: ~, momentum: 0.8, nesterov: true}")
    assert cfg.optimizer_kwargs()["type"] == "sgd"
    assert cfg.optimizer_kwargs()["momentum"] == 0.8


def test_an_optimizer_for_another_machine_is_a_warning(load):
    cfg = load("optimizer: {type: bnbadam8bit, block_wise: true}")
    assert cfg.optimizer_kwargs()["block_wise"] is True
    assert cfg.warnings[0].startswith("optimizer.type: bnbadam8bit cannot be built here")


def test_dump_is_readable_and_loads_to_an_equal_config(load, tmp_path):
    scheduler = "scheduler: {type: plateau, monitor: loss, step_size: ~, gamma: ~}"
    cfg = load(f"dataset: {{test: {{root: some/where}}}}\n{scheduler}\ntrainer: {{ema: true, swa: {{lr: 1e-4}}}}")
    cfg.dump("hparams.yaml")
    text = Path("hparams.yaml").read_text()
    assert "    out_scales: [0, 1, 2, 3]\n" in text
    sections = ["net", "loss", "dataset", "loader", "optimizer", "scheduler", "trainer"]
    assert list(yaml.safe_load(text)) == sections
    again = load_config("hparams.yaml", registries=TOYS)
    assert again == cfg
    again.dump("again.yaml")
    assert Path("again.yaml").read_text() == text
    assert json.loads(json.dumps(cfg.to_dict())) == cfg.to_dict()


def test_dump_quotes_what_would_be_read_as_a_number(load):
    cfg = load("dataset: {split: '1e-4'}")
    cfg.dump("hparams.yaml")
    assert load_config("hparams.yaml", registries=TOYS).dataset["split"] == "1e-4"


@pytest.mark.parametrize(
    ("earlier", "later", "told"),
    [
        ("a.b=1", "a.b=2", "--set a.b=2 takes back --set a.b=1 before it: the later one holds"),
        ("a.b=~", "a.b=2", "--set a.b=2 takes back --set a.b=~ before it: the later one holds"),
        ("a.b=1", "a=~", "--set a=~ takes back --set a.b=1 before it: the later one holds"),
        ("a={b: 1}", "a=2", "--set a=2 takes back --set a={b: 1} before it: the later one holds"),
        ("a=1", "a.b=2", "--set a.b=2 takes back --set a=1 before it: the later one holds"),
        ("a=null", "a.b=1", "--set a.b=1 after --set a=null: a begins anew, without what pages say of it"),
        ("a=~", "a={b: 1}", ""),  # on purpose
        ("a=true", "a.b=1", ""),  # switched on, and set
        ("a={b: 1}", "a.b=2", ""),  # refined
        ("a={b: 1}", "a={b: 2}", ""),
        ("a.b=1", "a.b=1.0", ""),
        ("a={b: 1}", "a={c: 2}", ""),
        ("a.b=1", "a.bc=2", ""),
        ("a.b=1", "a.b=[1", ""),  # an error of its own
        ("a.b", "a.b=1", ""),
    ],
)
def test_overrides_that_take_back_others_are_told(earlier: str, later: str, told: str) -> None:
    assert override_conflict(earlier, later) == told


def test_the_value_of_an_override_is_the_last(load) -> None:
    assert load("", "trainer.max_epochs=1", "trainer.max_epochs=2").trainer.max_epochs == 2
