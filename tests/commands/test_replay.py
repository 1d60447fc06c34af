"""`replay` as a user runs it, on capsules made from a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.world import ROOT, SMALL, command
from trainer.build import build_dataset, build_objective
from trainer.checkpoint import Checkpointer, Position
from trainer.config import load_config

pytestmark = pytest.mark.slow

NAME = "step_00000005_rank_0.safetensors"


def capsule(folder: Path, broken: bool) -> Path:
    """A step of a small run; a picture of a broken one holds a NaN."""
    cfg = load_config(
        [ROOT / "cfg/synthetic/monodepth2_MS.yaml"], [ROOT / "cfg/synthetic/default.yaml"], SMALL
    )
    items = [build_dataset(cfg, "train", 42)[i] for i in (0, 3)]
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    if broken:
        batch["target"][1, 0, 5, 5] = torch.nan
    hparams = {"config": cfg.to_dict(), "name": "MS", "version": "1", "seed": 42}
    checkpointer = Checkpointer(folder, hparams, "AbsRel")
    checkpointer.save_capsule(folder / NAME, build_objective(cfg), batch, Position(0, 4, 5), 0, 42, 0)
    return folder / NAME


def test_the_cause_is_named(tmp_path: Path) -> None:
    done = command("launch/replay.py", capsule(tmp_path, broken=True))
    assert done.returncode == 0, done.stderr
    first, *_ = done.stdout.splitlines()
    assert first == (
        f"{NAME}: MS/1, epoch 0, step 5, micro-batch 0, process 0, seed 42; items 0, 3; on cpu, 32 bits"
    )
    assert "\nfirst: the batch: target (1 of 36864 numbers not finite, the others 0" in done.stdout


def test_a_step_that_is_finite_here_says_what_to_try(tmp_path: Path) -> None:
    path = capsule(tmp_path, broken=False)
    for precision in ("32", "bf16"):
        done = command("launch/replay.py", path, "--precision", precision)
        assert done.returncode == 1, done.stderr
        assert f"on cpu, {precision} bits" in done.stdout
        assert "every number of this step is finite here" in done.stdout


def test_what_cannot_be_replayed_is_a_sentence(tmp_path: Path) -> None:
    done = command("launch/replay.py", tmp_path / "none.safetensors")
    assert (done.returncode, "there is no such file" in done.stderr) == (2, True)
    if not torch.cuda.is_available():
        done = command("launch/replay.py", capsule(tmp_path, broken=False), "--device", "cuda")
        assert (done.returncode, "torch sees no GPU here" in done.stderr) == (2, True)
