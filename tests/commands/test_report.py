"""The page about runs: one file that asks for nothing, says what it shows, and obeys nothing that it shows."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from tests.world import call, copied_run, refused
from trainer.config import load_config
from trainer.runtime.rundir import RunDir
from trainer.tables.report import page
from trainer.tracking import panels

VOID = {"meta", "link", "img", "br", "input"}
COMMAND = ["/bin/monodepth", "train", "-c", "synthetic/monodepth2_MS", "--set", "trainer.max_epochs=9"]
PROTOCOL = {
    "alignment": "median",
    "crop": "garg",
    "min_depth_m": 0.001,
    "max_depth_m": 80.0,
    "items": 7,
    "dataset": {"type": "synthetic", "mode": "test", "size": [96, 64]},
    "checkpoint": {"file": "best.safetensors"},
    "metrics": {"eigen": {"version": 1, "units": {"abs_rel": "fraction"}, "higher_is_better": []}},
}


class Page(HTMLParser):
    """An HTML file as a browser reads it: its elements, texts, and elements that are not closed in order."""

    def __init__(self, path: Path):
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.odd: list[str] = []
        self._open: list[str] = []
        self.feed(self.text)
        self.close()
        self.odd += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if len(dict(attrs)) < len(attrs):
            self.odd.append(f"{tag} has an attribute twice")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.odd.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.said).split())


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return load_config("synthetic/monodepth2_MS", "synthetic/default", ["trainer.max_epochs=9"]).to_dict()


Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(config: dict[str, Any]) -> Make:
    """Return a function that writes a run as a training leaves it: records, settings, state, a result, a sheet."""

    def make(out: Path, name: str, seed: str, base: float = 0.3, state: str = "finished", **extra: Any) -> Path:
        folder = out / name / seed
        folder.mkdir(parents=True)
        run = RunDir(out, "x", "1")
        run.hparams_path, run.state_path = folder / "hparams.yaml", folder / "state.json"
        hparams = {"config": config, "trainer_version": "0.1.0", "environment": {"device": "cuda (H100)"}}
        run.write_hparams({**hparams, **extra}, COMMAND)
        run.write_state(state, SimpleNamespace(epoch=3, step=300))
        with SummaryWriter(str(folder)) as writer:
            for step in (100, 200, 300):
                writer.add_scalar("val/AbsRel", base + 10 / step, step)
                writer.add_scalar("train/AbsRel", base, step)
                writer.add_scalar("lr/depth", 1e-4, step)
            picture = np.zeros((40, 80, 3), np.uint8)
            boxes = {"input": (0, 0, 40, 40), "prediction": (40, 0, 80, 40)}
            png = panels.encode(picture, [panels.PanelRow("image 1", boxes), panels.PanelRow("image 2", boxes)])
            image = Summary.Image(height=40, width=80, colorspace=3, encoded_image_string=png)
            writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="val/overview", image=image)]), 300)
        (folder / "results").mkdir()
        result = {"format": 1, "mean": {"abs_rel": base}, "protocol": PROTOCOL}
        (folder / "results" / "synthetic_best_median.yaml").write_text(yaml.safe_dump(result))
        return folder

    return make


@pytest.fixture(scope="module")
def experiment(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations of two seeds; nobody may change it."""
    out = tmp_path_factory.mktemp("experiment")
    for name, base in (("good", 0.1), ("poor", 0.5)):
        for i_seed, seed in enumerate(("42", "195")):
            make(out, name, seed, base + 0.01 * i_seed)
    return out


