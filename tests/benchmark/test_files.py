"""The pages of cfg/benchmark and of the ablations: every system trains, every command in a header is the right one."""

from __future__ import annotations

import math
import shlex
from functools import cache
from pathlib import Path

import pytest
import timm
import torch

from models_zoo.encoders.build import current_name
from tests.benchmark import systems
from tests.world import ROOT
from trainer.build import build_dataset, build_loader, build_networks, build_objective
from trainer.commands.train import parse
from trainer.config import Config, load_config
from trainer.config.pages import find_page
from trainer.training.setup import build_optimizer

ABLATIONS = ("abl_bb", "abl_pretrained", "abl_smooth")
SYSTEMS = [systems.FOLDER / f"{name}.yaml" for name in systems.NAMES]
VARIANTS = [p for folder in ABLATIONS for p in sorted((ROOT / "cfg" / folder).glob("*.yaml")) if p.stem != "default"]
BACKBONES = [p for p in VARIANTS if p.parent.name != "abl_smooth"]
ARCHITECTURES = [p for p in BACKBONES if p.parent.name == "abl_bb" or p.stem.endswith("_scratch")]  # without weights
PAGES = [*SYSTEMS, *VARIANTS]
ONE_OF_A_FAMILY = ("convnext_tiny", "efficientnet_b0", "hrnet_w18", "mobilenetv3_small_050", "resnet18_scratch")
SMALL = (
    *("dataset.type=synthetic", "dataset.size=[96,64]", "dataset.num_items=2", "dataset.items_per_scene=1"),
    *("loader.batch_size=1", "loader.num_workers=0"),
)


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def header_of(path: Path) -> list[str]:
    """The comment lines that open a page, without their marks."""
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    assert all(line.startswith("# ") for line in lines)
    return [line.removeprefix("# ").strip() for line in lines]


def command_of(path: Path) -> list[str]:
    """The arguments of the command in the header."""
    text = "\n".join(header_of(path)).replace("\\\n", "")
    [line] = [line for line in text.splitlines() if line.startswith("monodepth train ")]
    return shlex.split(line)[2:]


@cache
def load(path: Path, *overrides: str) -> Config:
    """Load a page on top of what its command names or implies."""
    return load_config(path, parse(command_of(path)).cfg_default, overrides)


def load_small(path: Path) -> Config:
    """Load a page for small rendered images and encoders without weights."""
    encoders = {"enc_name": "test_resnet", "pretrained": "false"}
    return load(path, *SMALL, *(f"net.{net}.{k}={v}" for net in load(path).net for k, v in encoders.items()))


@pytest.mark.long
@pytest.mark.parametrize("path", [p for p in PAGES if p not in BACKBONES], ids=name_of)
def test_a_system_trains(path):
    """Two steps: every loss is finite, every parameter is reached, every network moves."""
    cfg = load_small(path)
    torch.manual_seed(0)
    objective = build_objective(cfg).train()
    optimizer = build_optimizer(cfg, objective)
    before = {name: value.detach().clone() for name, value in objective.named_parameters()}
    assert {name.split(".")[1] for name in before} == set(cfg.net)

    loader = build_loader(cfg, "train", build_dataset(cfg, "train"), seed=0, rank=0, world=1)
    for step, batch in enumerate(loader, start=1):
        out = objective(batch)
        assert set(out.losses) >= set(cfg.loss)
        wrong = {name: value for name, value in out.losses.items() if not value.isfinite()}
        assert not wrong, f"step {step}: {wrong}"
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert step == 2

    # timm starts the last BatchNorm of a block at 0: what lies before it gets a gradient in the second step only, and
    # one below Adam's eps may move nothing yet.
    unreached, broken, still = [], [], []
    for name, value in objective.named_parameters():
        largest = 0.0 if value.grad is None else float(value.grad.abs().max())
        unreached += [name] * (largest == 0)
        broken += [name] * (not math.isfinite(largest))
        still += [name] * (largest > 1e-8 and value.equal(before[name]))
    assert (unreached, broken, still) == ([], [], [])


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_page_names_weights_that_exist(path):
    """An encoder that starts from weights names which: without a tag they would be those that timm prefers today."""
    cfg = load(path)
    assert cfg.warnings == ()
    for net, kwargs in cfg.net.items():
        name = kwargs["enc_name"]
        assert "." in name, f"net.{net}.enc_name {name} has no tag"
        assert name == current_name(name)
        assert timm.is_model_pretrained(name), f"timm has no weights {name}"


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if p.stem in ONE_OF_A_FAMILY else pytest.mark.long) for p in ARCHITECTURES],
    ids=name_of,
)
def test_encoder_and_decoder_of_a_page_fit(path):
    """With the encoder as written; that of all systems is among them."""
    cfg = load(path)
    with torch.device("meta"), torch.no_grad():  # shapes alone: large networks take long to fill
        images = torch.rand(1, 3, 64, 96)
        disp = build_networks(cfg, given=cfg.net)["depth"].eval()(images)["disp"]
    assert {s: tuple(map_.shape) for s, map_ in disp.items()} == {s: (1, 1, 64 >> s, 96 >> s) for s in range(4)}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_the_command_of_a_page_trains_that_page(path):
    args = parse(command_of(path))
    folder = path.parent.name
    assert args.cfg_file == [path]
    own_default = path.parent / "default.yaml"
    assert [find_page(page) for page in args.cfg_default] == list(dict.fromkeys([systems.DEFAULT, own_default]))
    assert (args.ckpt_dir, args.name) == (Path("models") / folder, path.stem)
    assert (args.version, args.seed, args.set) == ("42", 42, [])


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_page_says_what_it_is(path):
    lines = header_of(path)
    assert lines[0] == "yaml-language-server: $schema=../schema.json"
    text = " ".join(lines)
    parts = ["Differs from cfg/", "monodepth train -c ", "Published", "Ours: "]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    if path in SYSTEMS:
        assert "arXiv:" in text or "not on arXiv" in text
        assert "Differs from the paper: " in text
        assert all(f"{protocol} AbsRel " in text for protocol in ("KEZ", "KEB"))


@pytest.mark.parametrize("path", sorted({*PAGES, *(page.parent / "default.yaml" for page in PAGES)}), ids=name_of)
def test_a_page_is_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 120


def test_the_default_of_the_benchmark_is_plain():
    cfg = load_config(systems.DEFAULT)
    assert list(cfg.loss) == ["img_recon", "disp_smooth"]
    assert not cfg.loss["img_recon"]["use_min"]
    assert not cfg.loss["img_recon"]["use_automask"]
    assert cfg.supp_idxs == (-1, 1)
