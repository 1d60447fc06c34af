"""What settings of other programs are called here, for the error that refuses theirs; docs/coming-from.md has more.

Names of Monodepth2 and Lite-Mono are options of their commands, those of Lightning arguments of its `Trainer`, those of
Ultralytics `name=value` on its command line. Only names that are no keys here, and that a spelling check cannot guess.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

_KEY = re.compile(r"[a-z_]+(\.\w+)+")
_READY = rf"{_KEY.pattern}=[\w.]+|--[\w-]+( [\w.,]+)?( --[\w-]+ [\w.,]+)*"  # without a value


class Foreign(NamedTuple):
    """A setting of another program; with dashes an option alone: as a key it exists here, or a spelling check helps.

    name: may begin with the commands that it is meant for, "evaluate export-depth --no_eval".
    ours: a key, an option, or words for a person; {} is where the value goes, [{}] where several may, {name} the last
        part of a path. What begins with MODEL= or SOURCE= is given to the command without a name.
    choices: what becomes of single values; others are for a person.
    reason: why there is nothing like it here.
    first: a command to run before.
    remark: what to know about `ours`.
    """

    name: str
    ours: str = ""
    choices: Mapping[str, str] | None = None
    reason: str = ""
    first: str = ""
    remark: str = ""

    @property
    def shown(self) -> str:
        """`ours` without a value: "loader.batch_size", "--name"."""
        return re.sub(r"[= ]\S*\{\w*\}\S*", "", self.ours)

    def ready(self, values: Sequence[str]) -> list[str]:
        """Return settings or options that mean `--name values`, none where a person has to decide."""
        if self.choices is not None:
            return self.choices.get(" ".join(values), "").split()
        if not values:
            return self.shown.split() if re.fullmatch(_READY, self.shown) else []
        fits = "[{}]" in self.ours or len(values) == 1
        return _filled(self.ours, values) if fits and "{" in self.ours else []


def _filled(text: str, values: Sequence[str]) -> list[str]:
    """Return the words of a text with values at their places."""
    joined = ",".join(values)
    return [word.replace("{}", joined).replace("{name}", PurePath(joined).name) for word in text.split()]


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
_EXPORTS = {name: f"--cfg-file export/kitti_{name}" for name in ("eigen", "eigen_benchmark")}
_UNSCALED = "the file holds what the network predicts, and `monodepth evaluate --pred-file` aligns it"
_CONVERT = "monodepth convert {} {name}.safetensors"
_LAUNCH = "accelerate launch --config_file $(monodepth launch-file {})"
SCORING = ("evaluate", "export-depth", "calibrate")
_LAUNCHED = ("", "train", *SCORING)  # commands that take several processes; "" is train
_DEVICES = ("device", "devices", "gpus", "accelerator", "no_cuda")
_GPUS = "accelerate launch --num_processes for several GPUs, CUDA_VISIBLE_DEVICES for one"
_ONE_GPU = "leave it out: a GPU is used if there is one; CUDA_VISIBLE_DEVICES{} before the command chooses it"
_METRES = "metres where the network knows them, as one trained on stereo pairs does; for another add --scale NUMBER"
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
    Foreign("--no_eval", "monodepth export-depth"),
    Foreign("--eval_out_dir", "monodepth export-depth with --save"),
    Foreign("--disable_median_scaling", "--alignment none"),
    Foreign("--pred_depth_scale_factor", "--alignment none, which is x 1, or stereo, which is x 5.4"),
    # evaluate_depth.py and test_simple.py of both, in the commands that do their work
    Foreign("evaluate export-depth --load_weights_folder", "--ckpt {name}.safetensors", first=_CONVERT),
    Foreign("export-depth --eval_split", "--cfg-file export/kitti_eigen or another page of export/", _EXPORTS),
    Foreign("export-depth --eval_out_dir", "--save {}/disps.npz"),
    Foreign("export-depth --save_pred_disps", reason="this command always saves them"),
    Foreign("export-depth --no_eval", reason="this command scores nothing"),
    Foreign("export-depth --eval_mono", reason=_UNSCALED),
    Foreign("export-depth --eval_stereo", reason=_UNSCALED),
    Foreign("export-depth --disable_median_scaling", reason=_UNSCALED),
    Foreign("export-depth --pred_depth_scale_factor", reason=_UNSCALED),
    Foreign("predict --image_path", "SOURCE={}"),
    Foreign(
        "predict --ext", reason="pictures of all kinds are found; 'folder/*.png' in quotes means those of one kind"
    ),
    Foreign("predict --model_name", "MODEL={name}.safetensors", first="monodepth convert models/{} {name}.safetensors"),
    Foreign("predict --load_weights_folder", "MODEL={name}.safetensors", first=_CONVERT),
    Foreign("predict --no_cuda", "--device cpu"),
    Foreign("predict --pred_metric_depth", "--save color,npy", remark=_METRES),
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
    Foreign("devices", _GPUS),
    Foreign("gpus", _GPUS),
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
    Foreign("ckpt_path", "monodepth train again, the same command: it continues the run"),
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
    Foreign("device", _GPUS),
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
    Foreign("fliplr", "dataset.train.use_aug"),
    Foreign("hsv_h", "dataset.train.use_aug"),
    Foreign("--mosaic", reason=_GEOMETRY),
    Foreign("--mixup", reason=_GEOMETRY),
    Foreign("--degrees", reason=_GEOMETRY),
    Foreign("plots", "trainer.log_images=all"),
    # Sections and keys of arXiv:2208.01489 and arXiv:2307.10713 that read otherwise here
    Foreign("args", "evaluation.metrics, evaluation.min_depth, evaluation.max_depth"),
    Foreign("use_eigen_crop", "evaluation.crop=garg"),
    Foreign("align_mode", "evaluation.alignment={}"),
)
_OF = {  # by command, "" for any, and name
    (command, entry.name.split()[-1].strip("-")): entry
    for entry in FOREIGN
    for command in entry.name.split()[:-1] or [""]
}


def advice(
    words: Iterable[str],
    prog: str = "",
    known: Collection[str] = ("--set",),
    own: Sequence[str] = (),
    refused: Callable[[str, str], str] = lambda setting, command: "",
) -> list[str]:
    """Say what to use for the options of other programs among `words`, which are unknown options and their values.

    prog, known, own: the command, "monodepth evaluate", its options, and the other words that it was given.
    refused: says of a setting and a command why it would not do, "" where it does.

    Returns one line with all that is ready to be copied, below what has to be run before, and a line for each other
    option that is known.
    """
    command = prog.partition(" ")[2]
    given = _by_option(words)
    first, ready, remarks = list[str](), [*_together(given, command)], list[str]()
    starts = "--set" in known and (command in _LAUNCHED or "--launch" in known)
    launcher = _launcher(given, remarks) if starts else ""
    for option, values in given.items():
        name = _plain(option)
        spelled = f"--{name.replace('_', '-')}"
        entry = _OF.get((command, name)) or (_OF.get(("", name)) if "--set" in known else None)
        if spelled in known and (command, name) not in _OF:
            ready += [spelled, *values]
        elif texts := entry.ready(values) if entry else _as_setting(option, values, known):
            wrong = [told for text in texts if (told := refused(text, command))]
            ready += [] if wrong else texts
            remarks += [f"{option}: {told}" for told in (*wrong, *filter(None, [entry and entry.remark]))]
            if entry and entry.first and not wrong:
                first.append(f"first {' '.join(map(_quoted, _filled(entry.first, values)))}")
        elif entry:
            remarks.append(f"{option}: {f'use {entry.shown}' if entry.ours else f'not here: {entry.reason}'}")
    places = dict(word.split("=", 1) for word in sorted(ready) if re.match("(MODEL|SOURCE)=", word))
    settings = [word for word in ready if re.match(rf"{_KEY.pattern}=", word)]
    line = [word for word in ready if word not in settings and word.partition("=")[0] not in places]
    if places:
        missing = {} if own else {"MODEL": "MODEL", "SOURCE": "SOURCE"}
        line = [*prog.split(), *own, *(missing | places).values(), *line]
    line += ["--set", *settings] if settings else []
    answer = " ".join(map(_quoted, [*own, *line] if launcher and "--launch" not in known else line))
    if launcher and "--launch" in known:
        answer = f'--launch "{launcher}" {answer}'.strip()
    elif launcher:
        answer = f"{launcher} -m trainer.commands.{command.replace('-', '_') or 'train'} {answer or '...'}"
    return [*first, *([f"use {answer}"] if answer else []), *remarks]


def _launcher(given: dict[str, list[str]], remarks: list[str]) -> str:
    """Return how to start what options about devices ask for, "" without a launcher; what it answers leaves `given`."""
    wanted, alone = "", list[str]()
    for option in [option for option in given if _plain(option) in _DEVICES]:
        name, text = _plain(option), ",".join(given[option]).strip("[]").removeprefix("cuda:")
        numbers = [word for word in text.split(",") if word.isdecimal()]
        count = len(numbers) if name == "device" or len(numbers) > 1 else int((numbers or ["0"])[0][:9])
        if text == "cpu" or name == "no_cuda":
            wanted = _LAUNCH.format("cpu")
        elif count > 1:
            wanted = wanted or f"{_LAUNCH.format('multi_gpu')} --num_processes {count}"
        elif count == 1 or text in ("gpu", "cuda"):
            chosen = f"={text}" if name == "device" and numbers else ""
            alone.append(f"{option}: {_ONE_GPU.format(chosen)}")
        else:
            continue
        del given[option]
    if wanted and given.get("--strategy") == ["ddp"]:
        del given["--strategy"]
    remarks += [] if wanted else alone
    return wanted


def _as_setting(option: str, values: Sequence[str], known: Collection[str]) -> list[str]:
    """Take an option for a key that lacks its --set: "--trainer.max_epochs 3"."""
    key = option.removeprefix("--")
    return [f"{key}={values[0]}"] if "--set" in known and len(values) == 1 and _KEY.fullmatch(key) else []


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


def _together(given: dict[str, list[str]], command: str) -> Iterable[str]:
    """Translate options that only say something together, and remove them from `given`."""
    found = {_plain(option): option for option in given}
    if command == "predict" and {"image_path", "ext"} <= found.keys():
        path, kind = given[found["image_path"]], given.pop(found["ext"])
        path[:] = [word if PurePath(word).suffix else f"{word}/*.{'.'.join(kind)}" for word in path]
    if command == "evaluate" and {"disable_median_scaling", "pred_depth_scale_factor"} <= found.keys():
        factor = " ".join(given[found["pred_depth_scale_factor"]])
        if mode := {"1": "none", "5.4": "stereo"}.get(factor):
            for name in ("disable_median_scaling", "pred_depth_scale_factor", "eval_mono", "eval_stereo"):
                given.pop(found.get(name, ""), None)
            yield from ("--alignment", mode)
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
            yield f"dataset.supp_idxs=[{','.join(supports)}]"
            yield from ["net.pose=~"] * (supports == ["0"])


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w.,:/=@%+~\[\]-]+", word) else shlex.quote(word)


def _plain(option: str) -> str:
    return option.strip("-").replace("-", "_")


def instead_of_word(text: str) -> str:
    """Say what to write for a word `name=value` that follows no option: "Use --set trainer.max_epochs=3"."""
    told = (advice([f"--{text}"]) or [""])[-1].removeprefix(f"--{text.partition('=')[0]}: ")
    return told[:1].upper() + told[1:] or f"A setting follows --set: --set {text}"


def use_instead(name: str, where: str = "") -> str:
    """Return what to use for a setting that another program calls `name`: "loader.batch_size"; "" = not known.

    where: the dotted key that was refused, which is never the answer.
    """
    entry = _OF.get(("", _plain(name)))
    known = entry.shown if entry and not entry.name.startswith("-") else ""
    return "" if where and re.match(rf"{re.escape(where)}(?![\w.])", known) else known