@pytest.fixture(scope="module")
def made(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    out = tmp_path_factory.mktemp("page") / "report.html"
    done = call("report.py", experiment, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"saved: {out} ({out.stat().st_size / 1e6:.1f} MB, 4 runs of 2 names)\n"
    return Page(out)


def report(root: Path, *args: str | Path) -> Page:
    done = call("report.py", root, "--out", root / "page.html", *args)
    assert done.returncode == 0, done.stderr
    return Page(root / "page.html")


def test_it_is_whole_and_asks_for_nothing(made: Page) -> None:
    assert made.odd == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\")|url\(|@import|\bfetch\(|XMLHttpRequest", made.text)
    for tag, attributes in made.elements:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(key) or "#").startswith(("#", "data:")), (tag, attributes)
        assert "style" not in attributes, tag
    (policy,) = (a["content"] for t, a in made.elements if t == "meta" and a.get("http-equiv"))
    rules = dict(rule.split(maxsplit=1) for rule in str(policy).split("; "))
    assert rules["default-src"] == "'none'"
    for kind, element in (("style-src", "style"), ("script-src", "script")):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", made.text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"


def test_it_can_be_read_by_everybody(made: Page) -> None:
    """Pictures and charts have texts, headings are in order, links lead somewhere."""
    ids = Counter(a["id"] for _, a in made.elements if "id" in a)
    assert set(ids.values()) == {1}
    links = [str(a["href"]) for t, a in made.elements if t == "a"]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert all(a.get("alt") for t, a in made.elements if t == "img")
    assert all(a.get("aria-label") for t, a in made.elements if a.get("role") in ("img", "region"))
    levels = [int(t[1]) for t, _ in made.elements if re.fullmatch("h[1-6]", t)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert ("html", {"lang": "en"}) in made.elements


def test_it_shows_results_with_their_protocol_and_how_sure_the_order_is(made: Page) -> None:
    assert "good 2 0.1050 ± 0.0071" in made.words
    assert "alignment median crop garg depth 0.001-80 m items 7" in made.words
    assert "the seeds tell 1 of 1 apart" in made.words
    assert "Evaluations: Abs Rel 0.1050 ± 0.0071, good, the best of 2 (n = 2)" in re.sub(r" (?=[,)])", "", made.words)
    # Validations are there without any evaluation: base + 10 / 300, at the last step.
    assert "good 2 0.1383 ± 0.0071" in made.words
    assert "dataset synthetic val checkpoint step of the best AbsRel alignment median crop none" in made.words


def test_it_shows_what_the_runs_changed_and_how_they_were_made(made: Page) -> None:
    """The page changes a key of its default, the command another; both are found by the recorded command."""
    assert "Beside cfg/synthetic/default.yaml" in made.words
    rows = re.findall(r'<th scope="row">([\w.]+)</th><td class="same">(.*?)</td><td>(.*?)</td>', made.text)
    assert {key: values for key, *values in rows} == {
        "net.pose.enc_name": ["resnet18", "test_resnet"],
        "dataset.supp_idxs": ["[-1, 1]", "[-1, 1, 0]"],
        "optimizer.lr": ["0.0004", "0.0006"],
        "optimizer.group_lr.pose": ["0.001", "0.0015"],
        "scheduler.by": ["(absent)", "step"],
        "scheduler.T_max": ["4", "(absent)"],
        "scheduler.warmup": ["(absent)", "40"],
        "trainer.max_epochs": ["4", "9"],
        "trainer.limit_train_batches": ["140", "150"],
    }
    assert "monodepth train -c synthetic/monodepth2_MS --set trainer.max_epochs=9" in made.words
    assert "device cuda (H100)" in made.words
    assert made.words.count("finished") >= 4
    assert "No warning." in made.words


def test_its_pictures_are_those_of_the_sheet(made: Page) -> None:
    """Of two images the shared input once, and a prediction of each of four runs."""
    pictures = [a for t, a in made.elements if t == "img"]
    shown = Counter((a["data-title"], a["data-run"]) for a in pictures)
    runs = ("good/42", "good/195", "poor/42", "poor/195")
    assert shown == {("Input", ""): 2, **{("Predicted disparity", run): 2 for run in runs}}
    assert {(a["width"], a["height"]) for a in pictures} == {("40", "40")}
    assert "After step 300." in made.words


def test_names_and_settings_of_others_are_texts(make: Make, tmp_path: Path, config: dict[str, Any]) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}\u202e"
    name = "<script>alert(1)<" + "svg onload=x>"
    odd = {"config": {**config, "trainer": {**config["trainer"], evil: evil}}, "environment": {evil: evil}}
    run = make(tmp_path, name, "<b>1", **odd)
    with SummaryWriter(str(run)) as writer:
        writer.add_scalar(f"val_losses/{evil}".replace("/script", "script"), 1.0, 1)
    found = report(tmp_path, "--title", evil)
    assert found.odd == []
    kinds = Counter(tag for tag, _ in found.elements)
    assert kinds["script"] == kinds["figure"] - kinds["img"] + 1  # of each chart its data, and that of the page
    assert not [a for _, a in found.elements if any(key.startswith("on") for key in a)]
    assert not [a for t, a in found.elements if t == "img" and not str(a["src"]).startswith("data:image/jpeg;base64,")]
    assert kinds["b"] == 2  # of the page itself: its leaders
    assert "{{7*7}}" in found.words
    assert "\u202e" not in found.text
    assert name in found.words


