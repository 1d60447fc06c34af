"""The loop of docs/extending/loop.md runs as it stands, and takes the steps of `monodepth train`."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.world import ROOT, SMALL, call
from trainer.checkpoint import load_objective

SETTINGS = ("trainer.max_epochs=2", "scheduler=~", "loss.img_recon={use_automask: true, automask_noise: 1e-3}")


@pytest.mark.slow
def test_the_loop_takes_the_steps_of_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Two epochs, with noise drawn in every step: the weights are the same, byte for byte."""
    page = (ROOT / "docs/extending/loop.md").read_text(encoding="utf-8")
    program = re.search(r"^```python\n(# my_loop.py\n.*?)^```$", page, re.M | re.S)[1]
    small, replaced = re.subn(r"^SETTINGS = .*$", f"SETTINGS = {[*SMALL, *SETTINGS]!r}", program, flags=re.M)
    assert replaced == 1
    (tmp_path / "my_loop.py").write_text(small)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("my_loop.py")
    assert re.findall(r"^step (\d+): img_recon 0\.\d+ disp_smooth \d", capsys.readouterr().out, re.M) == list(
        "12345678"
    )

    pages = ("-c", "synthetic/monodepth2_MS", "-o", "models", "-n", "train", "-v", "1", "--progress", "plain")
    done = call("launch/train.py", *pages, "--set", *SMALL, *SETTINGS)
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_file(f"models/{run}.safetensors") for run in ("my_loop/1/ckpts/best", "train/1/ckpts/last"))
    weights = {name for name in theirs if name.startswith("networks.")}
    assert weights == set(ours)
    assert all(ours[name].equal(theirs[name]) for name in weights)
    assert load_objective("models/my_loop/1").predict_depth(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)
