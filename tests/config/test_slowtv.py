"""Files in SlowTV's words (arXiv:2307.10713) load where they mean the same, and are refused key by key where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.config import Config, ConfigError, load_config
from trainer.config.fields import Report
from trainer.config.slowtv import translate
from trainer.runtime import yaml_text

FILE = """\
nets:
  depth: {enc_name: convnext_base, pretrained: True, dec_name: monodepth, out_scales: [0, 1, 2, 3]}
  pose: {enc_name: convnext_tiny, pretrained: True}
loss:
  img_recon: {weight: 1, loss_name: ssim, use_min: True, use_automask: True}
  disp_smooth: {weight: 0.001, use_edges: True}
dataset:
  slow_tv_lmdb:
    type: folder  # which this trainer reads it with
    path: slow_tv
    shape: [720, 1280]
    datum: [image, support, K]
    supp_idxs: [-1, 1]
    randomize_supp: True
    train: {mode: train, use_aug: True, max_len: 30000, randomize: True}
    val: {mode: val, shape: [384, 640]}
  kitti_lmdb:
    split: eigen_benchmark
    shape: null
    datum: image support depth K
    supp_idxs: [-1, 1]
    randomize_supp: True
    augmentations: {flip: 0.5, photo: 0.5, cutout: 0.3}
    train: {mode: train, use_aug: True, max_len: 15000, randomize: True}
    val: {mode: val, shape: [192, 640]}
loader: {batch_size: 4, num_workers: 8, drop_last: True}
optimizer: {type: adamw, lr: 0.0001, weight_decay: 0.001}
scheduler:
  steplr: {step_size: 40, gamma: 0.1}
trainer:
  max_epochs: 60
  monitor: loss
  aspect_ratio_aug_prob: 0.7
  aspect_ratio_min: 0.5
  aspect_ratio_max: 1
  aspect_ratio_ref_shape: [384, 640]
  matmul: high
  logger: tensorboard
  compile: False
  always_fwd_pose: True
  auto_scale_lr: False