def test_what_is_missing_is_said(make: Make, tmp_path: Path) -> None:
    """A run in progress, alone, without results, pictures or settings."""
    run = make(tmp_path, "alone", "42", state="running")
    (run / "results" / "synthetic_best_median.yaml").unlink()
    (run / "hparams.yaml").unlink()
    found = report(run)
    for text in (
        *("1 running", "1 run had not ended when this page was made", "one seed: no spread"),
        *("No evaluations:", "No run has a readable hparams.yaml", "holds no command"),
    ):
        assert text in found.words
    found = report(run, "--pictures", "0")
    assert "Left out as asked" in found.words
    for path in run.glob("events*"):
        path.unlink()
    assert "These runs recorded no pictures" in report(run).words


def test_damage_is_named_and_the_rest_is_shown(make: Make, tmp_path: Path) -> None:
    runs = [make(tmp_path, "model", seed) for seed in ("1", "2")]
    (events,) = runs[0].glob("events*")
    content = bytearray(events.read_bytes())
    content[content.rindex(b"val/AbsRel")] ^= 1
    events.write_bytes(content)
    (runs[1] / "results" / "synthetic_best_median.yaml").write_text("mean: [")
    (runs[1] / "state.json").write_text("{")
    done = call("report.py", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("warning: ") == 3
    found = Page(tmp_path / "report.html")
    for text in ("damaged at byte", "state.json is ignored", "cannot be read as a result file", "1 unknown"):
        assert text in found.words
    assert "val/AbsRel" in found.words


def test_the_health_watch_judges_what_was_recorded(make: Make, tmp_path: Path) -> None:
    run = make(tmp_path, "constant", "1")
    names = ("depth_far", "depth_near", "holes", "disp_variation")
    with SummaryWriter(str(run)) as writer:
        for step in (90, 100, 110, 120, 130):  # from step 100 on, three in a row
            for name in names:
                writer.add_scalar(f"train_health/{name}", 0.0, step)
            writer.add_scalar("train_health/depth_spread", 2.0, step)
            writer.add_scalar("train_health/depth_median", 2.0, step)
    found = report(tmp_path)
    assert "constant/1, step 120. the disparity is constant" in found.words
    assert "Health (1)" in found.words


def test_it_stays_below_its_limit_whatever_the_folder_holds(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise does not compress: where the pictures of three runs do not fit, those of the first do."""
    for seed in "123":
        run = make(tmp_path, "model", seed)
        noise = np.random.default_rng(int(seed)).integers(0, 256, (200, 400, 3)).astype(np.uint8)
        png = panels.encode(noise, [panels.PanelRow("noise", {"prediction": (0, 0, 400, 200)})])
        (run / "results" / "sheet.png").write_bytes(png)
    whole = report(tmp_path)
    assert "Left out" not in whole.words
    monkeypatch.setattr(page, "MOST_BYTES", len(whole.text.encode()) - 1)
    small = report(tmp_path)
    assert len(small.text.encode()) < len(whole.text.encode())
    lost = "model/2, sheet, of monodepth evaluate, model/3, val items, model/3, sheet, of monodepth evaluate"
    assert f"Left out, so that this page stays small: pictures of {lost}" in small.words
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    refused(call("report.py", tmp_path), "is larger than 0.001 MB. Choose --models and --seeds")


def test_options_choose_what_is_shown(experiment: Path, tmp_path: Path) -> None:
    def made(*args: str) -> Page:
        done = call("report.py", experiment, "--out", tmp_path / "page.html", *args)
        assert done.returncode == 0, done.stderr
        return Page(tmp_path / "page.html")

    found = made("--models", "good", "--seeds", "42", "--curves", "lr/depth", "--title", "A title", "-d")
    assert ("h1", {}) in found.elements
    assert "A title 1 run of 1 configuration" in found.words
    assert "Chosen curves lr/depth" in found.words
    assert "val/AbsRel" not in found.words
    assert "poor" not in found.words
    assert "Beside the defaults of the trainer" in found.words
    assert "net.depth.pretrained" in found.words  # false, where the trainer has true
    assert "Beside cfg/benchmark/default.yaml" in made("-d", "benchmark/default").words
    assert "Table 1: synthetic test, best, crop garg" in made("--mix", "alignment").words
    assert "No evaluations:" in made("--file", "other*").words


def test_mistakes_are_one_sentence(experiment: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    refused(call("report.py", tmp_path / "none"), "none: no such folder")
    checkpoint = tmp_path / "a" / "42" / "ckpts" / "best.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    told = f"{checkpoint}: is a file. Name the folder of a run, or one above several, such as {tmp_path / 'a' / '42'}"
    refused(call("report.py", checkpoint), told)
    shutil.rmtree(tmp_path / "a")
    refused(call("report.py", tmp_path, "--out", out), "holds no run")
    refused(call("report.py", experiment, "--out", tmp_path), "is a folder")
    (tmp_path / "file").touch()
    refused(
        call("report.py", experiment, "--out", tmp_path / "file" / "page.html"), "is a file, but a folder is needed"
    )
    for option, wrong, near in (
        ("--models", "god", "good"),
        ("--seeds", "43", "42"),
        ("--curves", "val/AbsRle", "val/AbsRel"),
    ):
        refused(call("report.py", experiment, "--out", out, option, wrong), option, f"Did you mean '{near}'")
    refused(call("report.py", experiment, "--out", out, "-d", "nowhere"), "nowhere: no such file")
    refused(call("report.py", experiment, "--out", out, "--mix", "nothing"), "'nothing' is not a field")
    out.write_text("mine")
    refused(call("report.py", experiment, "--out", out), "exists and is no report. --force replaces it")
    assert out.read_text() == "mine"
    assert call("report.py", experiment, "--out", out, "--force").returncode == 0
    assert call("report.py", experiment, "--out", out).returncode == 0  # its own page is replaced


def test_a_training_leaves_all_that_the_page_shows(trained_run: Path, tmp_path: Path) -> None:
    out = copied_run(trained_run, tmp_path / "out")
    assert (
        call("evaluate.py", "--ckpt", out / "run/1", "--limit", "2", "--sheet", out / "run/1/results/s.png").returncode
        == 0
    )
    found = report(out)
    assert found.odd == []
    titles = {a["data-title"] for t, a in found.elements if t == "img"}
    assert {"Input", "Predicted disparity", "Ground truth", "Error relative to depth", "Warped support"} <= titles
    for text in ("val items", "s, of monodepth evaluate", "Environment", "torch"):
        assert text in found.words
    json.loads(re.findall(r'<script type="application/json">(.*?)</script>', found.text)[0])
