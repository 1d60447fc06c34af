"""What settings of other programs are called here, for the error that refuses theirs; docs/coming-from.md has more.

Names of Monodepth2 and Lite-Mono are options of their commands, those of Lightning arguments of its `Trainer`, those of
Ultralytics `name=value` on its command line. Only names that are no keys here, and that a spelling check cannot guess.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

_LAUNCH = "accelerate launch --num_processes"  # the number of processes belongs to the launcher
FOREIGN = {
    # Monodepth2 (arXiv:1806.01260), and Lite-Mono (arXiv:2211.13202), which has its options
    "data_path": "dataset.root",
    "log_dir": "--ckpt-dir",
    "model_name": "--name",
    "height": "dataset.size=[width,height]",
    "width": "dataset.size=[width,height]",
    "num_layers": "net.depth.enc_name=resnet50 and net.pose.enc_name",
    "weights_init": "net.depth.pretrained and net.pose.pretrained",
    "scales": "net.depth.out_scales",
    "frame_ids": "dataset.supp_idxs, without the target",
    "use_stereo": "dataset.supp_idxs with 0 in it",
    "disparity_smoothness": "loss.disp_smooth.weight",
    "learning_rate": "optimizer.lr",
    "num_epochs": "trainer.max_epochs",
    "scheduler_step_size": "scheduler.step_size",
    "avg_reprojection": "loss.img_recon.use_min=false",
    "disable_automasking": "loss.img_recon.use_automask=false",
    "predictive_mask": "net.depth.mask_name=explainability and loss.img_recon.mask_name",
    "no_ssim": "loss.img_recon.loss_name=l1",
    "load_weights_folder": "monodepth convert, then trainer.load_ckpt",
    "log_frequency": "trainer.log_every_n_steps",
    "eval_mono": "--alignment median",
    "eval_stereo": "--alignment stereo",
    "eval_split": "--cfg-file eval/kitti_eigen or another page of eval/",
    "post_process": "--flip",
    "ext_disp_to_eval": "--pred-file",
    "mypretrain": "trainer.load_ckpt",
    # Lightning
    "accelerator": "accelerate launch --config_file",
    "strategy": "accelerate launch --config_file",
    "devices": _LAUNCH,
    "gpus": _LAUNCH,
    "num_nodes": "accelerate launch --num_machines",
    "callbacks": "trainer.early_stopping, trainer.monitor, trainer.swa",
    "fast_dev_run": "monodepth train-dev",
    "max_steps": "trainer.max_epochs with trainer.limit_train_batches",
    "max_time": "trainer.max_minutes, in minutes",
    "val_check_interval": "trainer.limit_train_batches: every epoch ends with a validation",
    "overfit_batches": "trainer.limit_train_batches with loader.train.shuffle=false",
    "enable_progress_bar": "--progress plain",
    "profiler": "--profile 20",
    "logger": "trainer.trackers",
    "default_root_dir": "--ckpt-dir",
    # Ultralytics
    "data": "dataset.type and dataset.root",
    "epochs": "trainer.max_epochs",
    "time": "trainer.max_minutes, in minutes",
    "patience": "trainer.early_stopping.patience",
    "batch": "loader.batch_size",
    "imgsz": "dataset.size=[width,height]",
    "cache": "monodepth prepare cache, then dataset.decoded_root",
    "device": _LAUNCH,
    "workers": "loader.num_workers",
    "project": "--ckpt-dir",
    "exist_ok": "--version",
    "resume": "the same command again: it continues the run",
    "save_period": "trainer.save_every_n_steps, in steps",
    "amp": "trainer.precision: bf16 or 16",
    "lr0": "optimizer.lr",
    "lrf": "scheduler.eta_min, the last rate itself",
    "cos_lr": "scheduler.type=cos",
    "warmup_epochs": "scheduler.warmup",
    "fraction": "trainer.limit_train_batches, a number of batches",
    "nbs": "trainer.accumulate_grad_batches, a number of batches",
    "multi_scale": "trainer.aspect_ratio=true",
    "fliplr": "dataset.train.use_aug",
    "hsv_h": "dataset.train.use_aug",
    "plots": "trainer.log_images=all",
    # Sections and keys of arXiv:2208.01489 and arXiv:2307.10713 that read otherwise here
    "args": "evaluation.metrics, evaluation.min_depth, evaluation.max_depth",
    "use_eigen_crop": "evaluation.crop=garg",
    "align_mode": "evaluation.alignment",
    # Keys of other sections
    "batch_size": "loader.batch_size",
    "num_workers": "loader.num_workers",
    "lr": "optimizer.lr",
    "max_epochs": "trainer.max_epochs",
}
# Options alone: as keys they exist here, or a spelling check finds the right one.
_SAME = (  # as Lightning's
    *("precision", "limit_train_batches", "limit_val_batches", "accumulate_grad_batches", "gradient_clip_val"),
    *("log_every_n_steps", "sync_batchnorm", "deterministic", "benchmark", "detect_anomaly"),
)
OPTIONS = {
    "split": "dataset.split",
    "dataset": "dataset.type",
    "min_depth": "trainer.min_depth",
    "max_depth": "trainer.max_depth",
    "no_cuda": "accelerate launch --config_file $(monodepth launch-file cpu)",
    "save_frequency": "trainer.save_every_n_steps, in steps",
    "save_pred_disps": "monodepth export-depth",
    "model": "--cfg-file modern/litemono or another page",
    "weight_decay": "optimizer.weight_decay",
    "drop_path": "net.depth.enc_options.drop_path",
    "pretrained": "trainer.load_ckpt",
    "momentum": "optimizer.momentum",
    "freeze": "trainer.freeze, by name",
    "val": "trainer.limit_val_batches=0",
    "seed_everything": "--seed",
    **{name: f"trainer.{name}" for name in _SAME},
}
NOT_HERE = {
    "png": "PNG and JPEG are both found",
    "v1_multiscale": "losses are computed at full resolution",
    "pose_model_type": "the pose network has a ResNet of its own",
    "pose_model_input": "the pose network sees pairs of frames",
    "num_sanity_val_steps": "everything is checked before the first batch",
    "mosaic": "it would break the geometry between frames",
    "mixup": "it would break the geometry between frames",
    "degrees": "it would break the geometry between frames",
}
_KEY = re.compile(r"[a-z_]+(\.\w+)+")
_CHOICES = {
    "weights_init": {
        "scratch": "net.depth.pretrained=false net.pose.pretrained=false",
        "pretrained": "net.depth.pretrained=true net.pose.pretrained=true",
    },
    "eval_split": {name: f"--cfg-file eval/kitti_{name}" for name in ("eigen", "eigen_benchmark")},
    "num_layers": {n: f"net.depth.enc_name=resnet{n} net.pose.enc_name=resnet{n}" for n in ("18", "34", "50", "101")},
}
_LISTS = ("scales",)  # whose values, one or several, are a list here
_WITH_VALUE = ("--pred-file", "--ckpt-dir", "--name", "--seed")


def advice(words: Iterable[str]) -> list[str]:
    """Say what to use for the options of other programs among `words`, which are unknown options and their values.

    Returns one line with all that is ready to be copied, and a line for each other option that is known.
    """
    given = _by_option(words)
    ready, remarks = [*_together(given)], []
    for option, values in given.items():
        name = _plain(option)
        if text := _translated(name, values):
            ready.append(text)
        elif name in NOT_HERE:
            remarks.append(f"{option}: not here: {NOT_HERE[name]}")
        elif known := FOREIGN.get(name) or OPTIONS.get(name):
            remarks.append(f"{option}: use {known}")
    texts = [_quoted(word) for word in " ".join(ready).split()]
    settings = [text for text in texts if re.match(rf"'?{_KEY.pattern}=", text)]
    options = [text for text in texts if text not in settings]
    line = [*options, *(["--set", *settings] if settings else [])]
    return [*([f"use {' '.join(line)}"] if line else []), *remarks]


def _by_option(words: Iterable[str]) -> dict[str, list[str]]:
    """Group words by the options that they follow: {"--frame_ids": ["0", "-1"]}."""
    given: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            values = given.setdefault(option, [])
            values += [value] if equals else []
        elif not word.startswith("-") or re.fullmatch(r"-[\d.]+", word):
            values.append(word)
    return given


def _together(given: dict[str, list[str]]) -> Iterable[str]:
    """Translate options that only say something together, and remove them from `given`."""
    found = {_plain(option): option for option in given}
    sides = [given[found[name]] for name in ("width", "height") if name in found]
    if len(sides) == 2 and all(len(side) == 1 and side[0].isdecimal() for side in sides):
        for name in ("width", "height"):
            del given[found[name]]
        yield f"dataset.size=[{sides[0][0]},{sides[1][0]}]"
    if "frame_ids" in found or "use_stereo" in found:
        frames = given[found["frame_ids"]] if "frame_ids" in found else ["0", "-1", "1"]
        supports = [frame for frame in frames if frame != "0"] + ["0"] * ("use_stereo" in found)
        if supports and all(re.fullmatch(r"-?\d+", frame) for frame in supports):
            for name in {"frame_ids", "use_stereo"} & found.keys():
                del given[found[name]]
            yield f"dataset.supp_idxs=[{','.join(supports)}]" + " net.pose=~" * (supports == ["0"])


def _translated(name: str, values: Sequence[str]) -> str:
    """Return settings or options that mean `--name values`, "" where a person has to decide."""
    if name in _CHOICES:
        return _CHOICES[name].get(" ".join(values), "")
    known = FOREIGN.get(name) or OPTIONS.get(name, "")
    if name in _LISTS and values:
        return f"{known}=[{','.join(values)}]"
    if not values:
        return known if re.fullmatch(rf"{_KEY.pattern}=[\w.]+|--[\w-]+( \w+)?", known) else ""
    if len(values) == 1 and _KEY.fullmatch(known):
        return f"{known}={values[0]}"
    return f"{known} {values[0]}" if len(values) == 1 and known in _WITH_VALUE else ""


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w.,:/=@%+~\[\]-]+", word) else shlex.quote(word)


def _plain(option: str) -> str:
    return option.strip("-").replace("-", "_")


def use_instead(name: str, where: str = "") -> str:
    """Return what to use for a setting that another program calls `name`: "loader.batch_size"; "" = not known.

    where: the dotted key that was refused, which is never the answer.
    """
    known = FOREIGN.get(_plain(name), "")
    return "" if where and re.match(rf"{re.escape(where)}(?![\w.])", known) else known
