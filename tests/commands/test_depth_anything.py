"""Depth Anything through the commands: converted, predicted with, trained on, and exported as what it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.models_zoo.depth_anything import as_folder, depth_anything
from tests.world import call, train_args
from trainer.checkpoint import load_objective, safefile
from trainer.predict import DepthPredictor


@pytest.fixture(scope="module")
def model() -> Any:
    return depth_anything()


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_folder(model, tmp_path_factory.mktemp("depth_anything") / "theirs")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    path = folder.parent / "tiny.safetensors"
    done = call("convert", folder, path)
    assert done.returncode == 0, done.stderr
    for text in ("recognised: Depth Anything", "note: dataset.size: [70, 70]", "up to scale and shift", "mask_token"):
        assert text in done.stdout
    return path


def export(checkpoint: Path, out: Path, *options: object) -> str:
    done = call("export", checkpoint, "--format", "transformers", "--out", out, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def predicted(folder: Path, pixels: torch.Tensor) -> torch.Tensor:
    """What the library says without code of this project."""
    from transformers import AutoModelForDepthEstimation

    with torch.no_grad():
        return AutoModelForDepthEstimation.from_pretrained(folder).eval()(pixels).predicted_depth


def test_what_is_exported_is_what_was_converted(checkpoint: Path, folder: Path, model: Any, tmp_path: Path) -> None:
    """Weight by weight, and in the pipeline of the library, at the size of the picture."""
    from transformers import pipeline

    out = tmp_path / "ours"
    said = export(checkpoint, out)
    assert "a Depth Anything model, which needs no code" in said
    assert "images of 70 x 70 pixels, predicted_depth is disparity, its unit relative" in said
    mine, theirs = load_file(out / "model.safetensors"), load_file(folder / "model.safetensors")
    assert mine.keys() == theirs.keys()
    assert [k for k, t in theirs.items() if not torch.equal(mine[k], t) and "mask_token" not in k] == []
    pixels = torch.randn(1, 3, 84, 112)
    with torch.no_grad():
        assert torch.allclose(predicted(out, pixels), model(pixels).predicted_depth, atol=1e-5)
    config, sizes = (json.loads((out / f"{name}config.json").read_text()) for name in ("", "preprocessor_"))
    assert (config["model_type"], config["input_size"], config["max_depth"]) == ("depth_anything", [70, 70], 1)
    assert config["backbone_config"]["out_indices"] == [1, 2, 3, 4]
    assert (sizes["size"], sizes["keep_aspect_ratio"]) == ({"height": 70, "width": 70}, True)
    assert {path.suffix for path in out.iterdir()} == {".json", ".safetensors"}
    picture = Image.fromarray(np.arange(45 * 60 * 3, dtype=np.uint8).reshape(45, 60, 3))
    assert pipeline("depth-estimation", model=str(out))(picture)["predicted_depth"].shape == (45, 60)


def test_predictions_are_relative_at_the_size_of_training(checkpoint: Path) -> None:
    predictor = DepthPredictor.load(checkpoint, device="cpu")
    assert (predictor.size, predictor.scale.unit) == ((70, 70), "relative")
    assert "up to scale and shift" in predictor.scale.origin
    assert predictor(np.zeros((50, 40, 3), np.uint8)).depth.shape == (50, 40)


@pytest.mark.long
def test_metric_stays_metric(tmp_path: Path) -> None:
    model = depth_anything(depth_estimation_type="metric", max_depth=20)
    as_folder(model, tmp_path / "theirs")
    assert call("convert", tmp_path / "theirs", tmp_path / "m.safetensors").returncode == 0
    predictor = DepthPredictor.load(tmp_path / "m.safetensors", device="cpu")
    assert predictor.scale.unit == "m"
    image = torch.rand(1, 3, 42, 56)
    with torch.no_grad():
        theirs = model(predictor.network.depth.standardise(image)).predicted_depth
        assert torch.allclose(predictor.network(image)[1][:, 0], theirs, rtol=1e-4)
    assert "predicted_depth is depth up to 20 m" in export(tmp_path / "m.safetensors", tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert (config["depth_estimation_type"], config["max_depth"]) == ("metric", 20)
    pixels = torch.randn(1, 3, 42, 56)
    with torch.no_grad():
        assert torch.allclose(predicted(tmp_path / "ours", pixels), model(pixels).predicted_depth, rtol=1e-5)


def test_training_goes_on_and_what_comes_out_is_native_too(checkpoint: Path, tmp_path: Path) -> None:
    """With low-rank updates, on stereo pairs, so in metres: the exported disparity is in 1/m.

    The ViT and the unused layer are kept as they were; the updates are in the exported weights.
    """
    before = load_objective(checkpoint).networks["depth"]
    options = (
        "net.depth={enc_name: vit_small_patch14_dinov2, dec_name: dpt, activation: relu, init_disp: null, out_scales:"
        " [0], enc_options: {embed_dim: 32, depth: 4, num_heads: 2, img_size: 70}, dec_options: {neck: [8, 12, 16, 24],"
        " fusion: 16, hidden: 8}, adapter: {type: lora}}"
    )
    args = train_args(tmp_path, options, "net.pose=~", "dataset.supp_idxs=[0]", f"trainer.load_ckpt={checkpoint}")
    done = call("train", *args[1:], "optimizer.group_lr=~", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run" / "1"
    after = load_objective(run / "ckpts" / "best.safetensors").networks["depth"].state_dict()
    same = {name for name, tensor in before.state_dict().items() if torch.equal(after[name], tensor)}
    unused = {name for name in same if ".fusion.0.residual_layer1." in name}
    assert same - unused == {name for name in after if name.startswith("encoder.") and "lora_" not in name}
    assert len(unused) == 4
    assert all(after[name].any() for name in after if name.endswith("lora_B"))
    assert "images of 70 x 70 pixels, predicted_depth is disparity, its unit 1/m" in export(run, tmp_path / "out")
    image = torch.rand(1, 3, 70, 70)
    predictor = DepthPredictor.load(run, device="cpu")
    with torch.no_grad():
        ours = predictor.network(image)[0][:, 0]
        theirs = predicted(tmp_path / "out", predictor.network.depth.standardise(image))
    assert torch.allclose(theirs, ours, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_what_is_no_depth_anything_model_gets_the_folder_with_code(checkpoint: Path, tmp_path: Path) -> None:
    tensors, metadata = safefile.read(checkpoint)
    hparams = json.loads(metadata["hparams"])
    hparams["config"]["net"]["depth"]["activation"] = "sigmoid"
    kept = {key: metadata[key] for key in ("epoch", "batch", "step", "monitor", "metrics") if key in metadata}
    safefile.write(tmp_path / "s.safetensors", tensors, {**kept, "hparams": json.dumps(hparams)})
    said = export(tmp_path / "s.safetensors", tmp_path / "out")
    assert "no Depth Anything model, because activation sigmoid has two limits of depth" in said
    assert (tmp_path / "out" / "modeling_monodepth.py").is_file()
