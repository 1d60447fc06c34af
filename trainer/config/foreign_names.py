"""What settings of other programs are called here, for the error that refuses theirs; docs/coming-from.md has more.

Names of Monodepth2 and Lite-Mono are options of their commands, those of Lightning arguments of its `Trainer`, those of
Ultralytics `name=value` on its command line. Only names that are no keys here, and that a spelling check cannot guess.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

_KEY = re.compile(r"[a-z_]+(\.\w+)+")


class Foreign(NamedTuple):
    """A setting of another program; with dashes an option alone: as a key it exists here, or a spelling check helps."""

    name: str
    ours: str = ""  # a key, an option, or words for a person; {} is where the value goes, [{}] where several may
    choices: Mapping[str, str] | None = None  # what becomes of single values; others are for a person
    reason: str = ""  # why there is nothing like it here

    @property
    def shown(self) -> str:
        """`ours` without a value: "loader.batch_size", "--name"."""
        return re.sub(r"[= ]\[?\{\}\]?", "", self.ours)

    def ready(self, values: Sequence[str]) -> str:
        """Return settings or options that mean `--name values`, "" where a person has to decide."""
        if self.choices is not None:
            return self.choices.get(" ".join(values), "")
        if not values:
            return self.shown if re.fullmatch(rf"{_KEY.pattern}=[\w.]+|--[\w-]+( \w+)?", self.shown) else ""
        fits = "[{}]" in self.ours or len(values) == 1
        return self.ours.replace("{}", ",".join(values)) if fits and "{}" in self.ours else ""


_RESNETS = {n: f"net.depth.enc_name=resnet{n} net.pose.enc_name=resnet{n}" for n in ("18", "34", "50", "101")}
_WEIGHTS = {
    "scratch": "net.depth.pretrained=false net.pose.pretrained=false",
    "pretrained": "net.depth.pretrained=true net.pose.pretrained=true",
}
_SPLITS = {name: f"--cfg-file eval/kitti_{name}" for name in ("eigen", "eigen_benchmark")}
_OF_TRAINER = (
    *("precision", "limit_train_batches", "limit_val_batches", "accumulate_grad_batches", "gradient_clip_val"),
    *("log_every_n_steps", "sync_batchnorm", "deterministic", "benchmark", "detect_anomaly"),
)
_GEOMETRY = "it would break the geometry between frames"
FOREIGN = (
    # Monodepth2 (arXiv:1806.01260)
    Foreign("data_path", "dataset.root={}"),
    Foreign("log_dir", "--ckpt-dir {}"),
    Foreign("model_name", "--name {}"),
    Foreign("--split", "dataset.split={}"),
    Foreign("--dataset", "dataset.type={}"),
    Foreign("--png", reason="PNG and JPEG are both found"),
    Foreign("height", "dataset.size=[width,height]"),
    Foreign("width", "dataset.size=[width,height]"),
    Foreign("num_layers", "net.depth.enc_name=resnet50 and net.pose.enc_name", _RESNETS),
    Foreign("weights_init", "net.depth.pretrained and net.pose.pretrained", _WEIGHTS),
    Foreign("scales", "net.depth.out_scales=[{}]"),
    Foreign("frame_ids", "dataset.supp_idxs, without the target"),
    Foreign("use_stereo", "dataset.supp_idxs with 0 in it"),
    Foreign("disparity_smoothness", "loss.disp_smooth.weight={}"),
    Foreign("--min_depth", "trainer.min_depth={}"),
    Foreign("--max_depth", "trainer.max_depth={}"),
    Foreign("batch_size", "loader.batch_size={}"),
    Foreign("num_workers", "loader.num_workers={}"),
    Foreign("learning_rate", "optimizer.lr={}"),
    Foreign("num_epochs", "trainer.max_epochs={}"),
    Foreign("scheduler_step_size", "scheduler.step_size={}"),
    Foreign("avg_reprojection", "loss.img_recon.use_min=false"),
    Foreign("disable_automasking", "loss.img_recon.use_automask=false"),
    Foreign("predictive_mask", "net.depth.mask_name=explainability and loss.img_recon.mask_name"),
    Foreign("no_ssim", "loss.img_recon.loss_name=l1"),
    Foreign("--v1_multiscale", reason="losses are computed at full resolution"),
    Foreign("--pose_model_type", reason="the pose network has a ResNet of its own"),
    Foreign("--pose_model_input", reason="the pose network sees pairs of frames"),
    Foreign("--no_cuda", "accelerate launch --config_file $(monodepth launch-file cpu)"),
    Foreign("load_weights_folder", "monodepth convert, then trainer.load_ckpt"),
    Foreign("log_frequency", "trainer.log_every_n_steps={}"),
    Foreign("--save_frequency", "trainer.save_every_n_steps, in steps"),
    Foreign("eval_mono", "--alignment median"),
    Foreign("eval_stereo", "--alignment stereo"),
    Foreign("eval_split", "--cfg-file eval/kitti_eigen or another page of eval/", _SPLITS),
    Foreign("post_process", "--flip"),
    Foreign("ext_disp_to_eval", "--pred-file {}"),
    Foreign("--save_pred_disps", "monodepth export-depth"),
    # Lite-Mono (arXiv:2211.13202), which has the options of Monodepth2
    Foreign("--model", "--cfg-file modern/litemono or another page"),
    Foreign("mypretrain", "trainer.load_ckpt={}"),
    Foreign("lr", "optimizer.lr={}"),
    Foreign("--weight_decay", "optimizer.weight_decay={}"),
    Foreign("--drop_path", "net.depth.enc_options.drop_path={}"),
    # Lightning
    *(Foreign(f"--{key}", f"trainer.{key}={{}}") for key in _OF_TRAINER),
    Foreign("accelerator", "accelerate launch --config_file"),
    Foreign("strategy", "accelerate launch --config_file"),
    Foreign("devices", "accelerate launch --num_processes"),
    Foreign("gpus", "accelerate launch --num_processes"),
    Foreign("num_nodes", "accelerate launch --num_machines"),
    Foreign("callbacks", "trainer.early_stopping, trainer.monitor, trainer.swa"),
    Foreign("fast_dev_run", "monodepth train-dev"),
    Foreign("max_epochs", "trainer.max_epochs={}"),
    Foreign("max_steps", "trainer.max_epochs with trainer.limit_train_batches"),
    Foreign("max_time", "trainer.max_minutes, in minutes"),
    Foreign("val_check_interval", "trainer.limit_train_batches: every epoch ends with a validation"),
    Foreign("--num_sanity_val_steps", reason="everything is checked before the first batch"),
    Foreign("overfit_batches", "trainer.limit_train_batches with loader.train.shuffle=false"),
    Foreign("enable_progress_bar", "--progress plain"),
    Foreign("profiler", "--profile 20"),
    Foreign("logger", "trainer.trackers={}"),
    Foreign("default_root_dir", "--ckpt-dir {}"),
    Foreign("--seed_everything", "--seed {}"),
    # Ultralytics
    Foreign("data", "dataset.type and dataset.root"),
    Foreign("--pretrained", "trainer.load_ckpt={}"),
    Foreign("epochs", "trainer.max_epochs={}"),
    Foreign("time", "trainer.max_minutes, in minutes"),
    Foreign("patience", "trainer.early_stopping.patience={}"),
    Foreign("batch", "loader.batch_size={}"),
    Foreign("imgsz", "dataset.size=[width,height]"),
    Foreign("cache", "monodepth prepare cache, then dataset.decoded_root"),
    Foreign("device", "accelerate launch --num_processes"),
    Foreign("workers", "loader.num_workers={}"),
    Foreign("project", "--ckpt-dir {}"),
    Foreign("exist_ok", "--version"),
    Foreign("resume", "the same command again: it continues the run"),
    Foreign("save_period", "trainer.save_every_n_steps, in steps"),
    Foreign("amp", "trainer.precision: bf16 or 16"),
    Foreign("lr0", "optimizer.lr={}"),
    Foreign("lrf", "scheduler.eta_min, the last rate itself"),
    Foreign("cos_lr", "scheduler.type=cos"),
    Foreign("--momentum", "optimizer.momentum={}"),
    Foreign("warmup_epochs", "scheduler.warmup={}"),
    Foreign("--freeze", "trainer.freeze, by name"),
    Foreign("fraction", "trainer.limit_train_batches, a number of batches"),
    Foreign("--val", "trainer.limit_val_batches=0"),
    Foreign("nbs", "trainer.accumulate_grad_batches, a number of batches"),
    Foreign("multi_scale", "trainer.aspect_ratio=true"),
    Foreign("fliplr", "dataset.train.use_aug={}"),
    Foreign("hsv_h", "dataset.train.use_aug={}"),
    Foreign("--mosaic", reason=_GEOMETRY),
    Foreign("--mixup", reason=_GEOMETRY),
    Foreign("--degrees", reason=_GEOMETRY),
    Foreign("plots", "trainer.log_images=all"),
    # Sections and keys of arXiv:2208.01489 and arXiv:2307.10713 that read otherwise here
    Foreign("args", "evaluation.metrics, evaluation.min_depth, evaluation.max_depth"),
    Foreign("use_eigen_crop", "evaluation.crop=garg"),
    Foreign("align_mode", "evaluation.alignment={}"),
)
_BY_NAME = {entry.name.strip("-"): entry for entry in FOREIGN}


def advice(words: Iterable[str]) -> list[str]:
    """Say what to use for the options of other programs among `words`, which are unknown options and their values.

    Returns one line with all that is ready to be copied, and a line for each other option that is known.
    """
    given = _by_option(words)
    ready, remarks = [*_together(given)], []
    for option, values in given.items():
        if entry := _BY_NAME.get(_plain(option)):
            if text := entry.ready(values):
                ready.append(text)
            else:
                remarks.append(f"{option}: {f'use {entry.shown}' if entry.ours else f'not here: {entry.reason}'}")
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
        del given[found["width"]], given[found["height"]]
        yield f"dataset.size=[{sides[0][0]},{sides[1][0]}]"
    if "frame_ids" in found or "use_stereo" in found:
        frames = given[found["frame_ids"]] if "frame_ids" in found else ["0", "-1", "1"]
        supports = [frame for frame in frames if frame != "0"] + ["0"] * ("use_stereo" in found)
        if supports and all(re.fullmatch(r"-?\d+", frame) for frame in supports):
            for name in {"frame_ids", "use_stereo"} & found.keys():
                del given[found[name]]
            yield f"dataset.supp_idxs=[{','.join(supports)}]" + " net.pose=~" * (supports == ["0"])


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w.,:/=@%+~\[\]-]+", word) else shlex.quote(word)


def _plain(option: str) -> str:
    return option.strip("-").replace("-", "_")


def use_instead(name: str, where: str = "") -> str:
    """Return what to use for a setting that another program calls `name`: "loader.batch_size"; "" = not known.

    where: the dotted key that was refused, which is never the answer.
    """
    entry = _BY_NAME.get(_plain(name))
    known = entry.shown if entry and not entry.name.startswith("-") else ""
    return "" if where and re.match(rf"{re.escape(where)}(?![\w.])", known) else known
