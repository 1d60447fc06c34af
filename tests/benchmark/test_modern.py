"""The pages of cfg/modern: each says what it is, loads, and is trained by the command in its header."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.benchmark.test_files import command_of, header_of
from tests.world import ROOT
from trainer.build import build_networks
from trainer.commands.train import parse
from trainer.config import load_config

PAGES = sorted((ROOT / "cfg/modern").glob("*.yaml"))
SYSTEMS = [path for path in PAGES if path.stem != "default"]


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_a_page_says_what_it_is_and_is_trained_by_its_command(path: Path) -> None:
    text = " ".join(header_of(path))
    parts = ["arXiv:", "Differs from cfg/", "monodepth train -c ", "Published", "Ours: "]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    args = parse(command_of(path))
    assert args.cfg_file == [path]
    assert args.cfg_default == [path.parent / "default.yaml"]
    assert load_config(args.cfg_file, args.cfg_default).warnings == ()


def test_encoder_and_decoder_of_lite_mono_fit() -> None:
    cfg = load_config("modern/litemono_8m", "modern/default")
    with torch.device("meta"):
        disp = build_networks(cfg, given=cfg.net)["depth"](torch.rand(1, 3, 64, 96))["disp"]
    assert {s: tuple(map_.shape) for s, map_ in disp.items()} == {s: (1, 1, 64 >> s, 96 >> s) for s in range(3)}
