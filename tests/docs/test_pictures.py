"""The pictures of docs/concepts are those that the code draws today, and they are legible wherever they are shown."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.world import ROOT

PICTURES = ROOT / "docs" / "pictures"
FIXED = ("step", "scene", "views", "order", "draws", "protocol")  # "checkpoint" needs a run
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    """The script, whose folder is where its modules are found."""
    sys.path.insert(0, str(PICTURES))
    try:
        import draw
    finally:
        sys.path.remove(str(PICTURES))
    return draw


def said(draw: ModuleType, svg: str) -> list[str]:
    return sys.modules["svg"].words_of(svg)


def words_without_sizes(lines: list[str]) -> list[str]:
    """Words of the picture of checkpoints below the name of its run, however lines are broken."""
    words = " ".join(lines)
    return re.sub(r"\(?\b\d+ (B|kB|MB)\b\)?", "", words[words.index("last.safetensors") :]).replace(",", "").split()


@pytest.mark.parametrize("name", FIXED)
def test_a_picture_is_what_the_code_draws(name: str, draw: ModuleType) -> None:
    committed = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    assert said(draw, str(draw.DRAWINGS[name]())) == said(draw, committed), f"run docs/pictures/draw.py {name}"


def test_the_picture_of_checkpoints_names_what_a_run_leaves(draw: ModuleType, trained_run: Path) -> None:
    run = next(trained_run.glob("*/*/ckpts")).parent
    committed = (PICTURES / "checkpoint.svg").read_text(encoding="utf-8")
    drawn, kept = (words_without_sizes(said(draw, text)) for text in (str(draw.records.checkpoint(run)), committed))
    assert drawn == kept, "run docs/pictures/draw.py checkpoint --run <a new run of synthetic/monodepth2_MS>"
    parts = [word for word in drawn if word in ("last.safetensors", "best.safetensors", "depth", "pose", "optim")]
    assert parts[:7] == ["last.safetensors", "depth", "pose", "optim", "best.safetensors", "depth", "pose"]


def test_the_step_is_drawn_from_what_flows(draw: ModuleType) -> None:
    seen = sys.modules["observe"].observe("benchmark/monodepth2_MS")
    assert seen.sees == {"depth": ["target_aug"], "pose": ["target_aug", "supports_aug"]}
    assert {"warp", "support", "target"} <= seen.reads["img_recon"]  # it compares them
    assert "supports" not in seen.reads["disp_smooth"]
    assert {"depth", "projection"} <= seen.reads["warp"]


def test_a_shape_that_is_not_as_its_comment_says_is_noticed(draw: ModuleType) -> None:
    observe = sys.modules["observe"]
    sizes = {"b": 2, "h": 64, "w": 128, "n": 3}
    observe._check_shapes(observe.Batch, {"supports": torch.zeros(2, 3, 3, 64, 128)}, sizes)
    observe._check_shapes(observe.Predictions, {"disp": {1: torch.zeros(2, 1, 32, 64)}}, sizes)
    with pytest.raises(ValueError, match=r"Batch\.supports is \(3, 2, 3, 64, 128\), not \(b n 3 h w\)"):
        observe._check_shapes(observe.Batch, {"supports": torch.zeros(3, 2, 3, 64, 128)}, sizes)
    with pytest.raises(ValueError, match=r"Predictions\.disp"):
        observe._check_shapes(observe.Predictions, {"disp": {1: torch.zeros(2, 1, 64, 128)}}, sizes)


def test_a_draw_without_a_description_is_an_error(draw: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    found = draw.records._seeded()
    monkeypatch.setattr(draw.records, "_seeded", lambda: {**found, "losses/new.forward": ["seed"]})
    with pytest.raises(ValueError, match=r"losses/new\.forward"):
        draw.records.draws()


@pytest.mark.parametrize("path", sorted(PICTURES.glob("*.svg")), ids=lambda path: path.stem)
def test_a_picture_is_small_loads_nothing_and_follows_the_reader(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert len(text) <= 120_000
    assert "prefers-color-scheme:dark" in text
    assert root.findtext(f"{SVG}title")
    assert not re.search(r'(?:href="|url\(|@import)(?!data:)', text)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "title", "style", "rect", "text", "path", "image"),
    }
    width = float(root.attrib["viewBox"].split()[2])
    for box in root.iter(f"{SVG}text"):
        letter = 7.3 if box.attrib["class"] in ("name", "head") else 6.1
        length = letter * len(box.text or "")
        start = float(box.attrib["x"]) - {"start": 0, "middle": length / 2, "end": length}[box.attrib["text-anchor"]]
        assert start > 0, box.text
        assert start + length < width, box.text
