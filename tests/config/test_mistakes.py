"""Mistakes and their messages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.config.toys import TOYS
from trainer.config import Config, ConfigError, load_config
from trainer.config.resolve import SizeRule
from trainer.runtime.errors import UserError

# YAML text, and a line of its report; * matches anything.
MISTAKES = [
    ("losses: {}",
     "x.yaml:1: losses is not a section. Did you mean 'loss'? Known: dataset, evaluation, loader, "
     "loss, net, optimizer, scheduler, trainer"),
    ("loss:\n  disp_smoth: {weight: 1}",
     "x.yaml:2: loss.disp_smoth is not a loss. Did you mean 'disp_smooth'? Known: depth_regr, "
     "disp_mask, disp_smooth, feat_peaky, feat_recon, img_recon, impossible, stereo_const"),
    ("loss: {disp_smoth: ~}", "x.yaml:1: loss.disp_smoth is not a loss. Did you mean 'disp_smooth'? *"),
    ("loss:\n  disp_smooth:\n\n    use_edge: true",
     "x.yaml:4: loss.disp_smooth.use_edge is not an argument of loss 'disp_smooth'. Did you "
     "mean 'use_edges'? Known: use_edges, weight"),
    ("loss: {img_recon: {weight: heavy}}",
     "x.yaml:1: loss.img_recon.weight: expected a number >= 0 or a mapping, got 'heavy'"),
    ("loss: {img_recon: {loss_name: sim}}",
     "x.yaml:1: loss.img_recon.loss_name: expected one of 'ssim', 'l1', got 'sim'. Did you "
     "mean 'ssim'?"),
    ("loss: {img_recon: 1}", "x.yaml:1: loss.img_recon: expected a mapping of keys, got 1"),
    ("loss: [img_recon]", 'x.yaml:1: loss: expected a mapping of keys, got ["img_recon"]'),
    ("net: {pos: {}}",
     "x.yaml:1: net.pos is not a network. Did you mean 'pose'? Known: autoencoder, depth, pose"),
    ("net: {depth: {dec_name: mno}}", "x.yaml:1: net.depth.dec_name 'mno' is not a decoder"),
    ("net: {depth: {mask_name: 3}}",
     "x.yaml:1: net.depth.mask_name: expected one of 'explainability', 'uncertainty' or null, got 3"),
    ("net: {depth: {out_scales: all}}",
     "x.yaml:1: net.depth.out_scales: expected a whole number or a list of whole numbers, got 'all'"),
    ("dataset: {type: kiti}", "x.yaml:1: dataset.type: 'kiti' is not a dataset. Did you mean 'kitti'? *"),
    ("dataset: {type: ~}", "x.yaml:1: dataset.type: missing. Known: kitti, kitti_lmdb, rendered"),
    ("dataset: {tpye: kitti}",
     "x.yaml:1: dataset.tpye is not an argument of dataset 'kitti'. Did you mean 'type'? *"),
    ("dataset: {seed: 3}", "x.yaml:1: dataset.seed is not an argument of dataset 'kitti'. *"),
    ("dataset: {splt: ~}",
     "x.yaml:1: dataset.splt is not an argument of dataset 'kitti'. Did you mean 'split'? *"),
    ("dataset:\n  train:\n    use_aug: 3",
     "x.yaml:3: dataset.train.use_aug: expected true or false, got 3"),
    ("dataset: {train: 1}", "x.yaml:1: dataset.train: expected a mapping of keys, got 1"),
    ("dataset: {size: 256x128}",
     "x.yaml:1: dataset.size: expected a list of 2 whole numbers, got '256x128'. Did you mean [256,128]?"),
    ("dataset: {size: '256,128'}",
     "x.yaml:1: dataset.size: expected a list of 2 whole numbers, got '256,128'. Did you mean [256,128]?"),
    ("dataset: {size: 64x96}",
     "x.yaml:1: dataset.size: expected a list of 2 whole numbers, got '64x96'. Did you mean [96,64]?"),
    ("dataset: {size: 40x100}",
     "x.yaml:1: dataset.size: expected a list of 2 whole numbers, got '40x100'. Did you mean [96,64]?"),
    ("dataset: {size: [40, 100]}",
     "x.yaml:1: dataset.size: [40, 100] is taller than wide; the order is [width, height]. Did you mean [96, 64]?"),
    ("dataset: {size: [640]}", "x.yaml:1: dataset.size: expected a list of 2 whole numbers, got [640]"),
    ("dataset: {val: {size: [192, 640]}}",
     "x.yaml:1: dataset.val.size: [192, 640] is taller than wide; the order is [width, height]. Did "
     "you mean [640, 192]?"),
    ("dataset: {size: [100, 40]}",
     "x.yaml:1: dataset.size: [width, height] must be multiples of 32, at least 64; got [100, "
     "40]. Nearest: [96, 64]"),
    ("dataset: {supp_idxs: [1, 1]}",
     "x.yaml:1: dataset.supp_idxs: [1, 1] names a frame twice; remove the repetition"),
    ("dataset: {supp_idxs: [a]}",
     "x.yaml:1: dataset.supp_idxs: expected a whole number or a list of whole numbers or "
     'null, got ["a"]'),
    ("loader: {batch_size: 0}", "x.yaml:1: loader.batch_size: expected a whole number >= 1 and <= 100,000, got 0"),
    ("loader: {batch_size: 8.0}", "x.yaml:1: loader.batch_size: expected a whole number >= 1 and <= 100,000, got 8.0"),
    ("loader: {num_workers: 1000000}",
     "x.yaml:1: loader.num_workers: expected a whole number >= 0 and <= 1,024 or 'auto', got 1000000"),
    ("loader: {prefetch_factor: 1000000000000}",
     "x.yaml:1: loader.prefetch_factor: expected a whole number >= 1 and <= 1,000 or null, got *"),
    ("loader: {timeout: 1e300}",
     "x.yaml:1: loader.timeout: expected a number >= 0 and <= 604,800, got 1e+300"),
    ("trainer: {num_threads: 100000000}", "x.yaml:1: trainer.num_threads: expected a whole number >= 1 and *"),
    ("trainer: {max_minutes: 0}", "x.yaml:1: trainer.max_minutes: expected a number > 0 or null, got 0"),
    ("trainer: {max_minutes: -5}", "x.yaml:1: trainer.max_minutes: expected a number > 0 or null, got -5"),
    ("trainer: {max_minutes: .inf}",
     "x.yaml:1: trainer.max_minutes: expected a number > 0 or null, got inf, which is not finite"),
    ("trainer: {timeout_minutes: 1e300}", "x.yaml:1: trainer.timeout_minutes: expected a number > 0 and *"),
    ("trainer:\n  max_epochs: 1000000000000000000000000000000",
     "x.yaml:2: refused: a whole number of 31 digits; at most 18 are read"),
    ("dataset: {size: [64000, 64000]}",
     "x.yaml:1: dataset.size: [width, height] must be multiples of 32, at least 64 and at most 8,192; got *"),
    ("dataset: {size: [0, -32]}", "x.yaml:1: dataset.size: [width, height] must be multiples of 32, at least 64; *"),
    ("dataset: {size: [8192, 8192]}\nloader: {batch_size: 99999}",
     "x.yaml:2: loader.batch_size: a batch of 99,999 items with 3 frames of 8192 x 8192 pixels takes * GB, *"),
    ("loss: {disp_smooth: {weight: -1}}",
     "x.yaml:1: loss.disp_smooth.weight: expected a number >= 0 or a mapping, got -1"),
    ("optimizer: {betas: [2, 3]}",
     "x.yaml:1: optimizer.betas: [2.0, 3.0] does not work: Invalid beta parameter at index 0: 2.0"),
    ("optimizer: {type: sgd, momentum: -1}", "x.yaml:1: optimizer.momentum: -1.0 does not work: Invalid momentum *"),
    ("optimizer: {eps: -1,\n betas: [2, 3]}", "*optimizer.type: adam does not work with these settings: Invalid *"),
    ("scheduler: {step_size: 0}", "x.yaml:1: scheduler.step_size: expected a whole number >= 1, got 0"),
    ("scheduler: {type: cos, T_max: 0}", "x.yaml:1: scheduler.T_max: expected a whole number >= 1, got 0"),
    ("scheduler: {type: cos, T_max: -3}", "x.yaml:1: scheduler.T_max: expected a whole number >= 1, got -3"),
    ("scheduler: {type: cos_warm, T_0: 0}", "x.yaml:1: scheduler.T_0: expected a whole number >= 1, got 0"),
    ("scheduler: {type: linear, total_iters: 0}",
     "x.yaml:1: scheduler.total_iters: expected a whole number >= 1, got 0"),
    ("scheduler: {type: linear, start_factor: 0}",
     "x.yaml:1: scheduler.start_factor: expected a number > 0 and <= 1, got 0"),
    ("scheduler:\n  type: exp\n  gamma: 1e9\ntrainer: {max_epochs: 1000}",
     "x.yaml:3: scheduler.gamma: 1000000000.0 does not work: the learning rate of epoch 36 would be inf"),
    ("loader: {num_workers: 0, persistent_workers: true}",
     "x.yaml:1: loader.persistent_workers: true needs workers; *"),
    ("loader: {trian: {}}", "x.yaml:1: loader.trian is not a key of loader. Did you mean 'train'? *"),
    ("loader: {val: {shufle: 1}}",
     "x.yaml:1: loader.val.shufle is not a key of loader. Did you mean 'shuffle'? *"),
    ("loader: {num_workers: 0, val: {prefetch_factor: 2}}",
     "x.yaml:1: loader.val.prefetch_factor: 2 needs workers; set loader.num_workers to 1 or "
     "more, or remove it"),
    ("optimizer: {lr: fast}", "x.yaml:1: optimizer.lr: expected a number >= 0, got 'fast'"),
    ("optimizer: {lr: .inf}",
     "x.yaml:1: optimizer.lr: expected a number >= 0, got inf, which is not finite"),
    ("optimizer: {momentum: 0.9}",
     "x.yaml:1: optimizer.momentum is not an argument of optimizer 'adam'. *"),
    ("optimizer: {betas: 0.9}",
     "x.yaml:1: optimizer.betas: expected a list of 2 values, each a number, got 0.9"),
    ("optimizer: {type: admw}",
     "x.yaml:1: optimizer.type: 'admw' is not an optimizer of timm. Did you mean 'adamw'? "
     "Often used: adam, *"),
    ("optimizer: {type: adam, opt: adam}",
     "x.yaml:1: optimizer.opt: says the same as optimizer.type; remove one of the two"),
    ("optimizer: ~", "x.yaml:1: optimizer.type: missing. Often used: adam, *"),
    ("optimizer: 3", "x.yaml:1: optimizer: expected a mapping of keys, got 3"),
    ("scheduler: {type: step}",
     "x.yaml:1: scheduler.type: 'step' is not a scheduler. Did you mean 'steplr'? *"),
    ("scheduler: {type: ~}",
     "x.yaml:1: scheduler.type: missing. Known: cos, cos_warm, exp, linear, plateau, steplr"),
    ("scheduler: {gama: 1}",
     "x.yaml:1: scheduler.gama is not an argument of scheduler 'steplr'. Did you mean 'gamma'? *"),
    ("scheduler: {warm_up: 4}",
     "x.yaml:1: scheduler.warm_up is not an argument of scheduler 'steplr'. Did you mean 'warmup'? *"),
    ("scheduler: {by: batch}", "x.yaml:1: scheduler.by: expected one of 'epoch', 'step', got 'batch'"),
    ("scheduler: {type: plateau, monitor: loss, by: step, step_size: ~, gamma: ~}",
     "x.yaml:1: scheduler.by: plateau watches the validation, once per epoch; leave `by` out"),
    ("optimizer: {layer_decay: 1.5}",
     "x.yaml:1: optimizer.layer_decay: expected a number > 0 and <= 1 or null, got 1.5"),
    ("scheduler: {step_size: ~}", "x.yaml:1: scheduler.step_size: missing; expected a whole number >= 1"),
    ("scheduler: {type: plateau, step_size: ~, gamma: ~}",
     "x.yaml:1: scheduler.monitor: missing; plateau watches a number of validation, e.g. "
     "AbsRel or loss"),
    ("trainer: {max_epochs: ~}",
     "x.yaml:1: trainer.max_epochs: expected a whole number >= 1 and <= 1,000,000, got null"),
    ("trainer: {max_epoch: 3}",
     "x.yaml:1: trainer.max_epoch is not a key of trainer. Did you mean 'max_epochs'? *"),
    ("trainer: {precision: 8}", "x.yaml:1: trainer.precision: expected one of 32, 16, 'bf16', got 8"),
    ("trainer: {precision: fp32-mixed}",
     "x.yaml:1: trainer.precision: expected one of 32, 16, 'bf16', got 'fp32-mixed'*"),
    ("trainer: {benchmark: 1}", "x.yaml:1: trainer.benchmark: expected true or false, got 1"),
    ("trainer: {swa: {begin: 1}}",
     "x.yaml:1: trainer.swa.begin is not a key of trainer.swa. *Known: anneal_epochs, bn_batches, *"),
    ("trainer: {swa: {start: 2.5}}",
     "x.yaml:1: trainer.swa.start: expected a share of the epochs below 1, or a whole number of them; got 2.5"),
    ("trainer: {swa: {start: 99}}",
     "x.yaml:1: trainer.swa.start: 99 is never reached with trainer.max_epochs: *; set it lower"),
    ("trainer: {swa: {lr: 0}}", "x.yaml:1: trainer.swa.lr: expected a number > 0 or null, got 0"),
    ("trainer: {swa: {start: 0}, limit_val_batches: 0}",
     "x.yaml:1: trainer.swa: is used in validation and for `best` alone, and nothing is validated; *"),
    ("trainer: {early_stopping: true, limit_val_batches: 0}",
     "x.yaml:1: trainer.early_stopping: waits for a number of the validation, and nothing is validated; *"),
    ("trainer: {micro_batch_size: 0}",
     "x.yaml:1: trainer.micro_batch_size: expected a whole number >= 1 or null, got 0"),
    ("trainer: {micro_batch_size: 2, aspect_ratio: true}",
     "x.yaml:1: trainer.micro_batch_size: each part would get a shape of its own; remove it, or set *"),
    ("trainer: {micro_batch_size: 2}\nloader: {train: {drop_last: false}}",
     "x.yaml:1: trainer.micro_batch_size: needs full batches; remove it, or set loader.train.drop_last: true"),
    ("trainer: {gradient_compression: fp8}",
     "x.yaml:1: trainer.gradient_compression: expected one of 'bf16', 'fp16' or null, got 'fp8'. Did you mean 'fp16'?"),
    ("trainer: {nonfinite: skip, detect_anomaly: true}",
     "x.yaml:1: trainer.detect_anomaly: ends the run at the first NaN in a gradient, which *"),
    ("trainer: {swa: 5}", "x.yaml:1: trainer.swa: expected a mapping or null, got 5"),
    ("trainer: {ema: {decay: 1.5}}",
     "x.yaml:1: trainer.ema.decay: expected a number > 0 and < 1, got 1.5"),
    ("trainer: {early_stopping: {patience: 0}}",
     "x.yaml:1: trainer.early_stopping.patience: expected a whole number >= 1, got 0"),
    ("trainer: {nonfinite: skipp}",
     "x.yaml:1: trainer.nonfinite: expected one of 'stop', 'skip', got 'skipp'. Did you mean 'skip'?"),
    ("trainer: {min_depth: 0}", "x.yaml:1: trainer.min_depth: expected a number > 0, got 0"),
    ("trainer: {max_depth: 0.1}",
     "x.yaml:1: trainer.max_depth: expected a number > min_depth (0.1), or null; got 0.1"),
    ("trainer: {monitor: AbsRle}",
     "x.yaml:1: trainer.monitor: 'AbsRle' is not a number of the validation. Did you mean "
     "'AbsRel'? Known: AbsRel, Acc, LogSI, MAE, RMSE, loss, loss_disp_smooth, loss_img_recon"),
    ("trainer: {trackers: [tensorbord]}",
     "x.yaml:1: trainer.trackers: 'tensorbord' is not a tracker. Did you *"),
    ("dataset: {val: {use_depth: false}}",
     "default.yaml:17: trainer.monitor: AbsRel needs true depth, but use_depth is false for "
     "val; set dataset.val.use_depth: true, or watch loss"),
    ("scheduler: {type: plateau, monitor: AbsRel, step_size: ~, gamma: ~}\ntrainer: "
     "{limit_val_batches: 0}",
     "x.yaml:1: scheduler.type: plateau needs validation; set trainer.limit_val_batches above 0"),
    ("net: {depth: ~}", "x.yaml:1: net.depth: missing; a depth network is what is trained"),
    ("loss: {img_recon: ~, disp_smooth: ~}",
     "x.yaml:1: loss: missing; at least one loss is needed, e.g. img_recon"),
    ("net: {pose: ~}",
     "default.yaml:11: dataset.supp_idxs: [-1, 1] has frames in time, whose motion net.pose "
     "must predict; add net.pose or use [0]"),
    ("net: {pose: {learn_K: true}}\ndataset: {supp_idxs: [0]}",
     "x.yaml:1: net.pose.learn_K: a camera is learned from supports in time; dataset.supp_idxs are "
     "[0], so set it to false"),
    ("net: {pose: ~}\ndataset: {supp_idxs: ~}",
     "default.yaml:5: loss.img_recon: needs support frames: set dataset.supp_idxs, e.g. [-1, "
     "1], and add net.pose for offsets other than 0; or remove the loss with `img_recon: ~`"),
    ("net: {depth: {use_virtual_stereo: true}}",
     "x.yaml:1: net.depth.use_virtual_stereo: predicts the view of the stereo partner, which is not "
     "among dataset.supp_idxs [-1, 1]; add 0 to them, or set it to false"),
    ("loss: {stereo_const: {}}",
     "x.yaml:1: loss.stereo_const: needs a virtual stereo view: set net.depth.use_*"),
    ("loss: {stereo_const: {}}\nnet: {depth: {use_virtual_stereo: true}}",
     "x.yaml:1: loss.stereo_const: needs a virtual stereo view: *"),
    ("loss: {disp_mask: {}}",
     "x.yaml:1: loss.disp_mask: needs a predicted mask: set net.depth.mask_name and *"),
    ("loss: {depth_regr: {}}",
     "x.yaml:1: loss.depth_regr: needs depth hints: set dataset.use_hints: true; *"),
    ("loss: {depth_regr: {}}\ndataset: {train: {use_hints: true}}",
     "x.yaml:2: dataset.train.use_hints: true, but not in validation, which needs it too; *"),
    ("loss: {feat_peaky: {}}",
     "x.yaml:1: loss.feat_peaky: needs the network net.autoencoder: add it to net; *"),
    ("loss: {impossible: {}}",
     "x.yaml:1: loss.impossible: needs 'telepathy', which no configuration offers. *"),
    ("loss: {img_recon: {mask_name: explainability}}",
     "x.yaml:1: loss.img_recon.mask_name: 'explainability' must equal net.depth.mask_name, "
     "which is null"),
    ("net: {depth: {mask_name: uncertainty, num_ch_mask: 3}}",
     "x.yaml:1: net.depth.num_ch_mask: a mask has one channel per support frame: expected 2 "
     "for dataset.supp_idxs [-1, 1], got 3"),
    ("loss: {img_recon: {weight: {0:0.9, 15:0.95}}}",
     "x.yaml:1: loss.img_recon.weight: '0:0.9' lacks the space after the colon, as in {0: 0.9, 15: 0.95}"),
    ("loss: {img_recon: {weight: {5: 1}}}",
     "x.yaml:1: loss.img_recon.weight: has no weight from epoch 0 on, only from 5; add 0, as in {0: 1}"),
    ("loss: {img_recon: {weight: {0: 1, late: 2}}}",
     "x.yaml:1: loss.img_recon.weight: 'late' is not the number of an epoch, counted from 0, as in {0: 0.9, 15: 0.95}"),
    ("loss: {img_recon: {weight: {0: 1, 3: -2}}}",
     "x.yaml:1: loss.img_recon.weight: expected a number >= 0 from epoch 3 on, got -2"),
    ("loss: {img_recon: {weight: {0: 1, 0: 2}}}",
     "x.yaml:1: loss.img_recon.weight.0 is given twice, first on line 1. Remove one"),
    ("a: 1\na: 2", "x.yaml:2: a is given twice, first on line 1. Remove one"),
    ("trainer:\n  max_epochs: 1\n  max_epochs: 2",
     "x.yaml:3: trainer.max_epochs is given twice, first on line 2. *"),
    ("trainer:\n\tmax_epochs: 1",
     "x.yaml:2: not valid YAML: a tab in the indentation. Indent with spaces"),
    ("trainer: {max_epochs: 1", "x.yaml:1: not valid YAML: expected ',' or '}', *"),
    ("trainer: 'open", "x.yaml:1: not valid YAML: found unexpected end of stream *"),
    ("a: 1\n---\nb: 2", "x.yaml:2: not valid YAML: but found another document *"),
    ("a: \x01", "x.yaml: not valid YAML: unacceptable character *"),
    ("[1, 2]", "x.yaml: holds a list; expected a mapping of sections (net, loss, dataset, ...)"),
    ("just text", "x.yaml: holds 'just text'; expected a mapping of sections *"),
    ("# nothing", "x.yaml: holds nothing; expected a mapping of sections (net, loss, dataset, ...)"),
    ("loss: {on: 1}", "x.yaml:1: 'on' (bool) is no key: keys are text; quote it"),
    ("loss: {[1]: 1}", "x.yaml:1: a list or mapping is no key: keys are text; quote it"),
    ("trainer: {monitor: !secret x}",
     "x.yaml:1: trainer.monitor: tag !secret is not supported; remove it"),
    ("loss: &a {b: *a}", "x.yaml:1: loss.b: an alias may not hold itself"),
    ("loss: {<<: 3}", "x.yaml:1: << takes a mapping, as in <<: *name"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), MISTAKES)
def test_every_mistake_names_place_value_and_choices(problems, text, line):
    shown = problems(text)
    pattern = re.escape(line).replace(r"\*", ".*").replace(".*name", r"\*name")
    assert any(re.fullmatch(pattern, given) for given in shown), "\n".join(shown)
    assert len(set(shown)) == len(shown)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("trainer.max_epochs=many", "trainer.max_epochs: expected a whole number >= 1 and <= 1,000,000, got 'many'"),
        ("loss.disp_smoth.weight=3", "loss.disp_smoth is not a loss. Did you mean 'disp_smooth'? *"),
        ("optimizer.lr.x=3", 'optimizer.lr: expected a number >= 0, got {"x": 3}'),
        ("max_epochs", "expected key=value with a dotted key, such as --set trainer.max_epochs=1"),
        ("=3", "expected key=value with a dotted key, such as --set trainer.max_epochs=1"),
        ("trainer..x=3", "expected key=value with a dotted key, such as --set trainer.max_epochs=1"),
        (
            "trainer.x=1  loader.y=[2]",
            "each KEY=VALUE is a word of its own, without quotes around both: --set trainer.x=1 loader.y=[2]",
        ),
        ("trainer.max_epochs=[1", "not valid YAML: expected ',' or ']', *"),
        ("loss={img_recon: {a: 1, a: 2}}", "img_recon.a is given twice, *"),
    ],
)
def test_a_wrong_override_is_quoted(problems, override, line):
    pattern = re.escape(f"--set {override}: {line}").replace(r"\*", ".*")
    assert any(re.fullmatch(pattern, given) for given in problems("", override))


@pytest.mark.parametrize("override", [f"dataset={'[' * 300}", f"{'a.' * 300}b=1", {"loss": "deep"}])
def test_an_override_has_bounds_and_is_quoted_in_short(problems, override):
    if isinstance(override, dict):
        for _ in range(300):
            override = {"a": override}
    (line,) = problems("", override)
    assert len(line) < 250


@pytest.mark.parametrize("mode", ["train", "val"])
def test_a_common_key_for_workers_may_serve_one_mode(load, mode):
    load(f"loader: {{num_workers: 0, persistent_workers: true, {mode}: {{num_workers: 1}}}}")


@pytest.mark.parametrize(
    "text",
    [
        "dataset: {supp_idxs: ~}",
        "dataset: {val: {use_depth: false}}",
        "loss: ~",
        "optimizer: {betas: [2, 3]}",
        "trainer: {trackers: [paper]}",
        "loader: {num_workers: 0, timeout: 3}",
    ],
)
def test_what_only_training_needs_is_checked_for_training_alone(load, tmp_path, text):
    with pytest.raises(ConfigError):
        load(text)
    load_config("x.yaml", "default.yaml", registries=TOYS, training=False)
    with pytest.raises(ConfigError, match="must be multiples"):
        load_config("x.yaml", "default.yaml", {"dataset.size": [100, 50]}, registries=TOYS, training=False)


def test_a_wrong_mapping_is_named(problems):
    assert problems("", {"trainer.max_epochs": object()})[0].startswith(
        "overrides: trainer.max_epochs: expected plain data (numbers, text, lists, mappings), got a object"
    )
    assert problems("", {"trainer": {"max_epochs": 0}}) == [
        "overrides: trainer.max_epochs: expected a whole number >= 1 and <= 1,000,000, got 0"
    ]


def test_missing_file_names_the_nearest_one_and_those_beside_it(load):
    load()
    with pytest.raises(ConfigError) as caught:
        load_config(["defualt.yaml", "x.yaml", "no/folder.yaml"], registries=TOYS)
    assert caught.value.problems == [
        "defualt.yaml: no such file. Did you mean 'default.yaml'? Known: default.yaml, x.yaml",
        "no/folder.yaml: no such file, and no page of this name. Did you mean 'real/folder'? `monodepth cfg list` lists"
        " all",
    ]


def test_unreadable_files(load, tmp_path):
    load()
    Path("latin.yaml").write_bytes(b"a: \xff")
    for path, reason in (("latin.yaml", "'utf-8' codec"), (".", "Is a directory")):
        with pytest.raises(ConfigError, match=rf"{re.escape(path)}: cannot be read: .*{reason}"):
            load_config(path, registries=TOYS)


def test_missing_sections_are_all_named():
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({}, "run.yaml", registries=TOYS)
    for key in ("net.depth", "loss", "dataset.type", "optimizer.type", "trainer.max_epochs"):
        assert any(line.startswith(f"run.yaml: {key}: missing") for line in caught.value.problems), key


def test_required_argument_of_a_dataset():
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({"dataset": {"type": "kitti", "train": {"split": "a"}}}, registries=TOYS)
    assert "config: dataset.split: missing; expected text" in caught.value.problems  # val has none


def test_all_mistakes_are_in_one_report(problems):
    shown = problems(
        "net: {depth: {dec_name: x, out_scale: 1}}\nloss: {disp_smoth: {}}\ndataset: {size: big}\n"
        "loader: {batch_size: -1}\noptimizer: {lr: x}\nscheduler: {gama: 1}\n"
        "trainer: {swa: 1, min_depth: -1}\nmore: 1",
        "trainer.num_threads=x",
        "oops",
    )
    keys = ["net.depth.out_scale", "loss.disp_smoth", "dataset.size", "loader.batch_size", "optimizer.lr"]
    keys += ["scheduler.gama", "trainer.swa", "trainer.min_depth", "trainer.num_threads", "more is", "--set oops"]
    for key in keys:
        assert sum(key in line for line in shown) == 1, f"{key} in:\n" + "\n".join(shown)
    assert len(shown) == len(keys)


def test_what_follows_from_a_mistake_is_not_reported_again(problems):
    assert len(problems("dataset: {supp_idxs: [a]}")) == 1
    assert len(problems("dataset: {type: kiti}")) == 1
    assert len(problems("net: {pose: {pretraned: true}}")) == 1


def test_config_error_is_a_user_error():
    assert issubclass(ConfigError, UserError)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("dataset: {supp_idxs: [0]}", "net.pose is never used: dataset.supp_idxs [0] has no frame in time"),
        ("net: {pose: {learn_K: true}}\ntrainer: {limit_val_batches: 0}", "net.pose.learn_K: nothing is validated, so"),
        ("trainer: {ema: true, limit_val_batches: 0}", "trainer.ema is used in validation and for `best` alone, and"),
        ("scheduler: {by: step}\ntrainer: {max_minutes: 5}", "trainer.max_minutes may end the run before scheduler.by"),
        ("trainer: {min_depth: 1}", "trainer.min_depth 1 without stereo: depth is in units of the network's choice"),
    ],
)
def test_odd_settings_are_warnings(load, text, warning):
    assert load().warnings == ()
    assert load(text).warnings[0].startswith(warning)


def test_an_override_that_the_keys_of_the_modes_hide_is_a_warning(load):
    text = "dataset: {train: {supp_idxs: [1]}}"
    warning = "dataset.supp_idxs of --set: dataset.train.supp_idxs (x.yaml:1) win. Set them by name"
    assert load(text, "dataset.supp_idxs=[-1]").warnings[0].startswith(warning)
    assert load(text, "dataset.train.supp_idxs=[-1]", "dataset.supp_idxs=[-1]").warnings == ()


@pytest.mark.parametrize("size", ["64x96", "100x40", "40x100", "1x1", "1242,375", "99999x3"])
def test_a_size_that_is_suggested_is_taken(size):
    with pytest.raises(ConfigError) as caught:
        load_config("synthetic/monodepth2_MS", "synthetic/default", f"dataset.size={size}")
    (line,) = caught.value.problems
    found = re.search(r"got '(.+)'\. Did you mean (\[\d+,\d+\])\?$", line)
    assert found[1] == size
    load_config("synthetic/monodepth2_MS", "synthetic/default", f"dataset.size={found[2]}")


def test_networks_of_any_size_keep_the_size_that_was_meant():
    assert SizeRule.of({"depth": {"dec_name": "dpt"}}).nearest([518, 392]) == [518, 392]
    assert SizeRule.of({"depth": {"dec_name": "dpt"}, "pose": {}}).nearest([518, 392]) == [512, 384]