"""


def load(tmp_path: Path, *overrides: str, text: str = FILE) -> Config:
    (tmp_path / "kbr.yaml").write_text(text)
    return load_config(tmp_path / "kbr.yaml", overrides=overrides)


def problems(tmp_path: Path, *overrides: str, text: str = FILE) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, *overrides, text=text)
    return [line.removeprefix(f"{tmp_path}/") for line in error.value.problems]


def test_a_file_means_here_what_it_means_there(tmp_path: Path) -> None:
    cfg = load(tmp_path)
    kind, train = cfg.dataset_kwargs("train")
    assert kind == "mixed"
    parts = train.pop("datasets")
    assert (train["one_per_batch"], train["length"], train["supp_idxs"]) == (True, 45_000, [-1, 1])
    assert (train["use_aug"], train["use_depth"], train["use_hints"]) == (True, True, False)
    assert cfg.dataset_kwargs("val")[1]["use_aug"] is False
    seen = {"val": {"size": [640, 384]}, "test": {"size": [640, 384]}}
    own = {"type": "folder", "path": "slow_tv", "size": [1280, 720], "supp_range": [1, 5]}
    assert parts["slow_tv_lmdb"] == {"weight": 30_000, **own, **seen}
    own = {"type": "kitti_lmdb", "split": "eigen_benchmark", "size": [1242, 376], "use_benchmark": True}
    seen = {"val": {"size": [640, 192]}, "test": {"size": [640, 192]}}
    assert parts["kitti_lmdb"] == {"weight": 15_000, **own, **seen}
    assert cfg.scheduler == {"type": "steplr", "step_size": 40, "gamma": 0.1, "monitor": None}
    aspect = cfg.trainer.aspect_ratio
    assert aspect is not None
    assert aspect.model_dump() == {"prob": 0.7, "min": 0.5, "max": 1, "ref_size": (640, 384)}
    assert (cfg.trainer.trackers, cfg.trainer.compile) == (["tensorboard"], None)
    assert [warning.partition("kbr.yaml:")[2] for warning in cfg.warnings] == [
        "37: trainer.matmul is left out: float32 is full here; trainer.precision: bf16 is faster"
    ]
    assert Config.from_dict(cfg.to_dict()) == cfg
    assert yaml_text.read_text(cfg.to_yaml(), "", []).data == cfg.to_dict()


def test_one_data_set_is_no_mixture(tmp_path: Path) -> None:
    changes = ["dataset.slow_tv_lmdb=~", "dataset.kitti_lmdb.train.max_len=~", "dataset.kitti_lmdb.split=eigen_zhou"]
    cfg = load(tmp_path, *changes)
    kind, train = cfg.dataset_kwargs("train")
    assert (kind, train["split"], train["size"]) == ("kitti_lmdb", "eigen_zhou", (1242, 376))
    assert cfg.dataset_kwargs("val")[1]["size"] == (640, 192)


def test_without_crops_there_is_no_aspect_ratio(tmp_path: Path) -> None:
    sizes = [f"dataset.{name}.shape=[192,640]" for name in ("slow_tv_lmdb", "kitti_lmdb")]
    cfg = load(tmp_path, "trainer.aspect_ratio_aug_prob=0", *sizes)
    assert cfg.trainer.aspect_ratio is None


@pytest.mark.parametrize(
    ("change", "told"),  # one line each
    [
        ("trainer.always_fwd_pose=False", "trainer.always_fwd_pose: the pose network is always given frames in the"),
        ("trainer.auto_scale_lr=True", "trainer.auto_scale_lr: rates are not scaled with the batch; set optimizer.lr"),
        ("trainer.aspect_ratio_ref_shape=~", "missing; it is [height, width], and trainer.aspect_ratio.ref_size here"),
        ("trainer.aspect_ratio_min=2", "trainer.aspect_ratio.min: expected a number > 0 and <= 1, got 2"),
        ("scheduler.exp={gamma: 0.9}", "scheduler: is a chain of schedules; one schedule is followed here"),
        ("dataset.kitti_lmdb.augmentations.flip=0.3", "augmentations: probabilities are not chosen here: dataset.use"),
        ("dataset.kitti_lmdb.datum=image flow", "'flow' is none of image, support, depth, depth_velo, depth_hint, K"),
        ("dataset.kitti_lmdb.train.max_len=~", "dataset.kitti_lmdb: has no max_len; give it to all data sets, or"),
        ("dataset.kitti_lmdb.train.use_aug=false", "use_aug: false must be the same for all data sets"),
        ("dataset.kitti_lmdb.datum=image depth_hint", "trainer.aspect_ratio: depth hints cannot be cropped"),
        ("dataset.slow_tv_lmdb.split=driving", "use split_file, or remove it; cars also want supp_range: [1, 1]"),
        ("dataset.slow_tv_lmdb.spilt=all", "slow_tv_lmdb.spilt is not an argument of dataset 'folder'"),
    ],
)  # fmt: skip
def test_what_means_something_else_is_refused_with_our_name(tmp_path: Path, change: str, told: str) -> None:
    assert any(told in line for line in problems(tmp_path, change))


@pytest.mark.parametrize(
    ("name", "instead"),
    [("slow_tv", "{type: folder, path: <folder"), ("mannequin", "{type: folder, "), ("ddad", "{type: rgbd, root:")],
)  # fmt: skip
def test_a_data_set_that_is_not_here_names_the_one_to_use(tmp_path: Path, name: str, instead: str) -> None:
    found = problems(tmp_path, text=FILE.replace("kitti_lmdb", name))
    assert any(
        line.startswith(f"kbr.yaml:17: dataset.{name}: there is no such data set here; add to its") for line in found
    )
    assert any(instead in line for line in found)


def test_a_chain_that_begins_linearly_is_a_schedule_with_warmup() -> None:
    text = "scheduler: {steplr: {step_size: 40, gamma: 0.1}, linear: {start_factor: 0.1, total_iters: 4}}"
    layer = yaml_text.read_text(text, "kbr.yaml", [])
    assert layer is not None
    found = translate(layer, Report(layer), []).data["scheduler"]
    assert found == {"type": "steplr", "step_size": 40, "gamma": 0.1, "warmup": 4, "warmup_factor": 0.1}


PART = ("dataset", "kitti_lmdb")
PLACES = [
    *((*PART, key) for key in ("shape", "datum", "max_len", "augmentations", "supp_idxs", "train", "randomize_supp")),
    *((*PART, key) for key in ("type", "split", "val")),
    *(("dataset",), ("dataset", "train"), ("trainer",), ("trainer", "aspect_ratio"), ("scheduler",), ("nets",)),
    ("scheduler", "steplr"),
]


@pytest.mark.parametrize("value", [3, "x", [1], [[1]], {"a": 1}, None])
def test_no_value_ends_in_a_traceback(value: Any) -> None:
    for place in PLACES:
        layer = yaml_text.read_text(FILE, "kbr.yaml", [])
        assert layer is not None
        node = layer.data
        for key in place[:-1]:
            node = node[key] if isinstance(node.get(key), dict) else node.setdefault(key, {})
        node[place[-1]] = value
        report = Report(layer)
        assert translate(layer, report, ["folder", "kitti_lmdb"]).data.keys() >= {"loss", "loader"}
        assert all(line.startswith("kbr.yaml") for line in report.lines), (place, report.lines)
