"""What a run says about its data: items that could not be read are counted once, over all processes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from tests.launch.test_train import scalars
from tests.world import command, run_world
from trainer.recording import Recorder


class Heard:
    """A tracker and a progress display that keep what they are told."""

    def __init__(self) -> None:
        self.written: list[tuple[dict, int]] = []
        self.said: list[str] = []

    def scalars(self, values: dict, step: int) -> None:
        self.written.append((dict(values), step))

    def message(self, text: str) -> None:
        self.said.append(text)


def _each_meets_two(rank: int, world: int) -> None:
    heard = Heard()
    accelerator = SimpleNamespace(num_processes=world, device=torch.device("cpu"))
    recorder = Recorder(accelerator, heard, heard)
    marks = torch.zeros(8, dtype=torch.bool)
    sets = {"train": SimpleNamespace(unreadable=marks), "val": SimpleNamespace(unreadable=None)}
    recorder.unreadable(sets, step=4)
    marks[[1, 2 + rank]] = True  # item 1 was met by both
    recorder.unreadable(sets, step=8)
    recorder.unreadable(sets, step=12)
    tag = "train_data/unreadable"
    assert heard.written == [({tag: 0}, 4), ({tag: 3}, 8), ({tag: 3}, 12)]
    assert [text[:20] for text in heard.said] == ["warning: 3 of 8 trai"]


def test_unreadable_items_are_counted_once_over_processes(tmp_path: Path) -> None:
    run_world(_each_meets_two, 2, tmp_path)


def test_a_run_counts_what_turns_out_damaged(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3), dtype=np.uint8)
    for number, picture in enumerate(noise):
        Image.fromarray(picture).save(frames / f"{number:03}.png")
    whole = bytearray((frames / "004.png").read_bytes())
    whole[1000:9000] = bytes(8000)  # its beginning and its end are whole: only decoding shows it
    (frames / "004.png").write_bytes(whole)
    run = command(
        *("launch/train.py", "-c", "cfg/real/folder.yaml", "-d", "cfg/real/default.yaml"),
        *("-o", tmp_path / "models", "-n", "run", "-v", "1", "--progress", "plain", "--set"),
        *(f"dataset.path={frames}", "dataset.size=[96,64]", "net.depth.enc_name=resnet10t"),
        *("net.pose.enc_name=resnet10t", "trainer.max_epochs=1", "loader.batch_size=2"),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "items could not be read so far" in run.stdout
    assert "004.png" in run.stdout + run.stderr
    written = scalars(tmp_path / "models/run/1")
    assert written["train_data/unreadable"][-1][1] >= 1
