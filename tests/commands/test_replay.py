"""`replay` as a user runs it, on capsules made from a configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.world import ROOT, SMALL
from trainer.build import build_dataset, build_objective
from trainer.checkpoint import Checkpointer
from trainer.checkpoint.state import Position
from trainer.commands.jobs.replay import run
from trainer.commands.replay import main, parse
from trainer.config import load_config
from trainer.data.aspect import AspectRatios, size_of
from trainer.runtime.errors import UserError
from trainer.runtime.seeding import TRAINING

NAME = "step_00000005_rank_0.safetensors"


def capsule(folder: Path, broken: bool, *changes: str) -> Path:
    """A step of a small run; a picture of a broken one holds a NaN."""
    cfg = load_config(
        [ROOT / "cfg/synthetic/monodepth2_MS.yaml"], [ROOT / "cfg/synthetic/default.yaml"], [*SMALL, *changes]
    )
    items = [build_dataset(cfg, "train", 42)[i] for i in (0, 3)]
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    if broken:
        batch["target"][1, 0, 5, 5] = torch.nan
    hparams = {"config": cfg.to_dict(), "name": "MS", "version": "1", "seed": 42}
    checkpointer = Checkpointer(folder, hparams, "AbsRel")
    checkpointer.save_capsule(folder / NAME, build_objective(cfg), batch, Position(0, 4, 5), 0, 42, 0)
    return folder / NAME


def test_the_cause_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(capsule(tmp_path, broken=True)), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"{NAME}: MS/1, epoch 0, step 5, micro-batch 0, process 0, seed 42; items 0, 3; on cpu, 32 bits\n"
    )
    assert "\nfirst: the batch: target (1 of 24576 numbers not finite, the others 0" in out


def test_a_step_that_is_finite_here_says_what_to_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = capsule(tmp_path, broken=False)
    for precision in ("32", "bf16"):
        assert main([str(path), "--device", "cpu", "--precision", precision]) == 1
        out = capsys.readouterr().out
        assert f"on cpu, {precision} bits" in out
        assert "every number of this step is finite here" in out
    if not torch.cuda.is_available():
        assert main([str(path), "--device", "cuda"]) == 2
        assert "torch sees no GPU here" in capsys.readouterr().err


def test_a_missing_capsule_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.safetensors")]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_a_step_is_cropped_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sized(objective: object, batch: dict[str, torch.Tensor], *_: object) -> None:
        raise UserError(f"size {size_of(batch)}")

    monkeypatch.setattr("trainer.commands.jobs.replay.replay", sized)
    path = capsule(tmp_path, False, "trainer.aspect_ratio={prob: 1, ref_size: [192, 128]}")
    batch = {"target": torch.zeros(2, 3, 64, 64)}  # what `capsule` saves, seed 42, step 5
    size = size_of(AspectRatios(prob=1, ref_size=(192, 128))(batch, 42, TRAINING, 5, 0))
    assert size != (64, 64)
    with pytest.raises(UserError, match=re.escape(f"size {size}")):
        run(parse([str(path), "--device", "cpu"]))
