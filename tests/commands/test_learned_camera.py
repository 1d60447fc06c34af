"""A learned camera is measured after each epoch, kept in checkpoints, used for points and named by evaluations."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tests.world import call, train_args
from trainer.checkpoint import Saved, safefile
from trainer.predict import DepthPredictor

LEARNING = ("dataset.train.num_items=2", "trainer.max_epochs=1", "dataset.supp_idxs=[-1, 1]")


def test_the_measured_camera_goes_with_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script, *words = train_args(tmp_path, *LEARNING, "net.pose.learn_K=true", "net.pose.K_init=[0.5, 0.5, 0.5, 0.5]")
    done = call(script, *words)
    assert done.returncode == 0, done.stderr
    assert "camera    learned; the data say fx 0.580 fy 1.920" in done.stdout
    assert "camera learned: field of view 90." in done.stdout or "field of view 89." in done.stdout
    assert "; the data say 81.5 x 29.2" in done.stdout
    assert "camera learned  " in done.stdout.partition("finished")[2]
    run = tmp_path / "run" / "1"
    paths = [run / "ckpts" / f"{name}.safetensors" for name in ("best", "last")]
    cameras = [Saved(path, *safefile.read(path)).camera for path in paths]
    assert cameras[0] == cameras[1]
    assert cameras[0].images == 4
    assert cameras[0].mean == pytest.approx((0.5, 0.5, 0.5, 0.5), abs=0.02)

    Image.new("RGB", (100, 50)).save("a.png")
    K = DepthPredictor.load(run)("a.png").camera.K((100, 50))
    assert torch.tensor(K).diagonal().tolist() == pytest.approx([50, 25, 1], abs=2)
    done = call("launch/evaluate.py", "--ckpt", run, "--limit", "1")
    assert "pictures of the validation; the data say 81.5 horizontally" in done.stdout, done.stderr
