"""Every row of docs/coming-from.md: our side loads or parses; their names are refused with ours, or mean the same."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import pairwise

import pytest

from tests.world import ROOT
from trainer.commands import evaluate, train
from trainer.commands.__main__ import MODULES
from trainer.commands.jobs.list_commands import parser_of
from trainer.config import Config, ConfigError, load_config, refused
from trainer.config.foreign_names import FOREIGN, advice, use_instead
from trainer.config.pages import default_beside, find_page, page_names, shipped
from trainer.config.sections import SECTION_NAMES

PAGE = (ROOT / "docs/coming-from.md").read_text(encoding="utf-8")
OPTIONS = {entry.name.split()[-1].strip("-"): entry.shown for entry in FOREIGN if entry.ours}  # that have one of ours
KEYS = {entry.name: entry.shown for entry in FOREIGN if "--" not in entry.name}  # those also refused as keys
NOT_HERE = {entry.name.split()[-1].strip("-") for entry in FOREIGN if entry.reason} - OPTIONS.keys()
LONG = {"-o": "--ckpt-dir", "-n": "--name", "-c": "--cfg-file", "-v": "--version", "-s": "--seed"}


@dataclass(frozen=True)
class Row:
    """A row of a table; `page` is what the keys of its section are on top of."""

    section: str
    page: str
    there: str
    here: str
    remark: str

    @property
    def names(self) -> list[str]:
        """Names of theirs that could be keys: "num_layers" of `--num_layers 50`."""
        spans = [re.split(r"[ =(]", span.removeprefix("--"), maxsplit=1)[0] for span in spans_of(self.there)]
        return [name for name in spans if name.isidentifier() and name not in SECTION_NAMES]

    @property
    def settings(self) -> list[str]:
        return settings_in(self.here)

    @property
    def commands(self) -> list[str]:
        return [span for span in spans_of(self.here) if span.startswith(("monodepth ", "accelerate launch "))]


def spans_of(cell: str) -> list[str]:
    return re.findall(r"`(.+?)`", cell)


def settings_in(cell: str) -> list[str]:
    """Split the `key=value` texts of our sections in a cell."""
    parts = [part for span in spans_of(cell) for part in re.split(r" (?=[\w.]+=)", span)]
    return [part for part in parts if re.match(rf"({'|'.join(SECTION_NAMES)})[.=]", part)]


def rows() -> list[Row]:
    found = []
    for section in PAGE.split("\n## ")[1:]:
        page = re.search(r"on top of the page `(.+?)`", section)[1]
        for line in re.findall(r"^\| .+ \|$", section, re.M):
            there, here, remark = (cell.strip() for cell in re.split(r" ?\| ?", line.strip("|")))
            if spans_of(there) or here != "here":
                found.append(Row(section.partition("\n")[0], page, there, here, remark))
    return found


ROWS = rows()
SECTIONS = list(dict.fromkeys(row.section for row in ROWS))


@cache
def load(page: str, *settings: str) -> Config:
    """Load a page with settings; one that is a whole section replaces it."""
    path = find_page(page)
    whole = [f"{key}=~" for key in (setting.partition("=")[0] for setting in settings) if key in SECTION_NAMES]
    return load_config(path, default_beside([path]), [*whole, *settings])


def test_there_is_a_table_for_each() -> None:
    wanted = ["Monodepth2", "monodepth_benchmark", "SlowTV", "Lite-Mono", "Lightning", "Ultralytics"]
    assert [section.partition(",")[0] for section in SECTIONS] == wanted
    assert min(Counter(row.section for row in ROWS).values()) >= 10


@pytest.mark.parametrize("section", SECTIONS)
def test_our_side_loads_and_parses(section: str) -> None:
    for row in (row for row in ROWS if row.section == section):
        if row.here == "none":
            assert row.remark, row
            continue
        assert set(spans_of(row.here)) == {*row.commands} | {s for s in spans_of(row.here) if settings_in(f"`{s}`")}
        assert row.settings or row.commands, row
        if row.settings:
            load(row.page, *row.settings)
        for command in row.commands:
            parse(command)


def parse(line: str) -> None:
    """Parse a command with its own parser; pages and launch files that it names exist."""
    for name in re.findall(r"\$\(monodepth launch-file (\w+)\)", line):
        assert (shipped("launch/accelerate") / f"{name}.yaml").is_file()
    words = shlex.split(re.sub(r"\$\(.*?\)", "FILE", line))
    if words[0] == "accelerate":
        at = words.index("-m") + 1
        words = ["monodepth", words[at].removeprefix("trainer.commands."), *words[at + 1 :]]
    module = import_module(f"trainer.commands.{MODULES.get(words[1], words[1]).replace('-', '_')}")
    module.parse(words[2:])  # exits when it cannot
    named = [word for before, word in pairwise(words) if before in ("-c", "--suite")]
    assert {*named} <= {*page_names()}


def refusals(page: str, keys: Iterable[str]) -> dict[str, str]:
    """Set keys to 1 and return the report, by key."""
    with pytest.raises(ConfigError) as refused:
        load(page, *(f"{key}=1" for key in keys))
    lines = [line.removeprefix("--set ").partition("=1: ") for line in refused.value.problems]
    return {key: told for key, _, told in lines}


@pytest.mark.parametrize("section", SECTIONS)
def test_their_names_are_never_taken_for_something_else(section: str) -> None:
    """Neither at the top, where commands without sections would put them, nor in `trainer`, as in Lightning."""
    own = [row for row in ROWS if row.section == section]
    names = {name for row in own for name in row.names} - {"nets", "training_step"}  # a section that is read; a method
    told = refusals(own[0].page, sorted(names))
    assert [name for name in names if not told.get(name, "").startswith(f"{name} is not a section. ")] == []
    if section == "Lightning":
        ours = {key for row in own for key in (s.partition("=")[0] for s in row.settings)}
        theirs = {f"trainer.{name}" for name in names} - ours
        assert theirs - refusals(own[0].page, sorted(theirs)).keys() == set()
        assert len(theirs) > 15


def test_refusals_name_what_the_page_does() -> None:
    told = refusals("kitti/monodepth2_MS", KEYS)
    assert told == {name: f"{name} is not a section. Use {ours}" for name, ours in KEYS.items()}
    sections = "|".join(SECTION_NAMES)
    for entry in (entry for entry in FOREIGN if entry.ours):
        name = entry.name.split()[-1].strip("-")
        here = " ".join(row.here for row in ROWS if name in row.names or f"`--{name} " in row.there)
        assert here, f"{name} is not on the page"
        here = re.sub(r" (-[oncvs])(?= )", lambda m: f" {LONG[m[1]]}", here)
        keys = re.findall(
            rf"(?:{sections})\.[\w.]*\w|--[\w-]+|monodepth \w+|\beval/\w+", f"{entry.shown} {entry.first}"
        )
        assert keys or name in ("resume", "no_cuda", "image_path")
        assert [key for key in keys if key not in here] == [], name


def test_settings_of_the_page_are_known_to_the_errors() -> None:
    """The other way round; what is no setting there, or an option of ours, is left out."""
    no_settings = {"yolo", "training_step"}
    ours = {action.dest for action in parser_of(train.main)._actions}
    for row in ROWS:
        if row.section.partition(",")[0] not in ("Monodepth2", "Lite-Mono", "Lightning", "Ultralytics"):
            continue
        names = {*row.names, *re.findall(r"--(\w+)", row.there)} - ours - no_settings
        known = NOT_HERE if row.here == "none" else OPTIONS.keys()
        assert names - known == set(), row
    named = [
        (command, words[-1].strip("-"))
        for entry in FOREIGN
        for words in [entry.name.split()]
        for command in words[:-1] or [""]
    ]
    assert max(Counter(named).values()) == 1
    assert [entry for entry in FOREIGN if bool(entry.ours) == bool(entry.reason)] == []
    of_page = {name for row in ROWS if row.here == "none" for name in row.names}
    assert NOT_HERE - of_page == set()


ONE_GPU = "leave it out: a GPU is used if there is one; CUDA_VISIBLE_DEVICES{} before the command chooses it"
READY = [  # their words, and the lines of the answer
    ("--num_epochs 3 --batch_size 8", ["use --set trainer.max_epochs=3 loader.batch_size=8"]),
    ("--width=640 --height 192 --scales 0 1", ["use --set dataset.size=[640,192] net.depth.out_scales=[0,1]"]),
    ("--height 192", ["--height: use dataset.size=[width,height]"]),
    ("--frame_ids 0 -1 1 --no_ssim", ["use --set dataset.supp_idxs=[-1,1] loss.img_recon.loss_name=l1"]),
    ("--use_stereo", ["use --set dataset.supp_idxs=[-1,1,0]"]),
    ("--frame_ids 0 --use_stereo", ["use --set dataset.supp_idxs=[0] net.pose=~"]),
    ("--frame_ids 0", ["--frame_ids: use dataset.supp_idxs, without the target"]),
    ("--weights_init scratch", ["use --set net.depth.pretrained=false net.pose.pretrained=false"]),
    ("--eval_split eigen --post_process", ["use --cfg-file eval/kitti_eigen --flip"]),
    ("--model_name mine --log_dir out", ["use --name mine --ckpt-dir out"]),
    ("--data_path a&b", ["use --set 'dataset.root=a&b'"]),
    ("--lr 1e-4 5e-6 31", ["--lr: use optimizer.lr"]),
    ("--time 2 --precision 16-mixed", ["use --set trainer.precision=16-mixed", f"--time: use {OPTIONS['time']}"]),
    ("--fliplr 0.5", ["--fliplr: use dataset.train.use_aug"]),
    ("--png --nonsense 3", ["--png: not here: PNG and JPEG are both found"]),
    ("--trainer.max_epochs 3 --batch_size=4", ["use --set trainer.max_epochs=3 loader.batch_size=4"]),
    ("--num_workers -1", ["--num_workers: use loader.num_workers, a whole number >= 0 and <= 1,024 or 'auto', not -1"]),
    (
        "--limit_train_batches 0.1 --epochs 3",
        [
            "use --set trainer.max_epochs=3",
            "--limit_train_batches: use trainer.limit_train_batches, a whole number >= 1 or null, not 0.1",
        ],
    ),
    ("--ckpt_path last", ["--ckpt_path: use monodepth train again, the same command: it continues the run"]),
    ("--device cuda", [f"--device: {ONE_GPU.format('')}"]),
    ("--device cuda:1", [f"--device: {ONE_GPU.format('=1')}"]),
    ("--device 0", [f"--device: {ONE_GPU.format('=0')}"]),
    ("--gpus 1", [f"--gpus: {ONE_GPU.format('')}"]),
    ("--devices auto", [f"--devices: use {OPTIONS['devices']}"]),
    ("--nonsense --learning-rate 1e-3", ["use --set optimizer.lr=1e-3"]),
]


@pytest.mark.parametrize(("words", "lines"), READY)
def test_their_options_become_ours_with_their_values(words: str, lines: list[str]) -> None:
    assert advice(words.split(), refused=refused) == lines


ON_CPU = "accelerate launch --config_file $(monodepth launch-file cpu)"
MULTI_GPU = "accelerate launch --config_file $(monodepth launch-file multi_gpu) --num_processes"
ELSEWHERE = [  # commands with words of evaluate_depth.py and test_simple.py, and the lines below the error
    (
        "evaluate --load_weights_folder models/mono_640x192/ --eval_mono --eval_split eigen --data_path kitti_data"
        " --num_workers 4 --post_process",
        [
            "first monodepth convert models/mono_640x192/ mono_640x192.safetensors",
            "use --ckpt mono_640x192.safetensors --alignment median --cfg-file eval/kitti_eigen --num-workers 4 --flip"
            " --set dataset.root=kitti_data",
        ],
    ),
    ("evaluate --ckpt x --eval_stereo --batch_size 4", ["use --alignment stereo --batch-size 4"]),
    ("evaluate --ckpt x --min_depth 1 --max_depth 50", ["use --min-depth 1 --max-depth 50"]),
    ("evaluate --ckpt x --disable_median_scaling --eval_mono --pred_depth_scale_factor 1", ["use --alignment none"]),
    ("evaluate --ckpt x --disable_median_scaling --pred_depth_scale_factor 5.4", ["use --alignment stereo"]),
    (
        "evaluate --ckpt x --pred_depth_scale_factor 3 --no_eval",
        [
            "--pred_depth_scale_factor: use --alignment none, which is x 1, or stereo, which is x 5.4",
            "--no_eval: use monodepth export-depth",
        ],
    ),
    (
        "export-depth --load_weights_folder w --eval_split eigen --post_process --save_pred_disps --eval_out_dir out",
        [
            "first monodepth convert w w.safetensors",
            "use --ckpt w.safetensors --cfg-file export/kitti_eigen --flip --save out/disps.npz",
            "--save_pred_disps: not here: this command always saves them",
        ],
    ),
    (
        "predict --image_path street.jpg --model_name mono_640x192 --no_cuda --ext png",
        [
            "first monodepth convert models/mono_640x192 mono_640x192.safetensors",
            "use monodepth predict mono_640x192.safetensors street.jpg --device cpu",
        ],
    ),
    (
        "predict --image_path 'my pictures' --ext png --load_weights_folder lite-mono --pred_metric_depth --out maps",
        [
            "first monodepth convert lite-mono lite-mono.safetensors",
            "use monodepth predict --out maps lite-mono.safetensors 'my pictures/*.png' --save color,npy",
            "--pred_metric_depth: metres where the network knows them, as one trained on stereo pairs does; for another"
            " add --scale NUMBER",
        ],
    ),
    ("predict m.safetensors --image_path street.jpg", ["use monodepth predict m.safetensors street.jpg"]),
    ("predict --image_path street.jpg", ["use monodepth predict MODEL street.jpg"]),
    ("predict m.safetensors street.jpg --no_cuda", ["use --device cpu"]),
    (
        "train -c kitti/monodepth2_MS --accelerator gpu --devices 2 --strategy ddp --max_epochs 3 -n mine",
        [
            f"use {MULTI_GPU} 2 -m trainer.commands.train -c kitti/monodepth2_MS -n mine --set trainer.max_epochs=3",
        ],
    ),
    (
        "sweep -c kitti/monodepth2_MS --devices 2 --num_epochs 3",
        [f'use --launch "{MULTI_GPU} 2" --set trainer.max_epochs=3'],
    ),
    (
        "evaluate --ckpt x --num_epochs 3 --data_path data",
        ["use --set dataset.root=data", "--num_epochs: not here: trainer.max_epochs is about training"],
    ),
    ("export-depth --ckpt x --min_depth 1", ["--min_depth: not here: trainer.min_depth is about training"]),
    ("train -c a --device 0,1", [f"use {MULTI_GPU} 2 -m trainer.commands.train -c a"]),
    ("train -c a --gpus 4", [f"use {MULTI_GPU} 4 -m trainer.commands.train -c a"]),
    ("train -c a --device cpu", [f"use {ON_CPU} -m trainer.commands.train -c a"]),
    ("evaluate --ckpt x --no_cuda --flip", [f"use {ON_CPU} -m trainer.commands.evaluate --ckpt x --flip"]),
    ("evaluate MODEL --eval_mono", ["put --ckpt in front: --ckpt MODEL", "use --alignment median"]),
    ("export-depth MODEL", ["put --ckpt in front: --ckpt MODEL"]),
    (
        "train kitti/monodepth2_MS epochs=3 -s 1",
        ["put -c in front: -c kitti/monodepth2_MS", "use --set trainer.max_epochs=3"],
    ),
]


@pytest.mark.parametrize(("line", "told"), ELSEWHERE)
def test_their_other_commands_are_answered_by_ours(
    capsys: pytest.CaptureFixture[str], line: str, told: list[str]
) -> None:
    name, *words = shlex.split(line)
    module = import_module(f"trainer.commands.{name.replace('-', '_')}")
    with pytest.raises(SystemExit, match="2"):
        module.parse(words)
    error, *said, _ = capsys.readouterr().err.splitlines()
    assert error.startswith(f"monodepth {name}: error: ")
    assert said == told
    for answer in (text.partition(" ")[2] for text in told if text.startswith(("first ", "use "))):
        needed = {"predict": "m street.jpg", **dict.fromkeys(("train", "sweep"), "-c kitti/monodepth2_MS")}.get(
            name, "--ckpt x"
        )
        rest = "" if "--ckpt" in answer else f" {needed}"
        whole = answer.startswith(("monodepth ", "accelerate "))
        parse(answer.replace("-c a", "-c kitti/monodepth2_MS") if whole else f"monodepth {name} {answer}{rest}")


def test_what_is_ready_loads_or_parses() -> None:
    for _, (line, *_rest) in READY:
        options, _, settings = line.removeprefix("use ").partition("--set ")
        if line.startswith("use ") and settings:
            load("kitti/monodepth2_MS", *shlex.split(settings))
        if line.startswith("use ") and options:
            name = "train -c kitti/monodepth2_MS" if "--name" in options else "evaluate --ckpt x"
            parse(f"monodepth {name} {options}")


def test_a_name_is_not_its_own_replacement() -> None:
    assert use_instead("batch_size", "dataset.batch_size") == "loader.batch_size"
    assert use_instead("batch_size", "loader.batch_size") == ""
    assert use_instead("--eval-mono") == "--alignment median"
    assert use_instead("nonsense") == ""


def test_pages_of_slowtv_mean_what_the_table_says() -> None:
    compared = [row for row in ROWS if row.section.startswith("SlowTV") and settings_in(row.there)]
    assert len(compared) >= 6
    for row in compared:
        theirs, ours = load(row.page, *settings_in(row.there)), load(row.page, *row.settings)
        assert theirs.to_dict() == ours.to_dict(), row.there


@pytest.mark.parametrize("key", ["trainer.always_fwd_pose=false", "trainer.auto_scale_lr=true"])
def test_what_the_table_calls_refused_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=key.partition("=")[0]):
        load("kbr/default", key)


def test_options_of_other_commands_are_refused_with_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        train.parse(["-c", "kitti/monodepth2_MS", "--num_layers", "18", "--frame_ids", "0", "--nonsense"])
    assert capsys.readouterr().err.splitlines() == [
        "monodepth train: error: unrecognized arguments: --num_layers 18 --frame_ids 0 --nonsense",
        "use --set net.depth.enc_name=resnet18 net.pose.enc_name=resnet18",
        "--frame_ids: use dataset.supp_idxs, without the target",
        "(keys with a dot follow --set: --set trainer.max_epochs=20)",
        "`monodepth train --help` lists all options",
    ]
    with pytest.raises(SystemExit, match="2"):
        evaluate.parse(["--ckpt", "x", "--eval_mono"])
    assert capsys.readouterr().err.splitlines()[:2] == [
        "monodepth evaluate: error: unrecognized arguments: --eval_mono",
        "use --alignment median",
    ]


def test_a_page_that_is_missing_is_told_with_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        train.parse(["--num_epochs", "3", "--seed", "7", "--width", "192", "--height=64", "-n", "mine"])
    assert capsys.readouterr().err.splitlines() == [
        "monodepth train: error: the following arguments are required: -c/--cfg-file",
        "-c names a page: `monodepth cfg list` shows all, -c synthetic/monodepth2_MS is the demo",
        "use --set dataset.size=[192,64] trainer.max_epochs=3",
        "`monodepth train --help` lists all options",
    ]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("epochs=10", "Use --set trainer.max_epochs=10"),
        ("trainer.max_epochs=10", "Use --set trainer.max_epochs=10"),
        ("imgsz=640", "Use dataset.size=[width,height]"),
        ("project=runs", "Use --ckpt-dir runs"),
        ("degrees=10", "Not here: it would break the geometry between frames"),
        ("nonsense=10", "A setting follows --set: --set nonsense=10"),
    ],
)
def test_a_setting_without_its_option(word: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(["kitti/monodepth2_MS", word], "kitti/default")
    assert str(refused.value) == f"{word}: no such file. {told}"
