"""Files written for the earlier benchmark code load unchanged, with all of its keys."""

from __future__ import annotations

import pytest

from tests.config.toys import TOYS
from trainer.config import load_config

BENCHMARK_DEFAULT = """\
net:
  depth:
    dec_name: 'mono'
    out_scales: [0, 1, 2, 3]
    mask_name: null
    num_ch_mask: null
    use_virtual_stereo: False
  pose: {pretrained: True}

loss:
  img_recon: {weight: 1, loss_name: 'ssim', use_min: False}
  disp_smooth: {weight: 0.001, use_edges: True}

dataset:
  type: 'kitti_lmdb'
  split: 'eigen_zhou'
  size: [640, 192]
  supp_idxs: [-1, 1]
  use_depth: True
  use_hints: False
  use_aug: True
  as_torch: True
  log_time: True
  train: {mode: 'train'}
  val: {mode: 'val', use_aug: False}

loader:
  batch_size: 8
  num_workers: 8
  drop_last: True
  shuffle: True
  pin_memory: True
  val: {drop_last: False, shuffle: False}

optimizer: {type: 'adam', lr: 0.0001}
scheduler: {type: 'steplr', step_size: 15, gamma: 0.1}

trainer:
  max_epochs: 30
  resume_training: True
  load_ckpt: null
  log_every_n_steps: 100
  monitor: 'AbsRel'
  min_depth: 0.1
  max_depth: 100
  benchmark: True
  gradient_clip_val: null
  precision: 32
  accumulate_grad_batches: null
  swa: null
  early_stopping: null
"""


@pytest.mark.parametrize(
    ("text", "supports"),
    [
        ("loss: {img_recon: {use_min: True}}", (-1, 1)),
        ("loss: {img_recon: {use_min: True}}\ndataset: {supp_idxs: [-1, 1, 0]}", (-1, 1, 0)),
        (
            "net: {depth: {use_virtual_stereo: True}, pose: ~}\n"
            "loss: {stereo_const: {weight: 1}}\n"
            "dataset: {supp_idxs: 0}",
            (0,),
        ),
        (
            "net: {depth: {mask_name: 'explainability', num_ch_mask: 2}}\n"
            "loss: {img_recon: {mask_name: 'explainability'}, disp_mask: {weight: 0.2}}",
            (-1, 1),
        ),
        ("net: {pose: ~}\nloss: {depth_regr: {weight: 1}}\ndataset: {supp_idxs: [0], use_hints: True}", (0,)),
        (
            "net: {autoencoder: {pretrained: True}}\n"
            "loss: {feat_recon: {weight: 0.01}, feat_peaky: {weight: 0.0001}}\n"
            "loader: {batch_size: 6}",
            (-1, 1),
        ),
    ],
    ids=["monodepth2_M", "monodepth2_MS", "monodepth", "sfm_learner", "kuznietsov", "feat_depth"],
)
def test_benchmark_files_load_unchanged(tmp_path, text, supports):
    (tmp_path / "default.yaml").write_text(BENCHMARK_DEFAULT)
    (tmp_path / "model.yaml").write_text(text)
    cfg = load_config(tmp_path / "model.yaml", tmp_path / "default.yaml", registries=TOYS)
    assert cfg.supp_idxs == supports
    assert cfg.warnings == ()
    assert cfg.trainer.benchmark is True
    assert cfg.loader_kwargs("train")["shuffle"] is True
    assert cfg.loader_kwargs("val")["shuffle"] is False
